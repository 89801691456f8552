"""Measures of a trained tokenizer in a study: functions `Trained -> {column: number}`."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from softvq_jax.evaluate.devices import Rows
from softvq_jax.evaluate.encodings import Encodings
from softvq_jax.metrics import probes
from softvq_jax.metrics.codebook import CodebookUsage
from softvq_jax.report import image_grid
from softvq_jax.report.latent_map import draw_map
from softvq_jax.storage import files
from softvq_jax.studies.crops import Crops
from softvq_jax.tokenizer import Tokenizer

SIDES = ("before", "after")  # before and after the bottleneck
PICTURED_NEIGHBORS = 4


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained variant, and the images to measure it on.

    Attributes:
      workdir: folder of the variant's run, to which pictures are written.
      study: the study's config.
      held_out: held-out crops.
      train: training crops.
    """

    workdir: pathlib.Path
    study: ConfigDict
    held_out: Crops
    train: Crops

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer, with the averaged (EMA) weights."""
        return Tokenizer.from_pretrained(self.workdir)

    @functools.cached_property
    def evaluation(self) -> dict:
        """The content of the `evaluation.json` that the run wrote after its last step."""
        return files.read_json(max((self.workdir / "evaluations").glob("step_*/evaluation.json")))

    @functools.cached_property
    def encoded(self) -> tuple[Rows, Rows]:
        """Rows of `Encodings` for the training and the held-out crops."""
        encode = Encodings(self.tokenizer)
        return encode(self.train.images), encode(self.held_out.images)


def reconstruction(trained: Trained) -> dict[str, float]:
    """Returns PSNR, SSIM and (if the run measured it) rFID of held-out images, and the size of the latents."""
    config, metrics = trained.tokenizer.config, trained.evaluation["metrics"]
    columns = {"psnr": "psnr", "ssim_gauss": "ssim_gauss", "rfid": "fid"}
    values = {column: metrics[name] for column, name in columns.items() if metrics.get(name) is not None}
    values["latent_numbers"] = config.num_latent_tokens * config.latent_dim
    if config.discrete:
        values["bits"] = config.num_latent_tokens * math.log2(config.codebook_size)
    return values


def codes(trained: Trained) -> dict[str, float]:
    """Returns usage and perplexity of the codebooks on training crops; for SoftVQ, of the most probable codes."""
    config = trained.tokenizer.config
    if not config.has_codebook:
        return {}
    usage = CodebookUsage(config.num_codebooks, config.codebook_size)
    usage.update(trained.encoded[0]["codes"])
    tokens = len(trained.train) * config.num_latent_tokens // config.num_codebooks
    return {
        "codebook_usage": usage.usage,
        "perplexity": usage.perplexity,
        # The expected usage if tokens drew their codes uniformly at random.
        "codebook_usage_uniform": 1 - (1 - 1 / config.codebook_size) ** tokens,
    }


def posterior(trained: Trained) -> dict[str, float]:
    """Returns the mean of entropy / log K and of the largest probability of SoftVQ's posteriors on held-out images."""
    rows = trained.encoded[1]
    if "posterior_entropy" not in rows:
        return {}
    entropy = float(rows["posterior_entropy"].mean()) / math.log(trained.tokenizer.config.codebook_size)
    return {"posterior_entropy": entropy, "max_probability": float(rows["max_probability"].mean())}


def training(trained: Trained) -> dict[str, float]:
    """Returns the median gradient norm before clipping in the second half of the run, and the maximum over the median."""
    lines = [json.loads(line) for line in (trained.workdir / "metrics.jsonl").read_text().splitlines()]
    norms = np.array([line["generator_grad_norm"] for line in lines if "generator_grad_norm" in line])
    norms = norms[len(norms) // 2 :]
    median = float(np.median(norms))
    return {"grad_norm": median, "grad_norm_peak": float(norms.max()) / max(median, 1e-30)}


def latents(trained: Trained) -> dict[str, float]:
    """Returns the accuracy of a linear probe and of nearest neighbors on held-out images.

    The features are the mean token, and all tokens, before and after the bottleneck. The baselines are the image in 8 x 8
    pixels, and the most frequent class. Returns nothing if the training crops have a single class.
    """
    classes = np.unique(trained.train.labels)
    if len(classes) < 2:
        logging.warning(
            "latents are not probed: all training crops have class %d; probes need at least two classes", classes[0]
        )
        return {}
    train, held_out = trained.encoded
    values = {}
    for side in SIDES:
        for name, vectors in (("pooled", lambda x: x.mean(axis=1)), ("all", lambda x: x.reshape(len(x), -1))):
            accuracies = _accuracies(trained, vectors(train[side]), vectors(held_out[side]))
            values |= {f"{kind}_{name}_{side}": accuracy for kind, accuracy in accuracies.items()}
    accuracies = _accuracies(trained, _thumbnails(trained.train.images), _thumbnails(trained.held_out.images))
    chance = np.unique(trained.held_out.labels, return_counts=True)[1].max() / len(trained.held_out)
    values |= {f"{kind}_pixels": accuracy for kind, accuracy in accuracies.items()}
    return values | {"probe_chance": float(chance)}


def _accuracies(trained, train, held_out):
    labels, truth = trained.train.labels, trained.held_out.labels
    return {
        "probe": float(np.mean(probes.linear_probe(train, labels, held_out) == truth)),
        "knn": float(np.mean(probes.nearest_class(train, labels, held_out) == truth)),
    }


def _thumbnails(images):
    """Averages images over a grid of 8 x 8 cells; returns `[n, 192]`."""
    side = images.shape[1] // 8
    return images.reshape(len(images), 8, side, 8, side, 3).mean(axis=(2, 4)).reshape(len(images), -1)


def latent_pictures(trained: Trained) -> dict[str, float]:
    """Writes `map_*.png` and `neighbors_*.png` of held-out images, before and after the bottleneck; returns no values.

    In the latter, the first row shows held-out images, with the training crops of most similar latents below each.
    """
    train, held_out = trained.encoded
    chosen = np.unique(trained.held_out.labels, return_index=True)[1][: trained.study.images.neighbors]
    for side in SIDES:
        latent_map = draw_map(held_out[side], trained.held_out.images, method=trained.study.map)
        image_grid.save_png(trained.workdir / f"map_{side}.png", latent_map)
        flat = [encoded[side].reshape(len(encoded[side]), -1) for encoded in (train, held_out)]
        neighbors = probes.nearest(flat[0], flat[1][chosen], PICTURED_NEIGHBORS).T
        rows = [trained.held_out.images[chosen], *(trained.train.images[row] for row in neighbors)]
        image_grid.save_png(trained.workdir / f"neighbors_{side}.png", image_grid.rows_grid(rows))
    return {}


MEASURES: dict[str, Callable[[Trained], dict[str, float]]] = {
    function.__name__: function for function in (reconstruction, codes, posterior, training, latents, latent_pictures)
}
