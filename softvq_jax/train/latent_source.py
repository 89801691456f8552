"""The training latents of a generator run, read from a folder or encoded from images on the fly."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from softvq_jax.data.latents import LatentsInfo, read_info
from softvq_jax.generators.codes import Codes, codes_of, codes_of_tokenizer
from softvq_jax.generators.family import find_family
from softvq_jax.latent_statistics import LatentStatistics, add_latents
from softvq_jax.metrics.feature_statistics import Moments
from softvq_jax.pixels import as_float, from_uint8
from softvq_jax.plurals import counted
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.train.data import Data
from softvq_jax.weights import fingerprints, tokenizer_kinds

STATISTICS_IMAGES = 1024  # images to measure latent statistics on, if the tokenizer has none


@dataclasses.dataclass(frozen=True)
class LatentSource:
    """Converts batches to what a generator is trained on, and converts that back to images.

    A generator is trained on normalized latents `[B, L, D]`, or on code indices `[B, L]` of a discrete tokenizer.

    Attributes:
      statistics: mean and standard deviation of the latents; None for indices.
      tokenizer: encodes and decodes; None for stored latents without sample images.
      from_images: whether batches hold images, not latents.
      fingerprint: fingerprint of the tokenizer that encodes or encoded the latents.
    """

    statistics: LatentStatistics | None
    tokenizer: Tokenizer | None
    from_images: bool
    fingerprint: str

    @property
    def frozen(self) -> dict:
        """The tokenizer's parameters as host arrays, by name."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer.params}

    def require_tokenizer(self) -> Tokenizer:
        """Returns the tokenizer; raises ValueError if there is none."""
        if self.tokenizer is None:
            raise ValueError("stored latents without a tokenizer: set config.tokenizer, which decodes them")
        return self.tokenizer

    def inputs(self, num_tokens: int, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and types of the fields of a batch; see `task.Task`."""
        label = jax.ShapeDtypeStruct((), jnp.int32)
        if self.from_images:
            size = self.require_tokenizer().config.image_size
            return {"image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8), "label": label}
        if self.statistics is None:
            return {"latents": jax.ShapeDtypeStruct((num_tokens,), jnp.int32), "label": label}
        return {"latents": jax.ShapeDtypeStruct((num_tokens, channels), jnp.float32), "label": label}

    def to_latents(self, frozen, batch) -> jax.Array:
        """Returns normalized latents `[B, L, D]` of a batch, or indices `[B, L]`."""
        if not self.from_images:
            return self.from_tokenizer(batch["latents"])
        model, images = self._model(frozen), as_float(batch["image"])
        encoded = model.encode(images) if self.statistics is not None else model.encode_indices(images)
        return self.from_tokenizer(jax.lax.stop_gradient(encoded))

    def from_tokenizer(self, latents) -> jax.Array:
        """Converts a tokenizer's latents to normalized latents, or its indices `[B, C, L/C]` to `[B, L]`."""
        if self.statistics is None:
            return latents.reshape(len(latents), -1)
        return self.statistics.normalize(latents)

    def to_images(self, frozen, latents) -> jax.Array:
        """Decodes normalized latents, or indices `[B, L]`, to images `[B, H, W, 3]` in [-1, 1]."""
        model = self._model(frozen)
        if self.statistics is None:
            shape = codes_of_tokenizer(self.require_tokenizer().config).shape
            images = model.decode_indices(latents.reshape(len(latents), *shape))
        else:
            images = model.decode(self.statistics.denormalize(latents))
        return jnp.clip(images, -1.0, 1.0)

    def _model(self, frozen):
        shape = self.require_tokenizer().config
        return tokenizer_kinds.network(shape)(frozen["tokenizer"])


def open_source(config: ConfigDict, source: Any = None) -> tuple[LatentSource, Data]:
    """Opens the tokenizer and the data of a generator's config, and checks that they fit together.

    Args:
      config: of the run.
      source: images in place of those of `config.data`; see `data.sources.training_source`.

    Raises:
      FileNotFoundError: the tokenizer or the data do not exist.
      ValueError: the latents were made by another tokenizer than `config.tokenizer`, their shape differs from
        `config.model`, or the data have more classes than the generator.
    """
    discrete = find_family(config.model.family).discrete
    tokenizer = open_tokenizer(config.tokenizer, discrete) if config.tokenizer else None
    fingerprint = fingerprints.of_weights(tokenizer.params) if tokenizer else ""
    if config.data.source == "latents":
        info, data = read_info(config.data.path), Data.open(config, None)
        check_tokenizer(info, fingerprint, config.data.path, config.tokenizer)
        check_stored(info, discrete, config)
        sizes: Any = codes_of(info) if discrete else (info.num_tokens, info.channels)
        statistics = None if discrete else statistics_in(info, config.objective.latent_statistics, config.data.path)
        latents = LatentSource(statistics, tokenizer, False, info.tokenizer)
    elif tokenizer is None:
        raise ValueError(f"data.source={config.data.source!r} holds images: set config.tokenizer, which encodes them")
    else:
        shape = tokenizer.config
        sizes = codes_of_tokenizer(shape) if discrete else (shape.num_latent_tokens, shape.latent_dim)
        data = Data.open(config, shape.image_size, fingerprint, source)
        statistics = None if discrete else statistics_of(tokenizer, data, config.objective.latent_statistics)
        latents = LatentSource(statistics, tokenizer, True, fingerprint)
    check_sizes(sizes, config)
    if len(data.source.class_names) > config.model.num_classes:
        raise ValueError(
            f"the data have {counted(len(data.source.class_names), 'class', 'classes')}, the generator labels 0 to "
            f"{config.model.num_classes - 1}: set model.num_classes={len(data.source.class_names)}"
        )
    if data.source.class_names == ("",) and config.model.num_classes > 1:
        raise ValueError(
            f"the data have no classes, and the generator is for model.num_classes={config.model.num_classes}: put the "
            "images in one subfolder per class, or set data.classes='names' or data.label_file; or set model.num_classes=1"
        )
    if len(data.source.class_names) == 1 and config.model.num_classes > 1:
        logging.warning(
            "all data are of one class, %s, and model.num_classes=%d: the others are never trained",
            data.source.class_names[0], config.model.num_classes,
        )  # fmt: skip
    if tokenizer is not None:  # on the devices, the parameters are in the frozen argument of the step
        tokenizer.params = jax.tree.map(np.asarray, tokenizer.params)
    return latents, data


def open_tokenizer(name: str, discrete: bool) -> Tokenizer:
    """Opens `config.tokenizer`.

    Args:
      name: the tokenizer.
      discrete: whether the generator needs a discrete one.

    Raises:
      FileNotFoundError: it does not exist; the message explains how to train one.
    """
    try:
        return Tokenizer.from_pretrained(name)
    except FileNotFoundError as error:
        kind = " --config.model.bottleneck=vq" if discrete else ""
        raise FileNotFoundError(
            f"config.tokenizer={name!r}: {error}; use a folder, a run's workdir or a Hugging Face id, or train one "
            f"first: python -m softvq_jax.main --config=configs/tiny_patches.py{kind} --workdir={name}"
        ) from error


def check_tokenizer(info: LatentsInfo, fingerprint: str, latents: str, tokenizer: str) -> None:
    """Raises ValueError if the latents were not made by the tokenizer that decodes the samples."""
    if fingerprint and fingerprint != info.tokenizer:
        raise ValueError(
            f"the latents in {latents} were made by the tokenizer with fingerprint {info.tokenizer}, but "
            f"config.tokenizer={tokenizer!r} has {fingerprint}: it cannot decode them. Use the tokenizer "
            "that made them, or encode the images again"
        )


def check_stored(info: LatentsInfo, discrete: bool, config: ConfigDict) -> None:
    """Raises ValueError if a folder holds latents and the generator takes indices, or the reverse."""
    if info.discrete != discrete:
        kinds = ("latents", "indices of a discrete tokenizer")
        raise ValueError(
            f"{config.data.path} holds {kinds[info.discrete]}, but a {config.model.family} is for {kinds[discrete]}: "
            f"encode the images again with --store={'indices' if discrete else 'latents'}, or choose another generator"
        )


def check_sizes(sizes: Any, config: ConfigDict) -> None:
    """Raises ValueError if the latents or codes differ from those of `config.model`.

    Args:
      sizes: `Codes`, or number of tokens and channels.
      config: of the run.
    """
    model = config.model
    if isinstance(sizes, Codes):
        expected: Any = codes_of(model)
        ours, theirs, fields = str(expected), str(sizes), sizes._asdict()
    else:
        expected, fields = (model.num_tokens, model.channels), {"num_tokens": sizes[0], "channels": sizes[1]}
        ours, theirs = f"{expected[0]} tokens of {expected[1]} channels", f"{sizes[0]} of {sizes[1]}"
    if sizes != expected:
        *first, last = (f"model.{name}={value}" for name, value in fields.items())
        raise ValueError(
            f"the generator is for {ours}, but the latents are {theirs}: set {', '.join(first)} and {last}, or name "
            "another tokenizer"
        )


def statistics_in(info: LatentsInfo, kind: str, path: str) -> LatentStatistics:
    """Returns the statistics of stored latents.

    Args:
      info: metadata of the folder.
      kind: one of `latent_statistics.KINDS`.
      path: the folder, for messages.

    Raises:
      ValueError: the folder has no statistics of channels.
    """
    if kind == "scalar":
        return LatentStatistics(info.mean, info.std)
    if not (info.channel_means and info.channel_stds):
        raise ValueError(
            f"objective.latent_statistics='channel', but the latents in {path} have no statistics of channels: an older "
            "version encoded them, or a channel is constant. Encode the images again, or set it to 'scalar'"
        )
    return LatentStatistics(info.channel_means, info.channel_stds)


def statistics_of(tokenizer: Tokenizer, data: Data, kind: str) -> LatentStatistics:
    """Returns the tokenizer's latent statistics, else those of the run's first images; the same in every process.

    Args:
      tokenizer: of the latents.
      data: the images.
      kind: one of `latent_statistics.KINDS`; published tokenizers have "scalar" ones.
    """
    if kind == "scalar" and tokenizer.latent_mean is not None and tokenizer.latent_std is not None:
        return LatentStatistics(tokenizer.latent_mean, tokenizer.latent_std)
    count, moments = 0, Moments(tokenizer.config.latent_dim)
    with data.replicated_batches() as batches:
        while count < STATISTICS_IMAGES:
            images = from_uint8(next(batches)["image"])
            add_latents(moments, np.asarray(tokenizer.encode(images)))
            count += len(images)
    return LatentStatistics.from_moments(moments, kind)
