"""Measures images: FID and its relatives against a reference, fidelity of reconstructions, use of the codebook.

    # finished samples against a reference batch, its statistics, or a folder
    python -m softvq_jax.tools.evaluate --protocol=adm --reference=VIRTUAL_imagenet256_labeled.npz \
        --samples=samples.npz --inception=pt_inception-2015-12-05-6726825d.pth --out=results
    # reconstructions beside their originals
    python -m softvq_jax.tools.evaluate --protocol=softvq-rfid --reference=originals --samples=reconstructions ...
    # a tokenizer on photographs, reconstructed on the fly
    python -m softvq_jax.tools.evaluate --protocol=softvq-rfid --reference=imagenet/val \
        --tokenizer=SoftVQVAE/softvq-l-64 ...
    # a generator, sampled on the fly
    python -m softvq_jax.tools.evaluate --protocol=adm --reference=VIRTUAL_imagenet256_labeled.npz --num=50000 \
        --generator=SoftVQVAE/sit-xl_softvq-l-64 --tokenizer=SoftVQVAE/softvq-l-64 \
        --guidance=1.75 --guidance_high=0.7 ...

The folder --out gets `evaluation.json`, the sets' statistics as `.npz`, pictures, and every image's rows as they are
measured: after an interruption the same command goes on from there. With several hosts, start it on each.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from absl import app
from absl.flags import argparse_flags

from softvq_jax.data.source import UnreadableImage
from softvq_jax.evaluate import evaluation
from softvq_jax.evaluate.evaluation import Side
from softvq_jax.evaluate.image_sampler import LABELS
from softvq_jax.evaluate.measure import NotFinite, Subject, measure
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.row_cache import Records
from softvq_jax.metrics.feature_statistics import write_statistics
from softvq_jax.metrics.sample_size import TooFewImages, caveat
from softvq_jax.models.inception import FEATURES
from softvq_jax.parallel import distributed, errors
from softvq_jax.progress import Progress
from softvq_jax.report import evaluation_pictures
from softvq_jax.report.text import as_text
from softvq_jax.tools.command_line import add_processes
from softvq_jax.tools.evaluation_inputs import DATA_SOURCES, LPIPS_SOURCE, NEEDS, WEIGHTS_SOURCE, Inputs, open_inputs
from softvq_jax.weights import files


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The command line's flags."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--reference", required=True, help="images (a folder, a pattern, an .npz) or statistics (an .npz)")
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--samples", help="images to evaluate: a folder, a pattern, an .npz")
    samples.add_argument("--tokenizer", help="evaluate what this tokenizer makes of the originals, or of a --generator")
    add("--originals", help="what the samples are reconstructions of (default: the reference images)")
    add("--protocol", choices=PROTOCOLS, default="adm", help="what to measure, and how (default: adm)")
    add("--out", required=True, type=pathlib.Path, help="folder for the results")
    add("--data_source", choices=DATA_SOURCES, help="read --reference and --originals as training's data.source does")
    add("--image_size", type=int, help="centre-crop image files to this size, as ADM does")
    add("--inception", help=f"weights of the FID network:\n{WEIGHTS_SOURCE}\nor the same as .safetensors")
    add("--lpips", nargs="+", default=[], help=f"weights of LPIPS:\n{LPIPS_SOURCE}")
    add("--batch_size", type=int, help="images at a time on each host (default: what suits the devices)")
    add = parser.add_argument_group("samples of a generator").add_argument
    add("--generator", help="evaluate this generator's samples, decoded by --tokenizer")
    add("--num", type=int, default=50_000, help="how many (default: 50,000)")
    add("--labels", choices=LABELS, default="uniform", help="classes at random, or each equally often")
    add("--seed", type=int, default=0, help="of labels and noise")
    add("--sampler", help="default: the generator's usual one")
    add("--steps", type=int, help="default: the generator's usual number")
    add("--guidance", type=float, default=1.0, help="scale (default: 1, none)")
    add("--guidance_low", type=float, default=0.0, help="guide from this time on")
    add("--guidance_high", type=float, default=1.0, help="guide up to this time")
    add_processes(parser)
    args = parser.parse_args(argv[1:])
    if args.generator and not args.tokenizer:
        parser.error("--generator needs the --tokenizer that decodes its latents")
    return args


def main(args: argparse.Namespace) -> int:
    """Runs the command; 1 where the input is at fault, with one line that says how."""
    try:
        distributed.initialize(args.coordinator, args.num_processes, args.process_id)
        run(args)
    except UnreadableImage as error:
        return errors.report(f"evaluate: {error}: copy that image again, or remove it (with its pair, if it has one)")
    except (OSError, ValueError, ImportError) as error:
        return errors.report(f"evaluate: {error}")
    return 0


def run(args: argparse.Namespace) -> dict | None:
    """Measures, prints and writes; returns the report on process 0, None on the others."""
    inputs = open_inputs(args)
    subjects = {"reference": inputs.reference, "samples": inputs.samples}
    for name, subject in subjects.items():
        check_count(name, subject, getattr(args, name))
    details = evaluation.details(inputs.reference, inputs.samples)
    for line in inputs.missing.values():
        note(f"going on without what needs it: {line}")
    if details["weights"]["inception"]:
        note(caveat(len(inputs.samples), FEATURES["f2048"], "samples"))
    note(evaluation.size_warning(details))
    args.out.mkdir(parents=True, exist_ok=True)
    reference_rows = None if inputs.reference is None else measured("reference", inputs.reference, args.out, inputs)
    sample_rows = measured("samples", inputs.samples, args.out, inputs)
    if not distributed.is_main_process():
        return None
    show = MetricProgress()
    if reference_rows is None:
        reference = Side.of_statistics("reference", inputs.statistics)
    else:
        reference = Side.of_records("reference", reference_rows, inputs.statistics, show)
    samples = Side.of_records("samples", sample_rows, on_progress=show)
    protocol = PROTOCOLS[args.protocol]
    report = evaluation.report(
        protocol,
        samples,
        reference,
        details,
        codebook_size=inputs.codebook_size,
        needs=NEEDS | inputs.missing,
        on_progress=show,
    )
    report["pictures"] = evaluation_pictures.draw(args.out, inputs.samples, sample_rows)
    write(args.out, report, reference, samples)
    print(as_text(report))
    return report


def measured(name: str, subject: Subject, out: pathlib.Path, inputs: Inputs) -> Records | None:
    """The rows of all images, on process 0; goes on where an earlier run was interrupted."""
    main = distributed.is_main_process()
    records = Records(out / name, subject.about()) if main else None
    progress = Progress(f"measuring {name}", len(subject), len(records)) if main else lambda done: None
    try:
        measure(subject, records, batch_size=inputs.devices.batch_size, on_progress=progress)
    except NotFinite as error:
        file = inputs.weights[error.network]
        raise ValueError(f"measuring {name}: {error}: look at --{error.network}={file}") from error
    except ValueError as error:
        raise ValueError(f"measuring {name}: {error}") from error
    return records


class MetricProgress:
    """Tells what is computed, and how far that is where it has several parts."""

    def __init__(self):
        self._what = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            note(f"computing {what}")
            self._what, self._show = what, Progress(f"computing {what}", total, unit="parts")
        if total > 1:
            self._show(done)


def check_count(name: str, subject: Subject | None, source: str | None) -> None:
    """Raises TooFewImages where a side has a single image."""
    if subject is not None and len(subject) < 2:
        raise TooFewImages(
            f"the {name} ({source or 'of --num'}) is one image, and there is no covariance of fewer than 2: "
            "name a larger set (FID wants 2,048 or more)"
        )


def write(out: pathlib.Path, report: dict, *sides: Side) -> None:
    """`evaluation.json`, and the statistics that were computed."""
    for side in sides:
        if side.records is not None and side.statistics is not None and side.statistics_fingerprint is None:
            write_statistics(out / f"{side.name}.npz", side.statistics)
    files.write_json(out / "evaluation.json", report)


def note(line: str | None) -> None:
    """Tells something on process 0's error stream, where there is something to tell."""
    if line and distributed.is_main_process():
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
