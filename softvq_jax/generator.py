"""The user interface of latent generators: open, sample, save."""

import dataclasses
import functools
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

from softvq_jax import user_arrays
from softvq_jax.diffusion import states
from softvq_jax.generators.family import (
    Family,
    GeneratorConfig,
    Settings,
    anchors,
    family_of,
    find_family,
    published_fields,
    read_config,
)
from softvq_jax.generators.sampling import example_keys
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.parallel.mesh import call_with_auto_axes
from softvq_jax.storage.files import make_folder
from softvq_jax.storage.paths import as_path
from softvq_jax.weights import checkpoints, entries, files, hub, layout
from softvq_jax.weights.published_files import PublishedFiles

TOKENIZER_FIELD = "tokenizer_fingerprint"  # field of our config.json, for the tokenizer of the training latents
CLASS_NAMES_FIELD = "class_names"  # field of our config.json, for the classes of the training data by label


class Generator:
    """A trained latent generator, such as a SiT, DiT or MAR, which maps class labels to latents `[B, L, D]` float32.

    A generator is a pytree: its leaves are the parameters, all else is static. So it can be an argument of `jax.jit` and
    be sharded by `jax.device_put`. `sample` traces: inside `jax.jit` and `jax.shard_map` shapes and types are checked, and
    values are not. It runs on any mesh; samples are sharded like `labels`.

    Attributes:
      config: shape of the network.
      params: parameters of the network, including fixed ones, as a tree of arrays.
      statistics: mean and standard deviation by which the training latents were normalized; `sample` inverts this.
      process: SiT's path, or the noise schedule of DiT or MAR.
      family: name of the family, such as "sit".
      class_names: names of the classes by label.
      network: the NNX module with these parameters.
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
        dtypes: Mapping[str, np.dtype] | None = None,
        second_halves: Mapping[str, np.ndarray] | None = None,
        param_dtype: str = "float32",
    ):
        """Creates a generator from parameters in memory; `from_pretrained` opens files.

        Args:
          config: config of the network; its family must be registered.
          params: parameters of the network.
          statistics: statistics of the training latents.
          process: "linear" or "cosine"; by default the one in `published`, else the family's default.
          published: content of a published `config.json`, which `save_pretrained` writes back.
          extra: tensors of the published layout that the network does not use; `save_pretrained` writes them back.
          dtypes: dtypes of published tensors other than float32.
          second_halves: rows of published tensors of which the network uses the first half.
          param_dtype: dtype in which the parameters are stored; they are computed with in float32.

        Raises:
          ValueError: the process or the family is unknown, or the statistics are for another number of channels.
        """
        self.config, self._family = config, family_of(config)
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, param_dtype), user_arrays.as_tree(params))
        if statistics.channels not in (None, config.channels):
            raise ValueError(f"statistics are for {statistics.channels} channels, the generator has {config.channels}")
        self.statistics = statistics
        known = self._family.process
        self.process = process or (published or {}).get(self._family.process_field) or known.default
        if not known.allowed.check(self.process):
            raise ValueError(f"process of a {self.family} is {self.process!r}; expected {known.allowed.text}")
        published = dict(published or self._family.published_fields(config, self.process))
        self._files = PublishedFiles(published, dict(extra or {}), dict(dtypes or {}), dict(second_halves or {}))

    def replace(self, *, params: Any = None, **fields: Any) -> "Generator":
        """A copy with other parameters (a tree or an NNX module), or with other fields of its config, such as `dtype`.

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
        return (
            f"Generator({self.family}, {config.num_classes} classes -> {config.num_tokens} tokens of {config.channels} "
            f"channels, {self.process} process, {user_arrays.count_parameters(self.params)}, matmuls in {config.dtype})"
        )

    @property
    def family(self) -> str:
        """Name of the family, such as "sit"."""
        return self._family.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label, those of the training data; the numbers where they are unknown."""
        known = self._files.config.get(CLASS_NAMES_FIELD) or ()
        return tuple(map(str, (*known, *range(len(known), self.config.num_classes))))[: self.config.num_classes]

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

        Of a run that has not exported its generator yet, opens the newest checkpoint, as `from_checkpoint` does.

        Args:
          name: a local folder, also that of a checkpoint, `hf://owner/name` or `owner/name`; or a file of weights, with
            or without a config.json beside it.
          statistics: statistics of the training latents. Folders of generators trained here contain them; for published
            generators, give the tokenizer (folder or id), which contains them.
          dtype: type of the matmuls.
          remat: see `layers.scan_blocks`.
          param_dtype: dtype in which the parameters are stored; they are computed with in float32.
          entry: what to take from a file that holds several networks, such as "model" or "ema"; by default the averaged
            one.

        Raises:
          FileNotFoundError: the folder or a file in it does not exist.
          WeightsError: the files are damaged, or are not those of a generator of a registered family.
          ValueError: the statistics are neither given nor in the folder.
        """
        folder = find_folder(name)
        if checkpoints.find_checkpoint(folder) is not None:
            return cls.from_checkpoint(folder, statistics=statistics, dtype=dtype, remat=remat)
        published, path = files.find_published(folder, purpose="generator")
        stated = published_fields(published, source=f"the config.json of {path}")
        statistics = _find_statistics(statistics, stated, source=name)
        tensors = entries.select(files.read_tensors(path), anchors(), source=str(path), entry=entry)
        compute = {"dtype": dtype, "remat": remat, "param_dtype": param_dtype}
        return cls.from_tensors(tensors, published, statistics, source=str(path), **compute)

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
          step: of the checkpoint; by default the newest.
          raw: the parameters of that step, in place of their moving average.
          statistics: needed for checkpoints of older versions only, which do not carry them.
          dtype, remat: see `from_pretrained`.

        Raises:
          FileNotFoundError: there is no checkpoint, or none of that step.
          WeightsError: the checkpoint is damaged, or that of another kind of model.
          ValueError: the statistics are neither in the checkpoint nor given.
        """
        found = checkpoints.open_checkpoint(folder, "generator", step=step, raw=raw)
        fields = found.config("model") | {"dtype": dtype, "remat": remat}
        family = find_family(fields.pop("family"))
        config, published = family.make_config(fields), found.record.get("published", {})
        statistics = _find_statistics(statistics, published, source=found.folder)
        process = found.record["config"]["objective.process"]
        params = found.params | family.fixed(config)
        return cls(config, params, statistics, process=process, published=published or None)

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
        config = read_config(tensors, published, dtype=dtype, remat=remat, source=source)
        rules = family_of(config).weight_rules(config)
        with layout.reading(source, f"a {family_of(config).name}"):
            params = layout.read(rules, tensors, abstract_params(config), source=source)
        halves = layout.second_halves(rules, tensors, params)
        if halves:
            logging.info("%s: only the first half of these tensors is used: %s", source, ", ".join(sorted(halves)))
        used = {key for rule in rules for key in rule.keys}
        extra = {key: tensor for key, tensor in tensors.items() if key not in used}
        if extra:
            names = ", ".join(sorted(extra))
            logging.info("%s: %d tensors that the generator does not use: %s", source, len(extra), names)
        layout.check_unused(extra, used, source=source)
        dtypes = {key: tensors[key].dtype for key in used if tensors[key].dtype != np.float32}
        kept = {"published": published, "extra": extra, "dtypes": dtypes, "second_halves": halves}
        return cls(config, params, statistics, **kept, param_dtype=param_dtype)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes a folder in the published layout.

        A generator from `from_pretrained` is written back key for key and bit for bit. The statistics of the latents are
        added to `config.json`, so that the folder is complete.
        """
        folder = as_path(folder)
        make_folder(folder)
        tensors = self._files.tensors(layout.write(self._family.weight_rules(self.config), self.params))
        files.write_safetensors(folder / "model.safetensors", tensors)
        files.write_json(folder / "config.json", dict(self._files.config) | self.statistics.to_fields())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push generator with softvq-jax.",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Uploads the generator to the Hugging Face Hub, with a model card; `from_pretrained(repo_id)` opens it.

        The arguments are those of `huggingface_hub.ModelHubMixin.push_to_hub`.

        Args:
          repo_id: "owner/name"; made if it does not exist.
          commit_message, private, token, branch, create_pr: of the commit and the repository.
          model_card_kwargs: `license`, `metrics`, `dataset` and `tags` of the card, see `weights.hub.model_card`.

        Returns:
          The URL of the commit.
        """
        card = hub.model_card(
            repo_id.split("/")[-1],
            f"A generator of image latents: `{self!r}`.\n\n```python\nimport jax\nfrom softvq_jax import Generator\n\n"
            f'generator = Generator.from_pretrained("{repo_id}")\n'
            "latents = generator.sample([0, 1], key=jax.random.key(0))\n```",
            **{"pipeline_tag": "unconditional-image-generation", **(model_card_kwargs or {})},
        )
        options = {"private": private, "token": token, "branch": branch, "create_pr": create_pr}
        return hub.push(self.save_pretrained, card, repo_id, commit_message=commit_message, **options)

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
        return self._draw(
            self._program, labels, key, indices,
            dict(sampler=sampler, steps=steps, guidance=guidance, interval=guidance_interval, head_steps=head_steps),
            dict(noise=noise, step_noises=step_noises, temperature=temperature),
        )  # fmt: skip

    def denoise(
        self,
        labels: jax.Array | Sequence[int],
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

        The last ones are the samples. Those of SiT and DiT before are noisy; the tokens that MAR has not filled are at
        the mean of the latents.

        Raises:
          ValueError: as `sample`, and where the sampler does not record its steps.
        """
        program = _denoising_program(self._family, self.config, self.process)
        return self._draw(
            program, labels, key, indices,
            dict(sampler=sampler, steps=steps, guidance=guidance, interval=guidance_interval, head_steps=head_steps),
            dict(noise=None, step_noises=None, temperature=temperature),
        )  # fmt: skip

    def _draw(self, program, labels, key, indices, options, arrays):
        labels = self.check_labels(labels)
        settings = self._settings(**options)
        arrays = self._arrays(settings, len(labels), **arrays)
        indices = jnp.arange(len(labels)) if indices is None else jnp.asarray(indices)
        run = partial(program, settings)
        latents = call_with_auto_axes(run, labels, self.params, key, indices, options["guidance"], arrays)
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
        guided = not user_arrays.has_values(guidance) or bool(guidance != 1)
        return Settings(sampler, steps, guided, (low, high), **further)

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
        last = self.config.num_classes - 1
        expected = f"this generator has classes 0 to {last}"
        user_arrays.check_integers("labels", array, 0, last, expected=expected)
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
        trained_on = self._files.config.get(TOKENIZER_FIELD)
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


def carried_statistics(name: str | os.PathLike) -> LatentStatistics | None:
    """The latent statistics in the files of a generator, named as in `from_pretrained`; None where it carries none."""
    folder = find_folder(name)
    if (found := checkpoints.find_checkpoint(folder)) is not None:
        return LatentStatistics.from_fields(checkpoints.read_record(found).get("published", {}))
    return LatentStatistics.from_fields(files.read_json(folder / "config.json"))


def abstract_params(config: GeneratorConfig) -> dict[str, Any]:
    """Returns the tree of a generator's parameters, including fixed ones, as `ShapeDtypeStruct`s."""
    family = family_of(config)
    params = family.network(config).shapes | family.fixed(config)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


@functools.cache
def _program(family: Family, config, process):
    """The sampling program `(settings, labels, params, key, indices, guidance, arrays)`, shared by all generators."""
    return jax.jit(partial(_draw, family, config, process), static_argnums=0)


@functools.cache
def _denoising_program(family: Family, config, process):
    """As `_program`; returns the latents after each step."""

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
