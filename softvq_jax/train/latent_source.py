"""Where a generator run's latents come from: a folder of them, or images that the tokenizer encodes on the fly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from softvq_jax.data.latents import LatentsInfo, read_info
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models.functional import Functional
from softvq_jax.models.tokenizer import TokenizerModel
from softvq_jax.pixels import as_float, from_uint8
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.train.data import Data
from softvq_jax.weights import fingerprints

STATISTICS_IMAGES = 1024  # that the statistics are measured on where nothing carries them


@dataclasses.dataclass(frozen=True)
class LatentSource:
    """Latents of a batch, normalised; and images of normalised latents.

    Attributes:
      statistics: of the latents.
      tokenizer: that encodes and decodes; None trains on stored latents without pictures.
      from_images: whether batches hold images.
      fingerprint: of the tokenizer that makes or made the latents.
    """

    statistics: LatentStatistics
    tokenizer: Tokenizer | None
    from_images: bool
    fingerprint: str

    @property
    def frozen(self) -> dict:
        """The tokenizer's parameters as host arrays, by name."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer.params}

    def inputs(self, num_tokens: int, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Fields of a batch; see `task.Task`."""
        label = jax.ShapeDtypeStruct((), jnp.int32)
        if not self.from_images:
            return {"latents": jax.ShapeDtypeStruct((num_tokens, channels), jnp.float32), "label": label}
        size = self.tokenizer.config.image_size
        return {"image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8), "label": label}

    def to_latents(self, frozen, batch) -> jax.Array:
        """Normalised latents `[B, L, D]` of a batch."""
        if not self.from_images:
            return self.statistics.normalize(batch["latents"])
        latents = self._model(frozen).encode(as_float(batch["image"]))
        return self.statistics.normalize(jax.lax.stop_gradient(latents))

    def to_images(self, frozen, latents) -> jax.Array:
        """Normalised latents to images `[B, H, W, 3]` in [-1, 1]."""
        return jnp.clip(self._model(frozen).decode(self.statistics.denormalize(latents)), -1.0, 1.0)

    def _model(self, frozen):
        shape = self.tokenizer.config
        return Functional(lambda rngs: TokenizerModel(shape, rngs=rngs))(frozen["tokenizer"])


def open_source(config: ConfigDict) -> tuple[LatentSource, Data]:
    """What a generator's config names, checked.

    Raises:
      FileNotFoundError: no tokenizer, or no data.
      ValueError: latents of another tokenizer than `config.tokenizer`, or of other sizes than `config.model` says; more
        classes than it says.
    """
    tokenizer = open_tokenizer(config.tokenizer) if config.tokenizer else None
    fingerprint = fingerprints.of_weights(tokenizer.params) if tokenizer else ""
    if config.data.source == "latents":
        info, data = read_info(config.data.path), Data.open(config, None)
        check_tokenizer(info, fingerprint, config.data.path, config.tokenizer)
        sizes, statistics = (info.num_tokens, info.channels), LatentStatistics(info.mean, info.std)
        source = LatentSource(statistics, tokenizer, False, info.tokenizer)
    elif tokenizer is None:
        raise ValueError(f"data.source={config.data.source!r} holds images: set config.tokenizer, which encodes them")
    else:
        data = Data.open(config, tokenizer.config.image_size, fingerprint)
        sizes = tokenizer.config.num_latent_tokens, tokenizer.config.latent_dim
        source = LatentSource(statistics_of(tokenizer, data), tokenizer, True, fingerprint)
    expected = config.model.num_tokens, config.model.channels
    if sizes != expected:
        raise ValueError(
            f"the generator is for {expected[0]} tokens of {expected[1]} channels, but the latents are {sizes[0]} of "
            f"{sizes[1]}: set model.num_tokens={sizes[0]} and model.channels={sizes[1]}, or name another tokenizer"
        )
    if len(data.source.class_names) > config.model.num_classes:
        raise ValueError(
            f"the data have {len(data.source.class_names)} classes, the generator labels 0 to "
            f"{config.model.num_classes - 1}: set model.num_classes={len(data.source.class_names)}"
        )
    if tokenizer is not None:  # the frozen argument of the step will hold it on the devices
        tokenizer.params = jax.tree.map(np.asarray, tokenizer.params)
    return source, data


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that `config.tokenizer` names.

    Raises:
      FileNotFoundError: it is not there; the message says how to make one.
    """
    try:
        return Tokenizer.from_pretrained(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"config.tokenizer={name!r}: {error}\n  name a folder, a run's workdir or a Hugging Face id, or train one "
            f"first: python -m softvq_jax.main --config=configs/tiny.py --workdir={name}"
        ) from error


def check_tokenizer(info: LatentsInfo, fingerprint: str, latents: str, tokenizer: str) -> None:
    """ValueError where latents and the tokenizer that is to decode them do not belong together."""
    if fingerprint and fingerprint != info.tokenizer:
        raise ValueError(
            f"the latents in {latents} were made by the tokenizer with fingerprint {info.tokenizer}, but "
            f"config.tokenizer={tokenizer!r} has {fingerprint}: it cannot decode what is learned from them. Name the "
            "tokenizer that made them, or encode the images again"
        )


def statistics_of(tokenizer: Tokenizer, data: Data) -> LatentStatistics:
    """Those that the tokenizer carries, else measured on the run's first samples, the same in every process."""
    if tokenizer.latent_mean is not None and tokenizer.latent_std is not None:
        return LatentStatistics(tokenizer.latent_mean, tokenizer.latent_std)
    count, sums, numbers = 0, np.zeros(2), 0
    with data.same_everywhere() as batches:
        while count < STATISTICS_IMAGES:
            images = from_uint8(next(batches)["image"])
            latents = np.asarray(tokenizer.encode(images), np.float64)
            count, numbers = count + len(images), numbers + latents.size
            sums += latents.sum(), np.square(latents).sum()
    mean, square = sums / numbers
    return LatentStatistics(float(mean), float(np.sqrt(square - mean**2)))
