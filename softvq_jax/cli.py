"""The command `softvq`, which has the package's tools as subcommands (also: `python -m softvq_jax.tools.NAME`)."""

import difflib
import runpy
import sys
from collections.abc import Sequence

import softvq_jax

COMMANDS = {  # module and description by name
    "train": ("softvq_jax.main", "Train a tokenizer, a generator or a study from a config."),
    "reconstruct": ("softvq_jax.tools.reconstruct", "Reconstruct images with a tokenizer and measure PSNR and SSIM."),
    "tokens": ("softvq_jax.tools.tokens", "Draw pictures of what latent tokens do."),
    "sample": ("softvq_jax.tools.sample", "Draw images from a generator."),
    "denoise": (
        "softvq_jax.tools.denoise",
        "Draw how a generator turns noise into images, as a strip or an animation.",
    ),
    "evaluate": ("softvq_jax.tools.evaluate", "Measure FID and other metrics of images, a tokenizer or a generator."),
    "encode-latents": ("softvq_jax.tools.encode_latents", "Encode a data set into latents for training generators."),
    "prepare-dataset": ("softvq_jax.tools.prepare_dataset", "Convert images to ArrayRecord shards, or verify them."),
    "report": ("softvq_jax.tools.report", "Write the HTML report of a run."),
    "compare": ("softvq_jax.tools.compare", "Write an HTML page with runs or evaluations side by side."),
    "export": ("softvq_jax.tools.export", "Export a checkpoint of a run as a tokenizer or a generator."),
    "aot-compile": ("softvq_jax.tools.aot_compile", "Compile a training step for a TPU slice and report its cost."),
    "random-teacher": (
        "softvq_jax.tools.random_teacher",
        "Write a DINOv2 with random weights, for control experiments.",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a subcommand as `python -m` would run its module.

    Args:
      argv: the program and its arguments; by default those of the process.
    """
    program, *arguments = sys.argv if argv is None else argv
    if not arguments:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    if name == "--version":
        print(f"softvq {softvq_jax.__version__}")
        return
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        print(
            f"softvq: error: unknown command {name!r}; the nearest is {nearest!r}, see softvq --help", file=sys.stderr
        )
        sys.exit(2)
    sys.argv = [program, *rest]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


def usage() -> str:
    """Returns the help text, with one line for each subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {description}" for name, (_, description) in COMMANDS.items()]
    return "\n".join([
        "usage: softvq COMMAND [flags]; softvq COMMAND --help lists the flags",
        "",
        *lines,
        "",
        "example: softvq train --config=tiny --workdir=runs/tiny",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
