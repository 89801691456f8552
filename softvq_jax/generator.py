"""A latent generator as a user holds it: open, sample, save."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from softvq_jax.diffusion.paths import PATHS
from softvq_jax.diffusion.schedules import BETAS
from softvq_jax.generators import sampling
from softvq_jax.generators import weights as weights
from softvq_jax.generators.weights import GeneratorConfig
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models.dit import DiT
from softvq_jax.models.mar import MAR
from softvq_jax.weights import files, layout

TOKENIZER_FIELD = "tokenizer_fingerprint"  # in the config.json of ours: whose latents it was trained on
_NETWORKS = {"sit": DiT, "dit": DiT, "mar": MAR}
_PROGRAMS = {"sit": sampling.sample_sit, "dit": sampling.sample_dit, "mar": sampling.sample_mar}
_PROCESSES = {"sit": PATHS, "dit": BETAS, "mar": BETAS}


class Generator:
    """A trained SiT, DiT or MAR: class labels to latents `[B, L, D]` float32, as the tokenizer decodes them.

    Attributes:
      config: shape of the network.
      family: "sit", "dit" or "mar".
      params: the network's parameters and fixed positions, a tree of arrays.
      statistics: what the latents were normalised with; `sample` undoes it.
      process: SiT's path, or DiT's or MAR's noise schedule.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        params: Mapping,
        statistics: LatentStatistics,
        *,
        process: str | None = None,
        published: Mapping | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
    ):
        """From parameters in memory; `from_pretrained` opens files.

        Args:
          process: "linear" or "cosine"; the family's usual one by default.
          published: the content of a published `config.json`, which `save_pretrained` gives back.
          extra: tensors of the published layout that the network does not read, given back as well.

        Raises:
          ValueError: an unknown process.
        """
        self.config, self.family = config, weights.family_of(config)
        self.params = jax.tree.map(jnp.asarray, params)
        self.statistics = statistics
        self.process = weights.process_of(config, published or {}) if process is None else process
        if self.process not in _PROCESSES[self.family]:
            known = ", ".join(_PROCESSES[self.family])
            raise ValueError(f"a {self.family} with process {self.process!r}; expected one of {known}")
        self._published = dict(published or weights.published_fields(config, self.process))
        self._extra = dict(extra or {})
        self._program = jax.jit(partial(_run, network_graphdef(config), self.family, self.process), static_argnums=0)

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
          statistics: of the latents it was trained on. Ours carry them; the published ones do not: name their
            tokenizer (folder or id), whose config has them.
          dtype: type of the matmuls.
          remat: see `layers.scan_blocks`.

        Raises:
          FileNotFoundError: no such folder, or a file is missing in it.
          WeightsError: the files are damaged or are not a generator's.
          ValueError: the statistics are neither in the folder nor given.
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
        published: Mapping,
        statistics: LatentStatistics,
        *,
        source: str,
        dtype: str = "float32",
        remat: str = "none",
    ) -> "Generator":
        """From a state dict in the published naming and the content of its `config.json`."""
        config = weights.config_of(tensors, published, dtype=dtype, remat=remat)
        rules = weights.generator_rules(config)
        params = layout.read(rules, tensors, abstract_params(config), source=source)
        used = {key for rule in rules for key in rule.keys}
        extra = {key: tensor for key, tensor in tensors.items() if key not in used}
        if extra:
            names = ", ".join(sorted(extra))
            logging.info("%s: %d tensors that the generator does not read: %s", source, len(extra), names)
        return cls(config, params, statistics, published=published, extra=extra)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes the published layout: what `from_pretrained` read comes back key for key, bit for bit.

        The statistics are added to `config.json`, so that the folder is complete.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = layout.write(weights.generator_rules(self.config), self.params) | self._extra
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
        """Latents of the classes `labels`, `[B, L, D]`, ready for `Tokenizer.decode`.

        An example depends on `key`, its index and its label, not on its batch or on how many devices share the work.
        The first call with new settings compiles them.

        Args:
          labels: `[B]` integers in `[0, num_classes)`.
          key: of the run.
          steps: denoising steps (SiT, DiT; 250 by default) or iterations over the tokens (MAR; `L` by default).
          sampler: one of the family's `sampling.SAMPLERS`; the first by default.
          guidance: scale `s` of `u + s (c - u)`; 1 is none. MAR's rises to it linearly.
          guidance_interval: `(low, high)`: guide while `low <= t <= high`, `t` from 1 (noise) to 0 (SiT; DiT, whose `t`
            is timestep / 1000).
          indices: `[B]`, the examples' global indices; 0, 1, ... by default.
          noise: `[B, L, D]`, where to start (SiT, DiT), in place of noise drawn with `key`.
          step_noises: `[steps - 1, B, L, D]`, likewise for the noise of every step but the last.
          temperature: factor on the noise of the head's steps (MAR; 1 by default).
          head_steps: denoising steps of each token (MAR; 100 by default).

        Raises:
          ValueError: an argument out of its range, or one that this family or sampler does not take.
        """
        labels = self.check_labels(labels)
        settings = self._settings(sampler, steps, guidance, guidance_interval, head_steps)
        if self.family == "mar":
            self._refuse(noise=noise, step_noises=step_noises)
            inputs = (1.0 if temperature is None else temperature,)
        else:
            self._refuse(temperature=temperature)
            inputs = self._noises(len(labels), settings, noise, step_noises)
        indices = jnp.arange(len(labels)) if indices is None else jnp.asarray(indices)
        latents = self._program(settings, self.params, labels, key, indices, guidance, *inputs)
        return self.statistics.denormalize(latents)

    def check_options(self, **options) -> None:
        """Raises ValueError where `sample` would for these of its further arguments."""
        settings = {"sampler": None, "steps": None, "guidance": 1.0, "guidance_interval": (0, 1), "head_steps": None}
        self._settings(*(options.get(name, default) for name, default in settings.items()))
        if self.family != "mar":
            self._refuse(temperature=options.get("temperature"))

    def _settings(self, sampler, steps, guidance, interval, head_steps) -> sampling.Settings:
        known = sampling.SAMPLERS[self.family]
        sampler = known[0] if sampler is None else sampler
        if sampler not in known:
            raise ValueError(f"sampler {sampler!r}; a {self.family} has {', '.join(known)}")
        low, high = map(float, interval)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval ({low}, {high}); expected (low, high) with 0 <= low <= high <= 1")
        if self.family == "mar":
            self._refuse(guidance_interval=None if (low, high) == (0, 1) else interval)
            steps = self.config.num_tokens if steps is None else steps
        else:
            self._refuse(head_steps=head_steps)
            steps = sampling.DEFAULT_STEPS if steps is None else steps
        head_steps = sampling.DEFAULT_HEAD_STEPS if head_steps is None else head_steps
        return sampling.Settings(sampler, steps, guidance != 1, (low, high), head_steps)

    def _noises(self, batch, settings, noise, step_noises):
        shape = (batch, self.config.num_tokens, self.config.channels)
        if settings.sampler.startswith("ode"):
            self._refuse(step_noises=step_noises)
        expected = {"noise": (noise, shape), "step_noises": (step_noises, (settings.steps - 1, *shape))}
        for name, (array, shape) in expected.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} of shape {array.shape}; expected {shape}")
        return tuple(None if array is None else jnp.asarray(array, jnp.float32) for array, _ in expected.values())

    def _refuse(self, **arguments):
        for name, value in arguments.items():
            if value is not None:
                raise ValueError(f"{name} was given, but this sampler of a {self.family} takes none")

    def check_labels(self, labels: jax.Array | Sequence[int]) -> jax.Array:
        """`labels` as int32; ValueError where they are no classes of this generator."""
        if not isinstance(labels, jax.Array):
            labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels) or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"labels of shape {labels.shape} and type {labels.dtype}; expected [B] integers, B at least 1"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.config.num_classes:
            last = self.config.num_classes - 1
            raise ValueError(f"labels reach from {low} to {high}; this generator has classes 0 to {last}")
        return jnp.asarray(labels, jnp.int32)

    def check_fits(self, num_latent_tokens: int, latent_dim: int, fingerprint: str | None = None) -> None:
        """Raises ValueError where a tokenizer of these sizes cannot decode this generator's latents.

        Args:
          fingerprint: of the tokenizer's weights, compared with that of the latents trained on where both are known.
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
                f"{fingerprint}: its images would be noise"
            )


def find_folder(name: str | os.PathLike) -> pathlib.Path:
    """The folder of a generator that is named by a folder, a run's workdir or a Hugging Face id."""
    folder = files.resolve(name, purpose="generator")
    inner = folder / "generator"
    return inner if (inner / "config.json").is_file() else folder


def network_graphdef(config: GeneratorConfig) -> nnx.GraphDef:
    """The graph definition of a generator's network, to be merged with its parameters."""
    return nnx.split(_abstract(config))[0]


def abstract_params(config: GeneratorConfig) -> dict:
    """The tree of parameters and fixed positions as `ShapeDtypeStruct`s."""
    return nnx.to_pure_dict(nnx.split(_abstract(config))[1])


def _abstract(config):
    network = _NETWORKS[weights.family_of(config)]
    return nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))


def _run(graphdef, family, process, settings, params, labels, key, indices, guidance, *inputs):
    network, keys = nnx.merge(graphdef, params), sampling.example_keys(key, indices)
    return _PROGRAMS[family](network, labels, keys, guidance, *inputs, settings=settings, process=process)


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
