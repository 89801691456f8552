"""The user interface of latent generators: open, sample, save."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax import user_arrays
from softvq_jax.diffusion import states
from softvq_jax.generators import files as generator_files
from softvq_jax.generators.codes import codes_of, codes_of_tokenizer
from softvq_jax.generators.family import Family, GeneratorConfig, family_of
from softvq_jax.generators.files import OpenedGenerator, abstract_params
from softvq_jax.generators.options import check_temperature, refuse, sampling_arrays, sampling_settings
from softvq_jax.generators.sampling import example_keys
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models.layers import unstack_for_loop
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.parallel.mesh import call_with_auto_axes
from softvq_jax.plurals import counted
from softvq_jax.weights import hub
from softvq_jax.weights.published_files import PublishedFiles

TOKENIZER_FIELD = "tokenizer_fingerprint"  # field of our config.json: the tokenizer of the training latents
CLASS_NAMES_FIELD = "class_names"  # field of our config.json: names of the training data's classes by label


class Generator(hub.PushToHub):
    """A trained latent generator, which maps class labels to latents.

    SiT, DiT and MAR make latents `[B, L, D]` float32, for `Tokenizer.decode`. A MaskGIT is discrete: it makes code indices
    `[B, C, L/C]` int32, for `Tokenizer.decode_indices`.

    A generator is a pytree: its leaves are the parameters, and everything else is static. It can be an argument of
    `jax.jit` and be sharded by `jax.device_put`. `sample` can be traced: inside `jax.jit` and `jax.shard_map` it checks
    shapes and types, but not values. It runs on any mesh; samples are sharded like `labels`.

    Attributes:
      config: shape of the network.
      params: parameters of the network, including fixed ones, as a tree of arrays.
      statistics: mean and standard deviation by which the training latents were normalized; `sample` inverts this. None
        for a discrete generator.
      process: SiT's path, or the noise schedule of DiT or MAR.
      family: name of the family, such as "sit".
      class_names: names of the classes by label.
      discrete: whether it makes code indices.
      network: the NNX module with these parameters.
    """

    pipeline_tag = "unconditional-image-generation"

    def __init__(
        self,
        config: GeneratorConfig,
        params: Mapping[str, Any],
        statistics: LatentStatistics | None,
        *,
        process: str | None = None,
        published: Mapping[str, Any] | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        dtypes: Mapping[str, np.dtype] | None = None,
        unused_rows: Mapping[str, np.ndarray] | None = None,
        param_dtype: str = "float32",
    ):
        """Creates a generator from parameters in memory; `from_pretrained` opens files.

        Args:
          config: config of the network; its family must be registered.
          params: parameters of the network.
          statistics: statistics of the training latents; a discrete generator has none.
          process: "linear" or "cosine"; by default the one in `published`, else the family's default.
          published: content of a published `config.json`, which `save_pretrained` writes back.
          extra: tensors of the published layout that the network does not use; `save_pretrained` writes them back.
          dtypes: dtypes of published tensors other than float32.
          unused_rows: rows of published tensors that the network does not use, their second halves.
          param_dtype: dtype of the stored parameters; computations convert them to float32.

        Raises:
          ValueError: the process or the family is unknown; or the statistics are for another number of channels, or are
            missing, or are given for a discrete family.
        """
        self.config, self._family = config, family_of(config)
        if (statistics is None) != self._family.discrete:
            expected = "None, because its data are indices" if self.discrete else "those of the training latents"
            raise ValueError(f"statistics of a {self.family} are {statistics}; expected {expected}")
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, param_dtype), user_arrays.as_tree(params))
        if statistics is not None and statistics.channels not in (None, config.channels):
            raise ValueError(f"statistics are for {statistics.channels} channels, the generator has {config.channels}")
        self.statistics = statistics
        field = self._family.process
        self.process = process or (published or {}).get(self._family.process_field) or field.default
        if not field.allowed.check(self.process):
            raise ValueError(f"process of a {self.family} is {self.process!r}; expected {field.allowed.text}")
        published = dict(published or self._family.published_fields(config, self.process))
        self._files = PublishedFiles(published, dict(extra or {}), dict(dtypes or {}), dict(unused_rows or {}))

    def replace(self, *, params: Any = None, **fields: Any) -> "Generator":
        """Returns a copy with other parameters (a tree or an NNX module), or other fields of its config, such as `dtype`.

        Raises:
          ValueError: the parameters have another structure or other shapes than the config, or a field does not exist.
        """
        copy = jax.tree.map(lambda leaf: leaf, self)
        try:
            copy.config = dataclasses.replace(self.config, **fields)  # pyright: ignore (a dataclass, by the protocol)
        except TypeError as error:
            raise ValueError(f"{error}; the config is {self.config}") from error
        copy.params = self.params if params is None else user_arrays.as_tree(params)
        user_arrays.check_tree(copy.params, abstract_params(copy.config))
        return copy

    @property
    def _program(self):
        return _program(self._family, self.config, self.process)

    def __repr__(self) -> str:
        config = self.config
        output = codes_of(config) if self.discrete else f"{config.num_tokens} tokens of {config.channels} channels"
        return (
            f"Generator({self.family}, {counted(config.num_classes, 'class', 'classes')} -> {output}, "
            f"{self.process} process, {user_arrays.count_parameters(self.params)}, matmuls in {config.dtype})"
        )

    @property
    def family(self) -> str:
        """Name of the family, such as "sit"."""
        return self._family.name

    @property
    def paper(self) -> str:
        """arXiv number of the family's paper, for the model card."""
        return self._family.paper

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label, from the training data; a class without a known name is called by its number."""
        known = self._files.config.get(CLASS_NAMES_FIELD) or ()
        return tuple(map(str, (*known, *range(len(known), self.config.num_classes))))[: self.config.num_classes]

    @property
    def discrete(self) -> bool:
        """Whether it makes code indices, for `Tokenizer.decode_indices`, instead of latents."""
        return self._family.discrete

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
        param_dtype: str = "float32",
        entry: str | None = None,
    ) -> "Generator":
        """Opens a folder with `config.json` and `model.safetensors`, a run's workdir, or a Hugging Face id.

        If a run has not exported its generator yet, its newest checkpoint is opened, as by `from_checkpoint`.

        Args:
          name: a folder, which may be that of a checkpoint; `hf://owner/name` or `owner/name`; or a file of weights, with
            or without a config.json beside it.
          statistics: statistics of the training latents. Folders of generators trained here contain them; for published
            generators, give the tokenizer (folder or id), which contains them. Discrete generators need none.
          dtype: type of the matmuls.
          remat: see `layers.scan_blocks`.
          param_dtype: dtype of the stored parameters; computations convert them to float32.
          entry: which network to read from a file with several, such as "model" or "ema"; by default the averaged one.

        Raises:
          FileNotFoundError: the folder or a file in it does not exist.
          WeightsError: the files are damaged, or do not hold a generator of a registered family.
          ValueError: the statistics are neither given nor in the folder.
        """
        options = {"entry": entry, "dtype": dtype, "remat": remat}
        return cls._from_opened(generator_files.open_pretrained(name, statistics, **options), param_dtype)

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | os.PathLike,
        *,
        step: int | None = None,
        raw: bool = False,
        statistics: LatentStatistics | str | os.PathLike | None = None,
        dtype: str = "float32",
        remat: str = "none",
    ) -> "Generator":
        """Opens a checkpoint of a generator run, also of one that is not finished.

        Args:
          folder: the run's workdir, or the folder of one checkpoint, such as `WORKDIR/checkpoints/1000`.
          step: step of the checkpoint; by default the newest.
          raw: whether to take the parameters of that step instead of their moving average.
          statistics: needed only for checkpoints of older versions, which do not contain them.
          dtype, remat: see `from_pretrained`.

        Raises:
          FileNotFoundError: there is no checkpoint, or none of that step.
          WeightsError: the checkpoint is damaged, or is of another kind of model.
          ValueError: the statistics are neither in the checkpoint nor given.
        """
        options: dict[str, Any] = {"step": step, "raw": raw, "dtype": dtype, "remat": remat}
        return cls._from_opened(generator_files.open_checkpoint(folder, statistics, **options))

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, np.ndarray],
        published: Mapping[str, Any],
        statistics: LatentStatistics | None,
        *,
        source: str,
        dtype: str = "float32",
        remat: str = "none",
        param_dtype: str = "float32",
    ) -> "Generator":
        """Creates a generator from a state dict in the published naming.

        Args:
          tensors: the state dict.
          published: the content of its `config.json`.
          statistics, dtype, remat, param_dtype: see `from_pretrained`.
          source: name of the tensors' file, for messages.

        Raises:
          WeightsError: the tensors do not fit a registered family.
        """
        options = {"dtype": dtype, "remat": remat, "source": source}
        return cls._from_opened(generator_files.from_tensors(tensors, published, statistics, **options), param_dtype)

    @classmethod
    def _from_opened(cls, opened: OpenedGenerator, param_dtype: str = "float32") -> "Generator":
        fields = dict(vars(opened))
        config, params, statistics = (fields.pop(name) for name in ("config", "params", "statistics"))
        return cls(config, params, statistics, **fields, param_dtype=param_dtype)

    def save_pretrained(self, folder: str | os.PathLike, *, dtype: str | None = None) -> None:
        """Writes a folder in the published layout.

        A generator from `from_pretrained` is written back key for key and bit for bit. The statistics of the latents are
        added to `config.json`, so that the folder is complete.

        Args:
          folder: created if it does not exist.
          dtype: type of the stored tensors, "float32", "float16" or "bfloat16"; None for that of the published file, or
            float32.

        Raises:
          ValueError: the type is not allowed, or a tensor has values beyond its range.
          OSError: the folder cannot be written.
        """
        generator_files.save(folder, self.config, self.params, self.statistics, self._files, dtype)

    def card_text(self, repo_id: str) -> str:
        """The text of the model card of `push_to_hub`, in Markdown."""
        drawn = "indices" if self.discrete else "latents"
        return (
            f"A generator of image {drawn}: `{self!r}`.\n\n```python\nimport jax\nfrom softvq_jax import Generator\n\n"
            f'generator = Generator.from_pretrained("{repo_id}")\n'
            f"{drawn} = generator.sample([0, 1], key=jax.random.key(0))\n```"
        )

    def sample(
        self,
        labels: jax.Array | np.ndarray | Sequence[int],
        *,
        key: jax.Array,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        indices: jax.Array | None = None,
        noise: jax.Array | None = None,
        step_noises: jax.Array | None = None,
        temperature: float | None = None,
        head_steps: int | None = None,
        guidance_schedule: str | None = None,
        anneal_softmax: bool | None = None,
    ) -> jax.Array:
        """Draws latents `[B, L, D]` float32 of the classes `labels`, which `Tokenizer.decode` accepts.

        A discrete generator draws code indices `[B, C, L/C]` int32 for `Tokenizer.decode_indices`. The defaults of a
        MaskGIT are the settings in its `config.json`.

        An example depends on `key`, its index and its label, not on the rest of the batch or the number of devices.
        The first call with new settings compiles.

        Args:
          labels: `[B]` integers in `[0, num_classes)`.
          key: random key, the same for all samples of a set.
          steps: denoising steps (SiT, DiT; 250 by default) or iterations over the tokens (MAR; `L` by default; MaskGIT).
          sampler: one of the family's samplers; its first by default.
          guidance: scale `s` of `u + s (c - u)`; 1 is no guidance, the default of SiT, DiT and MAR. For MAR, the scale
            rises linearly from 1 to `s`; for MaskGIT see `guidance_schedule`.
          guidance_interval: `(low, high)`; guidance is on while `low <= t <= high`, where `t` goes from 1 (noise) to 0
            (SiT, DiT; for DiT `t` is timestep / 1000).
          indices: `[B]`, global indices of the examples; 0, 1, ... by default.
          noise: `[B, L, D]`, the initial noise (SiT, DiT); drawn with `key` by default.
          step_noises: `[steps - 1, B, L, D]`, the noise of every step but the last (SiT's SDE, DiT); drawn by default.
          temperature: factor on the noise of the head's steps (MAR; 1 by default); noise on the confidence of the first
            step (MaskGIT).
          head_steps: denoising steps of each token (MAR; 100 by default).
          guidance_schedule: "linear" and "power-cosine" raise the scale from 1 to `guidance` over the steps, "constant"
            does not (MaskGIT). The release's `guidance_scale` is `guidance` for "power-cosine", else `guidance - 1`.
          anneal_softmax: whether the softmax temperature falls over the steps (MaskGIT).

        Raises:
          ValueError: an argument is out of range, or the sampler does not take it.
        """
        options = dict(sampler=sampler, steps=steps, guidance=guidance, guidance_interval=guidance_interval)
        options |= dict(head_steps=head_steps, guidance_schedule=guidance_schedule, anneal_softmax=anneal_softmax)
        arrays = dict(noise=noise, step_noises=step_noises, temperature=temperature)
        return self._draw(self._program, labels, key, indices, options, arrays)

    def denoise(
        self,
        labels: jax.Array | np.ndarray | Sequence[int],
        *,
        key: jax.Array,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        indices: jax.Array | None = None,
        temperature: float | None = None,
        head_steps: int | None = None,
    ) -> jax.Array:
        """Draws latents as `sample` does with the same arguments, and returns those after each step, `[T, B, L, D]`.

        Those after the last step are the samples. Earlier ones are noisy for SiT and DiT; for MAR, tokens that are not
        filled yet have the mean of the latents.

        Raises:
          ValueError: as for `sample`; or the sampler does not record its steps.
        """
        options = dict(sampler=sampler, steps=steps, guidance=guidance, guidance_interval=guidance_interval)
        options |= dict(head_steps=head_steps)
        program = _denoising_program(self._family, self.config, self.process)
        arrays = dict(noise=None, step_noises=None, temperature=temperature)
        return self._draw(program, labels, key, indices, options, arrays)

    def _draw(self, program, labels, key, indices, options, arrays):
        labels = self.check_labels(labels)
        family, config, published = self._family, self.config, self._files.config
        settings, guidance = sampling_settings(family, config, published, options)
        arrays = sampling_arrays(family, config, published, settings, len(labels), **arrays)
        indices = jnp.arange(len(labels)) if indices is None else user_arrays.as_array("indices", indices)
        run = partial(program, settings)
        drawn = call_with_auto_axes(run, labels, self.params, key, indices, guidance, arrays)
        if self.statistics is None:
            return drawn.reshape(len(drawn), *codes_of(config).shape)
        return self.statistics.denormalize(drawn)

    def check_options(self, **options: Any) -> None:
        """Checks optional arguments of `sample`, except arrays of noise.

        Raises:
          ValueError: `sample` would raise it.
        """
        settings, _ = sampling_settings(self._family, self.config, self._files.config, options)
        refuse(self._family, settings.sampler, temperature=options.get("temperature"))
        check_temperature(options.get("temperature"))

    def check_labels(self, labels: jax.Array | np.ndarray | Sequence[int]) -> jax.Array:
        """Returns the labels as int32 `[B]`; raises ValueError if they are not classes of this generator."""
        array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
        if array.ndim != 1 or not len(array) or not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(
                f"labels have shape {array.shape} and type {array.dtype}; expected integers [B], B at least 1"
            )
        last = self.config.num_classes - 1
        expected = f"this generator has classes 0 to {last}"
        user_arrays.check_integers("labels", array, 0, last, expected=expected)
        return jnp.asarray(array, jnp.int32)

    def check_fits(self, tokenizer: TokenizerConfig, fingerprint: str | None = None) -> None:
        """Checks that a tokenizer can decode this generator's latents or indices.

        Args:
          tokenizer: the tokenizer's config.
          fingerprint: fingerprint of the tokenizer's weights, compared with that of the training latents if both are
            known.

        Raises:
          ValueError: the tokenizer cannot decode them.
        """
        advice = "use the tokenizer that it was trained on"
        if self.discrete:
            ours, theirs = codes_of(self.config), codes_of_tokenizer(tokenizer)
            if ours != theirs:
                raise ValueError(f"the generator makes {ours}, the tokenizer takes {theirs}: {advice}")
        elif (tokenizer.num_latent_tokens, tokenizer.latent_dim) != (self.config.num_tokens, self.config.channels):
            raise ValueError(
                f"the generator makes {self.config.num_tokens} tokens of {self.config.channels} channels, the tokenizer "
                f"takes {tokenizer.num_latent_tokens} of {tokenizer.latent_dim}: {advice}"
            )
        trained_on = self._files.config.get(TOKENIZER_FIELD)
        if fingerprint and trained_on and fingerprint != trained_on:
            raise ValueError(
                f"the generator was trained on latents of the tokenizer with fingerprint {trained_on}, but this one has "
                f"{fingerprint}: {advice}"
            )


@functools.cache
def _program(family: Family, config, process):
    """The sampling program `(settings, labels, params, key, indices, guidance, arrays)`, shared by all generators."""
    return jax.jit(partial(_draw, family, config, process), static_argnums=0)


@functools.cache
def _denoising_program(family: Family, config, process):
    """The sampling program that returns the latents after each step; see `_program`."""

    def run(settings, *arguments):
        with states.recording() as recorded:
            _draw(family, config, process, settings, *arguments)
        if not recorded:
            raise ValueError(f"sampler {settings.sampler} of a {family.name} does not record its steps")
        return jnp.concatenate(recorded)

    return jax.jit(run, static_argnums=0)


def _flatten(generator: Generator):
    children = ((jax.tree_util.GetAttrKey("params"), generator.params),)
    return children, (generator.config, generator.process, generator.statistics, generator._files)


def _unflatten(static, children) -> Generator:
    generator = object.__new__(Generator)
    generator.config, generator.process, generator.statistics, generator._files = static
    generator._family, (generator.params,) = family_of(generator.config), children
    return generator


jax.tree_util.register_pytree_with_keys(Generator, _flatten, _unflatten)


def _draw(family: Family, config, process, settings, labels, params, key, indices, guidance, arrays):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    network, keys = family.network(config)(params), example_keys(key, indices)
    unstack_for_loop(network, len(labels) * config.num_tokens, settings.steps)
    sampler = family.samplers[settings.sampler]
    return sampler.draw(network, labels, keys, guidance, settings=settings, process=process, **arrays)
