"""Measures images: FID and its relatives against a reference, fidelity of reconstructions, use of the codebook.

    # finished samples against a reference batch, its statistics, or a folder
    python -m softvq_jax.tools.evaluate --protocol=adm --reference=VIRTUAL_imagenet256_labeled.npz \
        --samples=samples.npz --inception=pt_inception-2015-12-05-6726825d.pth --out=results
    # reconstructions beside their originals
    python -m softvq_jax.tools.evaluate --protocol=softvq-rfid --reference=originals --samples=reconstructions ...
    # a tokenizer on photographs, reconstructed on the fly
    python -m softvq_jax.tools.evaluate --protocol=softvq-rfid --reference=imagenet/val \
        --tokenizer=SoftVQVAE/softvq-l-64 ...

The folder --out gets `evaluation.json`, the sets' statistics as `.npz`, pictures, and every image's rows as they are
measured: after an interruption the same command goes on from there. With several hosts, start it on each.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from importlib import metadata

import numpy as np
from absl import app
from absl.flags import argparse_flags

from softvq_jax.data.source import UnreadableImage
from softvq_jax.evaluate import evaluation, pictures
from softvq_jax.evaluate.counts import caveat, require
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluation import Side
from softvq_jax.evaluate.features import FeatureExtractor
from softvq_jax.evaluate.images import Images, open_images
from softvq_jax.evaluate.measure import Subject, measure
from softvq_jax.evaluate.perceptual import PerceptualDistance
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.reconstruction import Reconstructor
from softvq_jax.evaluate.records import Records
from softvq_jax.evaluate.statistics import Statistics, has_images, has_statistics, read_statistics, write_statistics
from softvq_jax.evaluate.subjects import ImageSet, Pairs, Reconstructions, about_images
from softvq_jax.evaluate.text import as_text
from softvq_jax.models.functional import Functional
from softvq_jax.models.inception import FEATURES
from softvq_jax.models.lpips import LPIPS
from softvq_jax.parallel import distributed
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools.progress import Progress
from softvq_jax.weights import files, frozen
from softvq_jax.weights.inception import WEIGHTS_SOURCE, load_inception

NUM_PICTURES = 8


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The command line's flags."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--reference", required=True, help="images (a folder, a pattern, an .npz) or statistics (an .npz)")
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--samples", help="images to evaluate: a folder, a pattern, an .npz")
    samples.add_argument("--tokenizer", help="evaluate what this tokenizer makes of the originals")
    add("--originals", help="what the samples are reconstructions of (default: the reference images)")
    add("--protocol", choices=PROTOCOLS, default="adm", help="what to measure, and how (default: adm)")
    add("--out", required=True, type=pathlib.Path, help="folder for the results")
    add("--image_size", type=int, help="centre-crop image files to this size, as ADM does")
    add("--inception", help=f"weights of the FID network:\n{WEIGHTS_SOURCE}\nor the same as .safetensors")
    add("--lpips", nargs="+", default=[], help="weights of LPIPS: VGG16's file, and that of the heads")
    add("--batch_size", type=int, help="images at a time on each host (default: what suits the devices)")
    add("--coordinator", help="host:port of process 0, where several processes are not detected")
    add("--num_processes", type=int, help="where several processes are not detected")
    add("--process_id", type=int, help="where several processes are not detected")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> int:
    """Runs the command; 1 where the input is at fault, with one line that says how."""
    try:
        distributed.initialize(args.coordinator, args.num_processes, args.process_id)
        run(args)
    except (OSError, ValueError, ImportError, UnreadableImage) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> dict | None:
    """Measures, prints and writes; returns the report on process 0, None on the others."""
    check_different(args.reference, args.samples)
    args.out.mkdir(parents=True, exist_ok=True)
    nets = Networks.open(args)
    size = args.image_size or (nets.tokenizer and nets.tokenizer.config.image_size)
    images, known = open_reference(args.reference, size)
    subject = open_subject(args, open_images(args.originals, size) if args.originals else images, nets)
    require(len(subject), 2, "an evaluation")
    note(caveat(len(subject), FEATURES["f2048"], "samples"))
    rows = None if images is None else measured("reference", ImageSet(images, nets.inception), args.out, nets)
    sample_rows = measured("samples", subject, args.out, nets)
    if not distributed.is_main_process():
        return None
    note("computing the metrics")
    reference = Side.of_statistics("reference", known) if rows is None else Side.of_records("reference", rows, known)
    samples = Side.of_records("samples", sample_rows)
    report = evaluation.report(
        PROTOCOLS[args.protocol],
        samples,
        reference,
        details(nets, images, subject),
        codebook_size=nets.tokenizer and nets.tokenizer.config.codebook_size,
    )
    write(args.out, report, subject, reference, samples)
    print(as_text(report))
    return report


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks that measure, each None where its weights were not given."""

    devices: LocalDevices
    inception: FeatureExtractor | None
    lpips: PerceptualDistance | None
    tokenizer: Reconstructor | None

    @classmethod
    def open(cls, args: argparse.Namespace) -> "Networks":
        """Loads the weights that the command names."""
        devices = LocalDevices(args.batch_size)
        inception = lpips = tokenizer = None
        if args.inception:
            inception = FeatureExtractor(*load_inception(args.inception), devices=devices)
        if args.lpips:
            lpips = PerceptualDistance(*load_lpips(args.lpips), devices=devices)
        if args.tokenizer:
            opened = Tokenizer.from_pretrained(args.tokenizer)
            tokenizer = Reconstructor(opened.config, opened.params, devices=devices)
        return cls(devices, inception, lpips, tokenizer)

    def fingerprints(self) -> dict[str, str | None]:
        """By name; None for what is not there."""
        nets = {"inception": self.inception, "lpips": self.lpips, "tokenizer": self.tokenizer}
        return {name: net and net.fingerprint for name, net in nets.items()}


