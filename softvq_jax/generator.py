"""The user interface of latent generators: open, sample, save."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from softvq_jax.generators.family import Family, GeneratorConfig, Settings, family_of, read_config
from softvq_jax.generators.sampling import example_keys
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.weights import files, layout

TOKENIZER_FIELD = "tokenizer_fingerprint"  # field of our config.json, for the tokenizer of the training latents


class Generator:
    """A trained latent generator, such as a SiT, DiT or MAR, which maps class labels to latents `[B, L, D]` float32.

    Attributes:
      config: shape of the network.
      params: parameters of the network, including fixed ones, as a tree of arrays.
      statistics: mean and standard deviation by which the training latents were normalized; `sample` inverts this.
      process: SiT's path, or the noise schedule of DiT or MAR.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        params: Mapping[str, Any],
        statistics: LatentStatistics,
        *,
        process: str | None = None,
        published: Mapping[str, Any] | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
    ):
        """Creates a generator from parameters in memory; `from_pretrained` opens files.

        Args:
          config: config of the network; its family must be registered.
          params: parameters of the network.
          statistics: statistics of the training latents.
          process: "linear" or "cosine"; by default the one in `published`, else the family's default.
          published: content of a published `config.json`, which `save_pretrained` writes back.
          extra: tensors of the published layout that the network does not use; `save_pretrained` writes them back.

        Raises:
          ValueError: the process or the family is unknown.
        """
        self.config, self._family = config, family_of(config)
        self.params = jax.tree.map(jnp.asarray, params)
        self.statistics = statistics
        known = self._family.process
        self.process = process or (published or {}).get(self._family.process_field, known.default)
        if not known.allowed.check(self.process):
            raise ValueError(f"process of a {self.family} is {self.process!r}; expected {known.allowed.text}")
        self._published = dict(published or self._family.published_fields(config, self.process))
        self._extra = dict(extra or {})
        self._program = jax.jit(partial(_draw, self._family, config, self.process), static_argnums=0)

    @property
    def family(self) -> str:
        """Name of the family, such as "sit"."""
        return self._family.name

    @property
    def network(self) -> nnx.Module:
        """The network with its parameters."""
        return self._family.network(self.config)(self.params)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        statistics: LatentStatistics | str | os.PathLike | None = None,
        dtype: str = "float32",
        remat: str = "none",
    ) -> "Generator":
        """Opens a folder with `config.json` and `model.safetensors`, a run's workdir, or a Hugging Face id.

        Args:
          name: a local folder, `hf://owner/name` or `owner/name`.
          statistics: statistics of the training latents. Folders of generators trained here contain them; for published
            generators, give the tokenizer (folder or id), which contains them.
          dtype: type of the matmuls.
          remat: see `layers.scan_blocks`.

        Raises:
          FileNotFoundError: the folder or a file in it does not exist.
          WeightsError: the files are damaged, or are not those of a generator of a registered family.
          ValueError: the statistics are neither given nor in the folder.
        """
        folder = find_folder(name)
        for file in ("config.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} has no {file}: not a generator folder")
        published = files.read_json(folder / "config.json")
        statistics = _find_statistics(statistics, published, source=name)
        source = folder / "model.safetensors"
        config_fields = {"dtype": dtype, "remat": remat}
        return cls.from_tensors(files.read_tensors(source), published, statistics, source=str(source), **config_fields)

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, np.ndarray],
        published: Mapping[str, Any],
        statistics: LatentStatistics,
        *,
        source: str,
        dtype: str = "float32",
        remat: str = "none",
    ) -> "Generator":
        """Creates a generator from a state dict in the published naming.

        Args:
          tensors: the state dict.
          published: the content of its `config.json`.
          statistics, dtype, remat: see `from_pretrained`.
          source: name of the tensors' file, for messages.

        Raises:
          WeightsError: the tensors do not fit a registered family.
        """
        config = read_config(tensors, published, dtype=dtype, remat=remat, source=source)
        rules = family_of(config).weight_rules(config)
        params = layout.read(rules, tensors, abstract_params(config), source=source)
        used = {key for rule in rules for key in rule.keys}
        extra = {key: tensor for key, tensor in tensors.items() if key not in used}
        if extra:
            names = ", ".join(sorted(extra))
            logging.info("%s: %d tensors that the generator does not use: %s", source, len(extra), names)
        return cls(config, params, statistics, published=published, extra=extra)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes a folder in the published layout.

        A generator from `from_pretrained` is written back key for key and bit for bit. The statistics of the latents are
        added to `config.json`, so that the folder is complete.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = layout.write(self._family.weight_rules(self.config), self.params) | self._extra
        files.write_safetensors(folder / "model.safetensors", tensors)
        files.write_json(folder / "config.json", self._published | self.statistics.to_fields())

    def sample(
        self,
        labels: jax.Array | Sequence[int],
        *,
        key: jax.Array,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        indices: jax.Array | None = None,
        noise: jax.Array | None = None,
        step_noises: jax.Array | None = None,
        temperature: float | None = None,
        head_steps: int | None = None,
    ) -> jax.Array:
        """Draws latents `[B, L, D]` float32 of the classes `labels`, which `Tokenizer.decode` accepts.

        An example depends on `key`, its index and its label, not on the rest of the batch or the number of devices.
        The first call with new settings compiles.

        Args:
          labels: `[B]` integers in `[0, num_classes)`.
          key: random key, the same for all samples of a set.
          steps: denoising steps (SiT, DiT; 250 by default) or iterations over the tokens (MAR; `L` by default).
          sampler: one of the family's samplers; its first by default.
          guidance: scale `s` of `u + s (c - u)`; 1 is no guidance. For MAR, the scale rises linearly from 1 to `s`.
          guidance_interval: `(low, high)`; guidance is on while `low <= t <= high`, where `t` goes from 1 (noise) to 0
            (SiT, DiT; for DiT `t` is timestep / 1000).
          indices: `[B]`, global indices of the examples; 0, 1, ... by default.
          noise: `[B, L, D]`, the initial noise (SiT, DiT); drawn with `key` by default.
          step_noises: `[steps - 1, B, L, D]`, the noise of every step but the last (SiT's SDE, DiT); drawn by default.
          temperature: factor on the noise of the head's steps (MAR; 1 by default).
          head_steps: denoising steps of each token (MAR; 100 by default).

        Raises:
          ValueError: an argument is out of range, or the sampler does not take it.
        """
        labels = self.check_labels(labels)
        settings = self._settings(sampler, steps, guidance, guidance_interval, head_steps)
        arrays = self._arrays(settings, len(labels), noise=noise, step_noises=step_noises, temperature=temperature)
        indices = jnp.arange(len(labels)) if indices is None else jnp.asarray(indices)
        latents = self._program(settings, self.params, labels, key, indices, guidance, arrays)
        return self.statistics.denormalize(latents)

    def check_options(self, **options: Any) -> None:
        """Checks optional arguments of `sample`, except arrays of noise.

        Raises:
          ValueError: `sample` would raise it.
        """
        defaults = {"sampler": None, "steps": None, "guidance": 1.0, "guidance_interval": (0, 1), "head_steps": None}
        settings = self._settings(*(options.get(name, default) for name, default in defaults.items()))
        self._refuse(settings.sampler, temperature=options.get("temperature"))

    def _settings(self, sampler, steps, guidance, interval, head_steps) -> Settings:
        known = self._family.samplers
        sampler = next(iter(known)) if sampler is None else sampler
        if sampler not in known:
            raise ValueError(f"sampler is {sampler!r}; a {self.family} has {', '.join(known)}")
        low, high = map(float, interval)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval is ({low}, {high}); expected (low, high) with 0 <= low <= high <= 1")
        given_interval = None if (low, high) == (0, 1) else interval
        self._refuse(sampler, guidance_interval=given_interval, head_steps=head_steps)
        if steps is None:
            default = known[sampler].steps
            steps = self.config.num_tokens if default is None else default
        further = {} if head_steps is None else {"head_steps": head_steps}
        return Settings(sampler, steps, guidance != 1, (low, high), **further)

    def _arrays(self, settings, batch, **given) -> dict[str, Any]:
        """Returns, as arrays, the given arguments that the sampler takes."""
        self._refuse(settings.sampler, **given)
        if given["temperature"] is None and "temperature" in self._family.samplers[settings.sampler].takes:
            given["temperature"] = 1.0
        shape = (batch, self.config.num_tokens, self.config.channels)
        for name, expected in (("noise", shape), ("step_noises", (settings.steps - 1, *shape))):
            if given[name] is not None and given[name].shape != expected:
                raise ValueError(f"{name} has shape {given[name].shape}; expected {expected}")
        return {name: jnp.asarray(value, jnp.float32) for name, value in given.items() if value is not None}

    def _refuse(self, sampler, **arguments):
        for name, value in arguments.items():
            if value is not None and name not in self._family.samplers[sampler].takes:
                raise ValueError(f"{name} was given, but sampler {sampler} of a {self.family} does not take it")

    def check_labels(self, labels: jax.Array | np.ndarray | Sequence[int]) -> jax.Array:
        """Returns the labels as int32 `[B]`; raises ValueError if they are not classes of this generator."""
        array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
        if array.ndim != 1 or not len(array) or not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(
                f"labels have shape {array.shape} and type {array.dtype}; expected integers [B], B at least 1"
            )
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= self.config.num_classes:
            last = self.config.num_classes - 1
            raise ValueError(f"labels range from {low} to {high}; this generator has classes 0 to {last}")
        return jnp.asarray(array, jnp.int32)

    def check_fits(self, num_latent_tokens: int, latent_dim: int, fingerprint: str | None = None) -> None:
        """Checks that a tokenizer can decode this generator's latents.

        Args:
          num_latent_tokens, latent_dim: the tokenizer's `L` and `D`.
          fingerprint: fingerprint of the tokenizer's weights, compared with that of the training latents if both are
            known.

        Raises:
          ValueError: the tokenizer cannot decode them.
        """
        if (num_latent_tokens, latent_dim) != (self.config.num_tokens, self.config.channels):
            raise ValueError(
                f"the generator makes {self.config.num_tokens} tokens of {self.config.channels} channels, the "
                f"tokenizer takes {num_latent_tokens} of {latent_dim}: use the tokenizer that it was trained on"
            )
        trained_on = self._published.get(TOKENIZER_FIELD)
        if fingerprint and trained_on and fingerprint != trained_on:
            raise ValueError(
                f"the generator was trained on latents of the tokenizer with fingerprint {trained_on}, but this one has "
                f"{fingerprint}: use the tokenizer that it was trained on"
            )


