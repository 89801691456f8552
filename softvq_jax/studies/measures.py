"""What a study measures of a trained tokenizer: functions `Trained -> {column: number}`."""

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
from softvq_jax.studies.crops import Crops
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import files

SIDES = ("before", "after")  # of the bottleneck
PICTURED_NEIGHBOURS = 4


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished variant, and the images to measure it on.

    Attributes:
      workdir: of its run; pictures go there.
      study: the study's config.
      held_out, train: crops that were not, and that were, trained on.
    """

    workdir: pathlib.Path
    study: ConfigDict
    held_out: Crops
    train: Crops

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """With the averaged weights."""
        return Tokenizer.from_pretrained(self.workdir)

    @functools.cached_property
    def evaluation(self) -> dict:
        """What the run measured after its last step, as `tools.evaluate` reports it."""
        return files.read_json(max((self.workdir / "evaluations").glob("step_*/evaluation.json")))

    @functools.cached_property
    def encoded(self) -> tuple[Rows, Rows]:
        """`Encodings` of the training and of the held-out crops."""
        encode = Encodings(self.tokenizer)
        return encode(self.train.images), encode(self.held_out.images)


def reconstruction(trained: Trained) -> dict[str, float]:
    """PSNR and SSIM of held-out images, and rFID where the run measured it; and what latents take: numbers, or bits."""
    config, found = trained.tokenizer.config, trained.evaluation["metrics"]
    names = {"psnr": "psnr", "ssim_gauss": "ssim_gauss", "rfid": "fid"}
    values = {name: found[theirs] for name, theirs in names.items() if found.get(theirs) is not None}
    values["latent_numbers"] = config.num_latent_tokens * config.latent_dim
    if config.discrete:
        values["bits"] = config.num_latent_tokens * math.log2(config.codebook_size)
    return values


def codes(trained: Trained) -> dict[str, float]:
    """Use and perplexity of the codebooks over the training crops; of SoftVQ's, the most probable codes'."""
    config = trained.tokenizer.config
    if not config.has_codebook:
        return {}
    usage = CodebookUsage(config.num_codebooks, config.codebook_size)
    usage.update(trained.encoded[0]["codes"])
    tokens = len(trained.train) * config.num_latent_tokens // config.num_codebooks
    return {
        "code_use": usage.usage,
        "perplexity": usage.perplexity,
        # What independent draws from all codes alike would use.
        "code_use_possible": 1 - (1 - 1 / config.codebook_size) ** tokens,
    }


def posterior(trained: Trained) -> dict[str, float]:
    """SoftVQ's posteriors of held-out images: entropy over that of the even distribution, and largest probability."""
    rows = trained.encoded[1]
    if "posterior_entropy" not in rows:
        return {}
    entropy = float(rows["posterior_entropy"].mean()) / math.log(trained.tokenizer.config.codebook_size)
    return {"posterior_entropy": entropy, "max_probability": float(rows["max_probability"].mean())}


def training(trained: Trained) -> dict[str, float]:
    """Gradients before clipping, over the second half of the run: their median norm, and how far its peaks rise."""
    lines = [json.loads(line) for line in (trained.workdir / "metrics.jsonl").read_text().splitlines()]
    norms = np.array([line["generator_grad_norm"] for line in lines if "generator_grad_norm" in line])
    norms = norms[len(norms) // 2 :]
    median = float(np.median(norms))
    return {"grad_norm": median, "grad_norm_peak": float(norms.max()) / max(median, 1e-30)}


def latents(trained: Trained) -> dict[str, float]:
    """Share of held-out images whose class a linear probe and nearest neighbours find in the latents.

    On the mean token and on all tokens together, before and after the bottleneck; and, to compare, in 8 x 8 pixels, and
    by always naming the most frequent class. Nothing where there is one class, of which every guess is right.
    """
    classes = np.unique(trained.train.labels)
    if len(classes) < 2:
        logging.warning(
            "no probes of latents: all training crops have class %d; they need data with classes", classes[0]
        )
        return {}
    train, held_out = trained.encoded
    values = {}
    for side in SIDES:
        for name, vectors in (("pooled", lambda x: x.mean(axis=1)), ("all", lambda x: x.reshape(len(x), -1))):
            found = _classified(trained, vectors(train[side]), vectors(held_out[side]))
            values |= {f"{kind}_{name}_{side}": share for kind, share in found.items()}
    found = _classified(trained, _small(trained.train.images), _small(trained.held_out.images))
    chance = np.unique(trained.held_out.labels, return_counts=True)[1].max() / len(trained.held_out)
    return values | {f"{kind}_pixels": share for kind, share in found.items()} | {"probe_chance": float(chance)}


def _classified(trained, train, held_out):
    labels, truth = trained.train.labels, trained.held_out.labels
    return {
        "probe": float(np.mean(probes.linear_probe(train, labels, held_out) == truth)),
        "knn": float(np.mean(probes.nearest_class(train, labels, held_out) == truth)),
    }


def _small(images):
    """Means over 8 x 8 equal parts, `[n, 192]`."""
    side = images.shape[1] // 8
    return images.reshape(len(images), 8, side, 8, side, 3).mean(axis=(2, 4)).reshape(len(images), -1)


def latent_pictures(trained: Trained) -> dict[str, float]:
    """Draws `map_*.png` and `neighbours_*.png` of held-out images, before and after the bottleneck; gives no numbers.

    In the latter the first row are images, and under each lie the training crops with the most similar latents.
    """
    train, held_out = trained.encoded
    chosen = np.unique(trained.held_out.labels, return_index=True)[1][: trained.study.images.neighbours]
    for side in SIDES:
        latent_map = draw_map(held_out[side], trained.held_out.images, method=trained.study.map)
        image_grid.save_png(trained.workdir / f"map_{side}.png", latent_map)
        flat = [rows[side].reshape(len(rows[side]), -1) for rows in (train, held_out)]
        found = probes.nearest(flat[0], flat[1][chosen], PICTURED_NEIGHBOURS).T
        shown = [trained.held_out.images[chosen], *(trained.train.images[row] for row in found)]
        image_grid.save_png(trained.workdir / f"neighbours_{side}.png", image_grid.rows_grid(shown))
    return {}


MEASURES: dict[str, Callable[[Trained], dict[str, float]]] = {
    function.__name__: function for function in (reconstruction, codes, posterior, training, latents, latent_pictures)
}
