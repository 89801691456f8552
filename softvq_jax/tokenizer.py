"""The user interface of tokenizers: open, encode, decode, save."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax import user_arrays
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.parallel.mesh import call_with_auto_axes
from softvq_jax.weights import hub, tokenizer_files, tokenizer_kinds
from softvq_jax.weights.published_files import PublishedFiles
from softvq_jax.weights.tokenizer_files import OpenedTokenizer


class Tokenizer(hub.PushToHub):
    """A trained tokenizer: a SoftVQ-VAE (with any bottleneck), a TiTok or a MAETok.

    Images are `[B, H, W, 3]` float32 in [-1, 1], or uint8; latents are `[B, L, D]` float32. Discrete tokenizers also have
    indices, `[B, C, L/C]` int32.

    A tokenizer is a pytree: its leaves are the parameters, and everything else is static. It can be an argument of
    `jax.jit` and `jax.grad`, be sharded by `jax.device_put`, and be copied by `jax.tree.map`. Its methods can be traced:
    inside `jax.jit`, `jax.vmap`, `jax.grad` and `jax.shard_map` they check shapes and types, but not values. They run on
    any mesh; a sharded batch stays sharded.

    Attributes:
      config: shape of the tokenizer, a `TokenizerConfig`, `TiTokConfig` or `MAETokConfig`.
      params: parameters of the network, a tree of arrays.
      latent_mean, latent_std: mean and standard deviation of the latents, for generators; None if unknown.
      kind: name of its kind, "softvq", "titok" or "maetok".
      network: its NNX module, with these parameters.
    """

    pipeline_tag = "image-feature-extraction"

    def __init__(
        self,
        config: TokenizerConfig,
        params: Mapping,
        *,
        published: Mapping | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        dtypes: Mapping[str, np.dtype] | None = None,
        param_dtype: str = "float32",
    ):
        """Creates a tokenizer from parameters in memory; `from_pretrained` opens files, and `init` makes fresh ones.

        Args:
          config: shape of the tokenizer.
          params: parameters of the network.
          published: content of a published `config.json`, which `save_pretrained` writes back.
          extra: tensors of the published layout that the model does not use; `save_pretrained` writes them back.
          dtypes: dtypes of published tensors that are not float32.
          param_dtype: dtype of the stored parameters; computations convert them to float32.
        """
        self.config = config
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, param_dtype), user_arrays.as_tree(params))
        kind = tokenizer_kinds.kind_of(config)
        extra = kind.unused_tensors(config) if extra is None else extra
        self._files = PublishedFiles(dict(published or kind.published_fields(config)), dict(extra), dict(dtypes or {}))
        self._warned = False

    @classmethod
    def init(cls, config: TokenizerConfig, key: jax.Array) -> "Tokenizer":
        """Returns a new, untrained tokenizer; `key` is a random key, such as `jax.random.key(0)`."""
        return cls(config, jax.jit(lambda key: tokenizer_kinds.network(config).init(key)[0])(key))

    def replace(self, *, params: Any = None, **fields: Any) -> "Tokenizer":
        """Returns a copy with other parameters, or with other fields of its config.

        Args:
          params: a tree of the same structure, of any dtype, or an NNX module; by default those of this tokenizer.
          fields: fields of the config to change, for example `dtype`, `remat` or `temperature`.

        Raises:
          ValueError: `params` have another structure or other shapes than the config, or a field is not allowed.
        """
        copy = jax.tree.map(lambda leaf: leaf, self)
        try:
            copy.config = dataclasses.replace(self.config, **fields)
        except TypeError as error:
            known = ", ".join(field.name for field in dataclasses.fields(self.config))
            raise ValueError(f"{error}; the fields are {known}") from error
        copy.params = self.params if params is None else user_arrays.as_tree(params)
        user_arrays.check_tree(copy.params, abstract_params(copy.config))
        return copy

    @property
    def network(self) -> TokenizerModel:
        """The NNX module with these parameters, for `nnx.Optimizer` for example; `replace(params=...)` takes it back."""
        return tokenizer_kinds.network(self.config)(self.params)

    @property
    def kind(self) -> str:
        """Name of the kind of tokenizer: "softvq", "titok" or "maetok"."""
        return tokenizer_kinds.kind_of(self.config).name

    @property
    def paper(self) -> str:
        """arXiv number of the paper of this kind of tokenizer, for the model card."""
        return tokenizer_kinds.kind_of(self.config).paper

    @property
    def latent_mean(self) -> float | None:
        return self._files.config.get("vq_mean")

    @property
    def latent_std(self) -> float | None:
        return self._files.config.get("vq_std")

    def __repr__(self) -> str:
        config = self.config
        codes = f", {config.num_codebooks} x {config.codebook_size:,} codes" if config.has_codebook else ""
        kind = "" if self.kind == "softvq" else f"{self.kind}, "
        vits = " and ".join(f"{vit.width} x {vit.depth}" for vit in (config.encoder, config.decoder))
        return (
            f"Tokenizer({kind}{config.image_size} px <-> {config.num_latent_tokens} tokens of {config.latent_dim} "
            f"channels, {config.bottleneck}{codes}, transformers {vits}, {user_arrays.count_parameters(self.params)}, "
            f"matmuls in {config.dtype})"
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        image_size: int | None = None,
        dtype: str = "float32",
        remat: str = "none",
        param_dtype: str = "float32",
        entry: str | None = None,
        trust_code: bool = False,
    ) -> "Tokenizer":
        """Opens a folder with `config.json` and `model.safetensors`, a run's workdir, a Hugging Face id, or "softvq-mini".

        The kind of tokenizer is recognized from the files. Sharded safetensors and PyTorch files are read too, see
        `weights.files.find_weights`. If a run has not exported its tokenizer yet, its newest checkpoint is opened, as by
        `from_checkpoint`.

        Args:
          name: a folder, which may be in a bucket or be that of a checkpoint; `hf://owner/name` or `owner/name`; a file of
            weights, with or without a config.json beside it; or, if there is no folder of that name, the name of a model
            that the package contains (`weights.shipped.SHIPPED`).
          image_size: for a MAETok, side of the images in pixels, a multiple of the patch size; its rotary positions can be
            computed for any size. By default the size that it was trained on. Other kinds have one size.
          dtype: type of the matmuls.
          remat: see `layers.scan_blocks`; for gradients through the tokenizer.
          param_dtype: dtype of the stored parameters; computations convert them to float32.
          entry: which network to read from a file with several, such as "model" or "ema"; by default the averaged one.
          trust_code: whether the files may name a bottleneck "package.module:Class", which is then imported. Set it only
            for files that you trust. It is not needed if the module is imported already.

        Raises:
          FileNotFoundError: the folder or a file in it does not exist.
          WeightsError: the files are damaged, or do not hold a tokenizer, or hold one without this image size, or name
            code that is not trusted.
        """
        options: dict[str, Any] = {"entry": entry, "image_size": image_size, "trust_code": trust_code}
        return cls._from_opened(tokenizer_files.open_pretrained(name, dtype=dtype, remat=remat, **options), param_dtype)

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | os.PathLike,
        *,
        step: int | None = None,
        raw: bool = False,
        dtype: str = "float32",
        remat: str = "none",
        trust_code: bool = False,
    ) -> "Tokenizer":
        """Opens a checkpoint of a tokenizer run, also of one that is not finished.

        Args:
          folder: the run's workdir, or the folder of one checkpoint, such as `WORKDIR/checkpoints/1000`.
          step: step of the checkpoint; by default the newest.
          raw: whether to take the parameters of that step instead of their moving average.
          dtype, remat, trust_code: see `from_pretrained`.

        Raises:
          FileNotFoundError: there is no checkpoint, or none of that step.
          WeightsError: the checkpoint is damaged, or is of another kind of model, or names code that is not trusted.
        """
        options: dict[str, Any] = {"step": step, "raw": raw, "trust_code": trust_code}
        return cls._from_opened(tokenizer_files.open_checkpoint(folder, dtype=dtype, remat=remat, **options))

    @classmethod
    def from_tensors(
        cls,
        config: TokenizerConfig,
        tensors: Mapping[str, np.ndarray],
        *,
        published: Mapping | None = None,
        source: str,
        param_dtype: str = "float32",
    ) -> "Tokenizer":
        """Opens a state dict in the published naming; `source` names it in messages.

        Raises:
          WeightsError: a tensor is missing, has another shape or holds no finite floats, or a block is not used.
        """
        opened = tokenizer_files.from_tensors(config, tensors, published=published, source=source)
        return cls._from_opened(opened, param_dtype)

    @classmethod
    def _from_opened(cls, opened: OpenedTokenizer, param_dtype: str = "float32") -> "Tokenizer":
        kept = {"published": opened.published, "extra": opened.extra, "dtypes": opened.dtypes}
        return cls(opened.config, opened.params, **kept, param_dtype=param_dtype)

    def save_pretrained(self, folder: str | os.PathLike, *, dtype: str | None = None) -> None:
        """Writes a folder in the published layout.

        A tokenizer from `from_pretrained` is written back key for key and bit for bit.

        Args:
          folder: created if it does not exist.
          dtype: type of the stored tensors, "float32", "float16" or "bfloat16"; None for that of the published file, or
            float32.

        Raises:
          ValueError: the type is not allowed, or a tensor has values beyond its range.
          OSError: the folder cannot be written.
        """
        tokenizer_files.save(folder, self.config, self.params, self._files, dtype)

    def card_text(self, repo_id: str) -> str:
        """The text of the model card of `push_to_hub`, in Markdown."""
        return (
            f"An image tokenizer: `{self!r}`.\n\n```python\nfrom softvq_jax import Tokenizer\n\n"
            f'tokenizer = Tokenizer.from_pretrained("{repo_id}")\nlatents = tokenizer.encode(images)\n```'
        )

    def encode(self, images: jax.Array, *, temperature: jax.Array | float | None = None) -> jax.Array:
        """Encodes images `[B, H, W, 3]` in [-1, 1] as latents `[B, L, D]`.

        Args:
          images: `[B, H, W, 3]`, floats in [-1, 1] or uint8.
          temperature: SoftVQ's, instead of `config.temperature`: lower ones give latents closer to single codes.

        Raises:
          ValueError: the images have another shape, dtype or range; the temperature is not positive; or the bottleneck has
            no temperature.
        """
        options = self._temperature_options(temperature)
        if self.config.discrete:  # by way of the indices, so that latents equal the codes of their indices bit for bit
            return self._run("lookup", self.encode_indices(images))
        return self._run("encode", self._check_images(images), **options)

    def decode(self, latents: jax.Array, *, clip: bool = True) -> jax.Array:
        """Decodes latents to images `[B, H, W, 3]`.

        Args:
          latents: `[B, L, D]`.
          clip: whether to clip to [-1, 1]. The gradient of a clipped pixel is 0, so use `clip=False` in losses.
        """
        latents = user_arrays.as_array("latents", latents, jnp.float32)
        user_arrays.check_shape("latents", latents, (self.config.num_latent_tokens, self.config.latent_dim))
        return _clipped(self._run("decode", latents), clip)

    def reconstruct(self, images: jax.Array, *, clip: bool = True) -> jax.Array:
        """Encodes and decodes images, `decode(encode(images))`."""
        return self.decode(self.encode(images), clip=clip)

    def pre_bottleneck(self, images: jax.Array) -> jax.Array:
        """Returns the bottleneck's input `[B, L, D]` (for KL `[B, L, 2D]`, mean and log-variance)."""
        return self._run("pre_bottleneck", self._check_images(images))

    def posterior(self, images: jax.Array, *, temperature: jax.Array | float | None = None) -> jax.Array:
        """Returns SoftVQ's probabilities of the codes for each token, `[B, C, L/C, K]`.

        Args:
          images, temperature: see `encode`.

        Raises:
          ValueError: the bottleneck does not average codes; or see `encode`.
        """
        if not self.config.has_temperature:
            raise ValueError(
                f"the {self.config.bottleneck} bottleneck has no probabilities of codes; use pre_bottleneck, or "
                "encode_indices for discrete ones"
            )
        return self._run("posterior", self._check_images(images), **self._temperature_options(temperature))

    def encode_indices(self, images: jax.Array) -> jax.Array:
        """Encodes images as code indices `[B, C, L/C]` int32, for discrete bottlenecks such as VQ and SimVQ."""
        self._check_discrete()
        return self._run("encode_indices", self._check_images(images))

    def decode_indices(self, indices: jax.Array, *, clip: bool = True) -> jax.Array:
        """Decodes code indices `[B, C, L/C]` to images, for discrete bottlenecks (VQ, SimVQ); see `decode` for `clip`."""
        self._check_discrete()
        config, indices = self.config, user_arrays.as_array("indices", indices)
        shape = (config.num_codebooks, config.num_latent_tokens // config.num_codebooks)
        user_arrays.check_shape("indices", indices, shape)
        last = config.codebook_size - 1
        user_arrays.check_integers("indices", indices, 0, last, expected=f"expected 0 to {last}")
        # `decode` is a separate program, so that indices and their latents give the same images bit for bit.
        return self.decode(self._run("lookup", indices), clip=clip)

    def _run(self, method, batch, **options):
        return call_with_auto_axes(_program(self.config, method), batch, self.params, options)

    def _temperature_options(self, temperature):
        if temperature is None:
            return {}
        if not self.config.has_temperature:
            raise ValueError(f"temperature was given, but the {self.config.bottleneck} bottleneck has none")
        if user_arrays.has_values(temperature) and not np.all(user_arrays.as_numbers("temperature", temperature) > 0):
            raise ValueError(f"temperature is {temperature}; expected a positive number")
        return {"temperature": temperature}

    def _check_discrete(self):
        if not self.config.discrete:
            raise ValueError(
                f"the {self.config.bottleneck} bottleneck has continuous latents and no indices: use encode and decode"
            )

    def _check_images(self, images):
        images, looks_unscaled = user_arrays.images_in_range(images, self.config.image_size)
        if looks_unscaled and not self._warned:
            self._warned = True
            warnings.warn(
                "all image values are in [0, 1]; expected [-1, 1]: scale them by 2 * x - 1, or give uint8 "
                "images (this warning comes once)",
                stacklevel=3,
            )
        return images


def _clipped(images, clip):
    return jnp.clip(images, -1.0, 1.0) if clip else images


@functools.cache
def _program(config: TokenizerConfig, method: str) -> Callable[..., jax.Array]:
    """Returns a method of the network as a compiled function of a batch, the parameters and options; cached."""
    network = tokenizer_kinds.network(config)

    def run(batch, params, options):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return getattr(network(params), method)(batch, **options)

    return jax.jit(run)


def _flatten(tokenizer: Tokenizer):
    children = ((jax.tree_util.GetAttrKey("params"), tokenizer.params),)
    return children, (tokenizer.config, tokenizer._files)


def _unflatten(static, children) -> Tokenizer:
    tokenizer = object.__new__(Tokenizer)
    (tokenizer.config, tokenizer._files), (tokenizer.params,) = static, children
    tokenizer._warned = False
    return tokenizer


jax.tree_util.register_pytree_with_keys(Tokenizer, _flatten, _unflatten)


def abstract_params(config: TokenizerConfig) -> dict:
    """Returns the parameter tree of a tokenizer as `ShapeDtypeStruct`s."""
    return tokenizer_kinds.network(config).shapes
