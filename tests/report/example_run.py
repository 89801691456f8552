"""A small workdir with the files of a run and of an evaluation."""

import base64
import io
import json
import pathlib

import numpy as np
from PIL import Image


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes a new `workdir`."""
    (workdir / "images").mkdir(parents=True)
    (workdir / "evaluation").mkdir()
    config = {"task": "tokenizer", "model": {"bottleneck": "softvq", "num_latent_tokens": 32, "latent_dim": 16}}
    (workdir / "config.json").write_text(json.dumps(config))
    with open(workdir / "metrics.jsonl", "w") as file:
        for step in range(1, 401):
            values = {"reconstruction": 1 / step, "gan_generator": -step / 100, "codebook_usage": step / 400}
            values |= {"logits_real": 0.5, "logits_fake": -0.5, "lecam_real": 0.0, "lecam_fake": 0.0}
            file.write(json.dumps({"step": step} | values | {"images_per_second": 100.0 + step % 7}) + "\n")
            if step % 100 == 0:
                file.write(json.dumps({"step": step, "eval_psnr": 20 + step / 100, "eval_images": 16}) + "\n")
    rng = np.random.default_rng(0)
    for step in (100, 200, 300, 400):
        _picture(rng, workdir / "images" / f"reconstructions_{step:07d}.png")
    for name in ("worst", "best", "latent_map"):
        _picture(rng, workdir / "evaluation" / f"{name}.png")
    (workdir / "evaluation" / "evaluation.json").write_text(json.dumps(evaluation()))
    return workdir


def evaluation() -> dict:
    """Returns the JSON values of an `evaluation.json`."""
    return {
        "protocol": {
            "name": "torch-fidelity",
            "description": "generators",
            "network": "Inception-v3",
            "normalization": "(x - 128) / 128",
        },
        "counts": {"samples": 84, "reference": None},
        "fingerprints": {"samples": "84-0123abcd", "reference": "4567"},
        "weights": {"inception": "89ab", "tokenizer": None},
        "crop": {"reference": "ADM centre crop to 64", "samples": "none"},
        "sampling": None,
        "versions": {"jax": "1.2.3"},
        "metrics": {"fid": 12.5, "psnr": None, "codebook_usage": 0.5},
        "absent": {"kid": "KID with subsets of 1000 needs at least 1000 images, and there are 84"},
        "code_profile": [3.0, 2.0, 1.0, 0.0],
        "warnings": ["samples: 84 images for 2,048 features"],
    }


def check_embedded(source: str, path: pathlib.Path) -> None:
    """Asserts that a `data:` URI holds the image at `path`, pixel for pixel."""
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(Image.open(path)))


def _picture(rng, path):
    Image.fromarray(rng.integers(0, 256, (64, 200, 3), dtype=np.uint8)).save(path)
