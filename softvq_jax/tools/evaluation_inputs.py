"""What `tools.evaluate` works on, opened and checked before any work is done."""

import argparse
import dataclasses
import os
from collections.abc import Sequence

from softvq_jax.evaluate import generation
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.features import FeatureExtractor
from softvq_jax.evaluate.generation import ImageSampler, draw_labels
from softvq_jax.evaluate.images import open_images
from softvq_jax.evaluate.measure import Subject
from softvq_jax.evaluate.perceptual import PerceptualDistance
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.reconstruction import Reconstructor
from softvq_jax.evaluate.statistics import Statistics, has_images, has_statistics, read_statistics
from softvq_jax.evaluate.subjects import ImageSet, Pairs, Reconstructions, Samples
from softvq_jax.models.functional import Functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import files, frozen
from softvq_jax.weights.inception import WEIGHTS_SOURCE, load_inception


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The two sides of an evaluation.

    Attributes:
      reference: its images, None where there are only statistics.
      statistics: of the reference, None where they are to be computed.
      samples: what is evaluated.
      devices: what it runs on.
      codebook_size: of the tokenizer that is evaluated, if one is.
    """

    reference: ImageSet | None
    statistics: Statistics | None
    samples: Subject
    devices: LocalDevices
    codebook_size: int | None


def open_inputs(args: argparse.Namespace) -> Inputs:
    """Opens what the flags of `tools.evaluate` name.

    Raises:
      FileNotFoundError, ValueError, ImportError: something is not there, or does not fit.
    """
    check_different(args.reference, args.samples)
    devices = LocalDevices(args.batch_size)
    extractor = FeatureExtractor(*load_inception(args.inception), devices=devices) if args.inception else None
    perceptual = PerceptualDistance(*load_lpips(args.lpips), devices=devices) if args.lpips else None
    tokenizer = Tokenizer.from_pretrained(args.tokenizer) if args.tokenizer else None
    size = args.image_size or (tokenizer and tokenizer.config.image_size)
    reference = open_images(args.reference, size) if has_images(args.reference) else None
    statistics = read_statistics(args.reference) if has_statistics(args.reference) else None
    paired = PROTOCOLS[args.protocol].paired or args.originals is not None
    if args.generator:
        check_extractor(args.protocol, extractor)
        samples = open_generator(args, tokenizer, extractor, devices)
    elif tokenizer or paired:
        originals = open_images(args.originals, size) if args.originals else reference
        if originals is None:
            raise ValueError(f"{args.reference} holds statistics and no images: give --originals, what to compare with")
        if tokenizer:
            reconstruct = Reconstructor(tokenizer.config, tokenizer.params, devices=devices)
            samples = Reconstructions(originals, reconstruct, extractor, perceptual)
        else:
            samples = Pairs(originals, open_images(args.samples, args.image_size), extractor, perceptual)
    else:
        check_extractor(args.protocol, extractor)
        samples = ImageSet(open_images(args.samples, args.image_size), extractor)
    return Inputs(
        reference=None if reference is None else ImageSet(reference, extractor),
        statistics=statistics,
        samples=samples,
        devices=devices,
        codebook_size=tokenizer and tokenizer.config.codebook_size,
    )


def open_generator(
    args: argparse.Namespace, tokenizer: Tokenizer, extractor: FeatureExtractor | None, devices: LocalDevices
) -> Samples:
    """A generator with the labels and settings that the flags ask for."""
    generator = generation.open_generator(args.generator, args.tokenizer)
    labels = draw_labels(args.labels, args.num, generator.config.num_classes, args.seed)
    options = {"guidance": args.guidance, "guidance_interval": [args.guidance_low, args.guidance_high]}
    options |= {name: getattr(args, name) for name in ("sampler", "steps") if getattr(args, name) is not None}
    settings = {"num": args.num, "labels": args.labels, "seed": args.seed, **options}
    sampler = ImageSampler(generator, tokenizer, labels, seed=args.seed, options=options, devices=devices)
    return Samples(sampler, settings, extractor)


def load_lpips(names: Sequence[str]) -> tuple[Functional, dict]:
    """LPIPS and its parameters from one file or several."""
    net, tensors = Functional(lambda rngs: LPIPS(rngs=rngs)), {}
    for name in names:
        tensors |= files.read_tensors(files.resolve(name, purpose="LPIPS weights"))
    return net, frozen.read_lpips(tensors, net.shapes, source=" with ".join(names))


def check_different(reference: str, samples: str | None) -> None:
    """Raises ValueError where the two are one folder or file: FID would be 0 and say nothing."""
    if samples is not None and os.path.realpath(reference) == os.path.realpath(samples):
        raise ValueError(f"--reference and --samples are both {os.path.realpath(reference)}: name two different sets")


def check_extractor(protocol: str, extractor: FeatureExtractor | None) -> None:
    """Raises ValueError where nothing could be measured without the network."""
    if extractor is None:
        raise ValueError(
            f"every metric of protocol {protocol} is made of Inception features: give --inception, the file being "
            f"{WEIGHTS_SOURCE}; pairs alone (--protocol=softvq-rfid, or --originals) have metrics without it"
        )
