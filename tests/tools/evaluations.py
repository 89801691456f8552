"""Runs `tools.evaluate` on small images."""

import json

from PIL import Image

from softvq_jax.tools import evaluate
from softvq_jax.tools.command_line import exit_code

SIZE = 32


def save_folder(path, images):
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def run(*flags):
    return exit_code(evaluate.main, evaluate.parse_flags(["evaluate", *map(str, flags)]))


def report_in(out):
    return json.loads((out / "evaluation.json").read_text())
