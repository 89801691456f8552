"""Opens and checks the inputs of `tools.evaluate` before any work is done."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from softvq_jax.data.decoding import Decoding
from softvq_jax.data.folder import list_images
from softvq_jax.data.sources import SOURCES, open_source
from softvq_jax.evaluate import image_sampler
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.extractors import FeatureExtractor, PerceptualDistance
from softvq_jax.evaluate.image_sampler import ImageSampler, draw_labels
from softvq_jax.evaluate.image_sets import Images, SourceImages, open_images
from softvq_jax.evaluate.predictions import ImageSet, Pairs, Predictions, Reconstructions, Samples
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.reconstructor import Reconstructor
from softvq_jax.metrics.feature_statistics import FeatureStatistics, has_images, has_statistics, read_statistics
from softvq_jax.storage.paths import is_remote
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools.command_line import reading, sampling_options
from softvq_jax.weights.pretrained import NETWORKS, load_inception, load_lpips

DATA_SOURCES = tuple(name for name in SOURCES if name != "latents")
WEIGHTS_SOURCE, LPIPS_SOURCE = NETWORKS["inception"].files[0].source, NETWORKS["lpips"].source
NEEDS = {
    "inception": f"needs the Inception weights: --inception, the file being {WEIGHTS_SOURCE}",
    "lpips": f"needs --lpips: {LPIPS_SOURCE}",
}
"""Why metrics are absent if the flag for their weights is not given."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Reference and samples of an evaluation.

    Attributes:
      reference: the reference images; None if only statistics are given.
      statistics: feature statistics of the reference; None computes them from the images.
      samples: the images to evaluate.
      devices: the devices on which the networks run.
      codebook_size: codebook size of the evaluated tokenizer; None without a codebook.
      weights: values of the weights' flags, by network.
      missing: why the weights given by a flag cannot be read, by network.
    """

    reference: ImageSet | None
    statistics: FeatureStatistics | None
    samples: Predictions
    devices: LocalDevices
    codebook_size: int | None
    weights: dict[str, str]
    missing: dict[str, str]


def open_inputs(args: argparse.Namespace) -> Inputs:
    """Opens all inputs given by the flags of `tools.evaluate`.

    Raises:
      FileNotFoundError, ValueError, ImportError: a file is missing, or the flags do not fit together.
    """
    if args.samples:
        check_different("--reference", args.reference, args.samples)
        check_different("--originals", args.originals, args.samples)
    fields = reading(args)
    decoding = Decoding.from_config(fields)
    devices, missing = LocalDevices(args.batch_size), {}
    inception = _unless_missing("inception", load_inception, args.inception, missing)
    extractor = inception and FeatureExtractor(*inception, devices=devices)
    lpips = _unless_missing("lpips", load_lpips, args.lpips, missing)
    perceptual = lpips and PerceptualDistance(*lpips, devices=devices)
    paired = PROTOCOLS[args.protocol].paired or args.originals is not None
    if args.generator or not (args.tokenizer or paired):
        check_extractor(args.protocol, extractor, missing)
    tokenizer = Tokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None
    size = args.image_size or (tokenizer and tokenizer.config.image_size)
    reference = open_photographs(args.reference, size, args.data_source, fields) if has_images(args.reference) else None
    statistics = read_statistics(args.reference) if has_statistics(args.reference) else None
    if args.generator:
        assert tokenizer is not None, "the parser requires it"
        samples = open_generator(args, tokenizer, extractor, devices)
    elif tokenizer or paired:
        originals = open_photographs(args.originals, size, args.data_source, fields) if args.originals else reference
        if originals is None:
            raise ValueError(
                f"{args.reference} holds statistics and no images: give --originals, the images that were reconstructed"
            )
        if tokenizer:
            reconstruct = Reconstructor(tokenizer.config, tokenizer.params, devices=devices)
            samples = Reconstructions(originals, reconstruct, extractor, perceptual)
        else:
            samples = Pairs(originals, open_images(args.samples, args.image_size, decoding), extractor, perceptual)
    else:
        samples = ImageSet(open_images(args.samples, args.image_size, decoding), extractor)
    return Inputs(
        reference=None if reference is None else ImageSet(reference, extractor),
        statistics=statistics,
        samples=samples,
        devices=devices,
        codebook_size=tokenizer and tokenizer.config.codebook_size,
        weights={name: getattr(args, name) for name in ("inception", "tokenizer", "generator")}
        | {"lpips": " ".join(args.lpips)},
        missing=missing,
    )


def _unless_missing(network: str, load: Callable, names, missing: dict[str, str]):
    """Loads the files given by a flag; if one is missing, returns None and adds the reason to `missing`."""
    if not names:
        return None
    try:
        return load(names)
    except FileNotFoundError as error:
        missing[network] = f"the file that --{network} names is missing: {error}"
        return None


def open_photographs(name: str, size: int | None, source: str | None, fields: Mapping[str, Any]) -> Images:
    """Opens the images of the reference or the originals; with `source`, as training opens its data.

    Args:
      name: path of the images.
      size: to crop them to; None leaves them as they are.
      source: as `data.source`; None for image files and arrays.
      fields: how they are read, from `command_line.reading`.

    Raises:
      ValueError: `source` is given without a `size` to crop the photographs to.
    """
    decoding = Decoding.from_config(fields)
    if source is None or name.endswith(".npz"):
        return open_images(name, size, decoding)
    if size is None:
        raise ValueError(f"--data_source={source} holds photographs of any size: give --image_size")
    opened = open_source({"source": source, **fields}, name, fields.get("label_file", ""))
    return SourceImages(opened, size, name=name, decoding=decoding)


def open_generator(
    args: argparse.Namespace, tokenizer: Tokenizer, extractor: FeatureExtractor | None, devices: LocalDevices
) -> Samples:
    """Opens the generator, labels and settings given by the flags."""
    generator = image_sampler.open_generator(args.generator, args.tokenizer)
    labels = draw_labels(args.labels, args.num, generator.config.num_classes, args.seed)
    options = sampling_options(args, discrete=generator.discrete)
    # Interrupted evaluations of older versions have these two always, and are continued only with the same settings.
    always = {"guidance": None, "guidance_interval": [args.guidance_low, args.guidance_high]}
    settings = {"num": args.num, "labels": args.labels, "seed": args.seed, **always, **options}
    sampler = ImageSampler(generator, tokenizer, labels, seed=args.seed, options=options, devices=devices)
    return Samples(sampler, settings, extractor)


def check_different(flag: str, name: str | None, samples: str) -> None:
    """Raises ValueError if `flag` and --samples are the same files, because their distance would be 0."""
    if name is not None and _files(name) == _files(samples):
        raise ValueError(f"{flag} and --samples are both the files of {name}: name two different sets")


def _files(name: str) -> set[str]:
    """Returns the real paths of the image files at a name, or of the name itself if there are none."""
    try:
        found = [name] if name.endswith(".npz") else list_images(name)
    except FileNotFoundError:
        found = [name]
    return {path if is_remote(path) else os.path.realpath(path) for path in found}


def check_extractor(protocol: str, extractor: FeatureExtractor | None, missing: dict[str, str]) -> None:
    """Raises FileNotFoundError or ValueError if no metric could be computed without the network."""
    if extractor is None and "inception" in missing:
        raise FileNotFoundError(f"every metric of protocol {protocol} needs it, and {missing['inception']}")
    if extractor is None:
        raise ValueError(
            f"every metric of protocol {protocol} needs Inception features: give --inception, the file being "
            f"{WEIGHTS_SOURCE}; only pairs (--protocol=softvq-rfid, or --originals) have metrics without it"
        )
