"""Evaluates images: FID and related metrics against a reference, quality of reconstructions, codebook usage.

    # what tools.reconstruct wrote, without any weights: PSNR and SSIM
    python -m softvq_jax.tools.evaluate --protocol=softvq-rfid --reference=reconstructed/originals \\
        --samples=reconstructed/reconstructions --out=results
    # existing samples against a reference batch, its statistics, or a folder
    python -m softvq_jax.tools.evaluate --protocol=adm --reference=VIRTUAL_imagenet256_labeled.npz \\
        --samples=samples.npz --inception=pt_inception-2015-12-05-6726825d.pth --out=results
    # reconstructions of photographs by a tokenizer
    python -m softvq_jax.tools.evaluate --protocol=softvq-rfid --reference=imagenet/val \\
        --tokenizer=SoftVQVAE/softvq-l-64 --inception=pt_inception-2015-12-05-6726825d.pth --out=results
    # samples of a generator
    python -m softvq_jax.tools.evaluate --protocol=adm --reference=VIRTUAL_imagenet256_labeled.npz --num=50000 \\
        --generator=SoftVQVAE/sit-xl_softvq-l-64 --tokenizer=SoftVQVAE/softvq-l-64 --guidance=1.75 \\
        --guidance_high=0.7 --inception=pt_inception-2015-12-05-6726825d.pth --out=results

Writes `evaluation.json`, feature statistics as `.npz`, pictures, and a cache of measured values to the folder --out. The
same command resumes an interrupted run from the cache. With several hosts, start it on each.
"""

import argparse
import sys
from collections.abc import Sequence

from absl.flags import argparse_flags

from softvq_jax.evaluate.evaluator import evaluate
from softvq_jax.evaluate.image_sampler import LABELS
from softvq_jax.evaluate.measure import NotFinite
from softvq_jax.evaluate.predictions import Predictions
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.record import EvaluationRecord, early_warnings
from softvq_jax.metrics.metric import TooFewImages
from softvq_jax.parallel import distributed
from softvq_jax.parallel.start import start
from softvq_jax.progress import StagedProgress
from softvq_jax.report import evaluation_pictures
from softvq_jax.report.text import as_text
from softvq_jax.storage import mirror
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import add_processes, add_reading, add_sampling, run_tool
from softvq_jax.tools.evaluation_inputs import DATA_SOURCES, LPIPS_SOURCE, NEEDS, WEIGHTS_SOURCE, open_inputs


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--reference", required=True, help="images (a folder, a pattern, an .npz) or statistics (an .npz)")
    samples = parser.add_mutually_exclusive_group(required=True)
    samples.add_argument("--samples", help="images to evaluate: a folder, a pattern, an .npz")
    samples.add_argument(
        "--tokenizer", help="evaluate reconstructions by this tokenizer, or decode the samples of --generator"
    )
    add("--originals", help="originals of the reconstructions (default: the reference images)")
    add("--protocol", choices=PROTOCOLS, default="adm", help="metrics and their settings (default: adm)")
    add("--out", required=True, type=as_path, help="folder for the results")
    add("--data_source", choices=DATA_SOURCES, help="read --reference and --originals as training's data.source does")
    add("--image_size", type=int, help="center-crop image files to this size, as ADM does")
    add("--inception", help=f"weights of the FID network:\n{WEIGHTS_SOURCE}\nor the same as .safetensors")
    add("--lpips", nargs="+", default=[], help=f"weights of LPIPS:\n{LPIPS_SOURCE}")
    add("--batch_size", type=int, help="images per host and batch (default: chosen for the devices)")
    add = parser.add_argument_group("samples of a generator").add_argument
    add("--generator", help="evaluate this generator's samples, decoded by --tokenizer")
    add("--num", type=int, default=50_000, help="number of samples (default: 50,000)")
    add("--labels", choices=LABELS, default="uniform", help="random classes, or all classes equally often")
    add("--seed", type=int, default=0, help="seed of labels and noise (default: 0)")
    add_sampling(parser)
    add_reading(parser)
    add_processes(parser)
    args = parser.parse_args(expand_arguments(argv[1:]))
    if args.generator and not args.tokenizer:
        parser.error("--generator needs the --tokenizer that decodes its latents")
    return args


def main(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
      OSError, ValueError, ImportError: the input is wrong, or a file cannot be read or written.
    """
    start(args.coordinator, args.num_processes, args.process_id)
    run(args)


def run(args: argparse.Namespace) -> EvaluationRecord | None:
    """Evaluates, prints and writes the results; returns them on process 0, None in the other processes."""
    inputs = open_inputs(args)
    for name, predictions in (("reference", inputs.reference), ("samples", inputs.samples)):
        check_count(name, predictions, getattr(args, name))
    for line in inputs.missing.values():
        note(f"continuing without the metrics that need it: {line}")
    for line in early_warnings(inputs.samples, inputs.reference):
        note(line)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        found = evaluate(
            inputs.samples,
            inputs.reference,
            PROTOCOLS[args.protocol],
            folder=mirror.work_folder(args.out),
            batch_size=inputs.devices.batch_size,
            statistics=inputs.statistics,
            codebook_size=inputs.codebook_size,
            needs=NEEDS | inputs.missing,
            on_progress=StagedProgress(),
        )
    except NotFinite as error:
        raise ValueError(f"{error}: check --{error.network}={inputs.weights[error.network]}") from error
    if found is not None:
        found.write(
            args.out, evaluation_pictures.draw(args.out, inputs.samples, found.samples.require_rows()), statistics=True
        )
        print(as_text(found.content))
    return found


def check_count(name: str, predictions: Predictions | None, source: str | None) -> None:
    """Raises TooFewImages if a set has a single image."""
    if predictions is not None and len(predictions) < 2:
        raise TooFewImages(
            f"the {name} ({source or 'of --num'}) is one image, but a covariance needs at least 2: "
            "name a larger set (FID needs 2,048 or more)"
        )


def note(line: str) -> None:
    """Prints a line to the error stream of process 0."""
    if distributed.is_main_process():
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_tool(main, parse_flags)