def find_folder(name: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a generator, given the folder, a run's workdir or a Hugging Face id."""
    folder = files.resolve(name, purpose="generator")
    inner = folder / "generator"
    return inner if (inner / "config.json").is_file() else folder


def abstract_params(config: GeneratorConfig) -> dict[str, Any]:
    """Returns the tree of a generator's parameters, including fixed ones, as `ShapeDtypeStruct`s."""
    family = family_of(config)
    params = family.network(config).shapes | family.fixed(config)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


def _draw(family: Family, config, process, settings, params, labels, key, indices, guidance, arrays):
    network, keys = family.network(config)(params), example_keys(key, indices)
    sampler = family.samplers[settings.sampler]
    return sampler.draw(network, labels, keys, guidance, settings=settings, process=process, **arrays)


def _find_statistics(given, published, source) -> LatentStatistics:
    if isinstance(given, LatentStatistics):
        return given
    if given is not None:
        found = LatentStatistics.from_fields(files.read_json(files.resolve(given, purpose="tokenizer") / "config.json"))
        if found is None:
            raise ValueError(f"the config.json of {given} has no vq_mean and vq_std: give LatentStatistics(mean, std)")
        return found
    found = LatentStatistics.from_fields(published)
    if found is None:
        raise ValueError(
            f"{source} does not carry the statistics of its latents, and without them samples cannot be decoded: give "
            "statistics=<the tokenizer's folder or id, such as SoftVQVAE/softvq-l-64>, or LatentStatistics(mean, std)"
        )
    return found