def load_lpips(names: Sequence[str]) -> tuple[Functional, dict]:
    """LPIPS and its parameters from one file or several."""
    net, tensors = Functional(lambda rngs: LPIPS(rngs=rngs)), {}
    for name in names:
        tensors |= files.read_tensors(files.resolve(name, purpose="LPIPS weights"))
    return net, frozen.read_lpips(tensors, net.shapes, source=" with ".join(names))


def open_reference(name: str, size: int | None) -> tuple[Images | None, Statistics | None]:
    """The reference's images and statistics; a reference batch may have both."""
    return open_images(name, size) if has_images(name) else None, read_statistics(name) if has_statistics(
        name
    ) else None


def open_subject(args: argparse.Namespace, originals: Images | None, nets: Networks) -> Subject:
    """What the command wants evaluated; `originals` are the images that it may be a reconstruction of."""
    paired = PROTOCOLS[args.protocol].paired or args.originals is not None
    if (nets.tokenizer or paired) and originals is None:
        raise ValueError(f"{args.reference} holds statistics and no images: give --originals, what to compare with")
    if nets.tokenizer:
        return Reconstructions(originals, nets.tokenizer, nets.inception, nets.lpips)
    samples = open_images(args.samples, args.image_size)
    if paired:
        return Pairs(originals, samples, nets.inception, nets.lpips)
    if nets.inception is None:
        raise ValueError(
            f"every metric of protocol {args.protocol} is made of Inception features: give --inception, the file being "
            f"{WEIGHTS_SOURCE}; pairs alone (--protocol=softvq-rfid, or --originals) have metrics without it"
        )
    return ImageSet(samples, nets.inception)


def check_different(reference: str, samples: str | None) -> None:
    """Raises ValueError where the two are one folder or file: FID would be 0 and say nothing."""
    if samples is not None and os.path.realpath(reference) == os.path.realpath(samples):
        raise ValueError(f"--reference and --samples are both {os.path.realpath(reference)}: name two different sets")


def measured(name: str, subject: Subject, out: pathlib.Path, nets: Networks) -> Records | None:
    """The rows of all images, on process 0; goes on where an earlier run was interrupted."""
    main = distributed.is_main_process()
    records = Records(out / name, subject.about()) if main else None
    progress = Progress(f"measuring {name}", len(subject), len(records)) if main else lambda done: None
    measure(subject, records, batch_size=nets.devices.batch_size, on_progress=progress)
    return records


def details(nets: Networks, reference: Images | None, subject: Subject) -> dict:
    """What the numbers depend on beside the protocol and the images themselves."""
    return {
        "weights": nets.fingerprints(),
        "sources": {"reference": reference and about_images(reference), "samples": subject.about()},
        "crop": {"reference": reference.crop() if reference else "unknown", "samples": subject.crop()},
        "versions": {package: metadata.version(package) for package in ("jax", "numpy")},
    }


def write(out: pathlib.Path, report: dict, subject: Subject, *sides: Side) -> None:
    """`evaluation.json`, statistics of the sides that were measured, pictures."""
    for side in sides:
        if side.records is not None and side.statistics is not None:
            write_statistics(out / f"{side.name}.npz", side.statistics)
    if "psnr" in report["metrics"]:
        order = np.argsort(sides[-1].records["psnr"][:])
        for name, rows in (("worst", order[:NUM_PICTURES]), ("best", order[::-1][:NUM_PICTURES])):
            pictures.save_png(out / f"{name}.png", pictures.pairs_grid(*subject.pictures(rows)))
    files.write_json(out / "evaluation.json", report)


def note(line: str | None) -> None:
    """Tells something on process 0's error stream, where there is something to tell."""
    if line and distributed.is_main_process():
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
