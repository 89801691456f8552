"""The user interface of tokenizers: open, encode, decode, save."""

import os
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from softvq_jax.models.functional import functional
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.weights import files, layout
from softvq_jax.weights import tokenizer as weights

# Written in addition to `config.json` if its flat fields do not determine the config of a tokenizer trained here.
OWN_CONFIG = "softvq_jax.json"


class Tokenizer:
    """A trained tokenizer. Images are `[B, H, W, 3]` float32 in [-1, 1], latents `[B, L, D]` float32.

    Attributes:
      config: shape of the tokenizer.
      params: parameters of the `TokenizerModel`, a tree of arrays.
      latent_mean, latent_std: mean and standard deviation of the latents, for generators; None if unknown.
    """

    def __init__(
        self,
        config: TokenizerConfig,
        params: Mapping,
        *,
        published: Mapping | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
        dtypes: Mapping[str, np.dtype] | None = None,
    ):
        """Creates a tokenizer from parameters in memory; `from_pretrained` opens files.

        Args:
          config: shape of the tokenizer.
          params: parameters of the `TokenizerModel`.
          published: content of a published `config.json`, which `save_pretrained` writes back.
          extra: tensors of the published layout that the model does not use; `save_pretrained` writes them back.
          dtypes: dtypes of published tensors that are not float32; the parameters are always float32.
        """
        self.config = config
        self.params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
        self._published = dict(published or weights.published_fields(config))
        self._extra = dict(weights.unused_patch_embed(config) if extra is None else extra)
        self._dtypes = dict(dtypes or {})
        network = functional(TokenizerModel, config)

        def compiled(method):
            return jax.jit(lambda params, x: getattr(network(params), method)(x))

        self._encode, self._decode = compiled("encode"), compiled("decode")
        self._encode_indices, self._decode_indices = compiled("encode_indices"), compiled("decode_indices")

    @property
    def latent_mean(self) -> float | None:
        return self._published.get("vq_mean")

    @property
    def latent_std(self) -> float | None:
        return self._published.get("vq_std")

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike, *, dtype: str = "float32", remat: str = "none") -> "Tokenizer":
        """Opens a folder with `config.json` and `model.safetensors`, the workdir of a run, or a Hugging Face id.

        Args:
          name: a local folder, `hf://owner/name` or `owner/name`.
          dtype: type of the matmuls.
          remat: see `layers.scan_blocks`; for gradients through the tokenizer.

        Raises:
          FileNotFoundError: the folder or a file in it does not exist.
          WeightsError: the files are damaged, or are not those of a tokenizer.
        """
        folder = files.resolve(name, purpose="tokenizer")
        if (folder / "tokenizer" / "config.json").is_file():
            folder = folder / "tokenizer"  # a run's workdir
        for file in ("config.json", "model.safetensors"):
            if not (folder / file).is_file():
                raise FileNotFoundError(f"{folder} has no {file}: not a tokenizer folder")
        published = files.read_json(folder / "config.json")
        tensors = files.read_tensors(folder / "model.safetensors")
        own = folder / OWN_CONFIG
        if own.is_file():
            config = weights.config_from_dict(files.read_json(own), source=own, dtype=dtype, remat=remat)
        else:
            config = weights.config_of(tensors, published, dtype=dtype, remat=remat)
        return cls.from_tensors(config, tensors, published=published, source=str(folder / "model.safetensors"))

    @classmethod
    def from_tensors(
        cls,
        config: TokenizerConfig,
        tensors: Mapping[str, np.ndarray],
        *,
        published: Mapping | None = None,
        source: str,
    ) -> "Tokenizer":
        """Creates a tokenizer from a state dict in the published naming.

        Args:
          tensors: the state dict.
          published: the content of its `config.json`.
          dtype, remat: see `from_pretrained`.
          source: name of the tensors' file, for messages.

        Raises:
          WeightsError: the tensors are not those of a tokenizer.
        """
        rules = weights.tokenizer_rules(config)
        params = layout.read(rules, tensors, abstract_params(config), source=source)
        used = {key for rule in rules for key in rule.keys}
        extra = {key: tensor for key, tensor in tensors.items() if key not in used}
        if extra:
            names = ", ".join(sorted(extra))
            logging.info("%s: %d tensors are not used by the tokenizer: %s", source, len(extra), names)
        dtypes = {key: tensors[key].dtype for key in used if tensors[key].dtype != np.float32}
        return cls(config, params, published=published, extra=extra, dtypes=dtypes)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes a folder in the published layout.

        A tokenizer from `from_pretrained` is written back key for key and bit for bit.
        """
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = layout.write(weights.tokenizer_rules(self.config), self.params)
        tensors = {
            key: tensor.astype(self._dtypes.get(key, np.float32)) for key, tensor in tensors.items()
        } | self._extra
        files.write_safetensors(folder / "model.safetensors", tensors)
        files.write_json(folder / "config.json", self._published)
        inferred = weights.config_of(tensors, self._published, dtype=self.config.dtype, remat=self.config.remat)
        if inferred != self.config:
            files.write_json(folder / OWN_CONFIG, weights.config_to_dict(self.config))
        else:
            (folder / OWN_CONFIG).unlink(missing_ok=True)  # left by a tokenizer saved here before

    def encode(self, images: jax.Array) -> jax.Array:
        """Encodes images `[B, H, W, 3]` in [-1, 1] as latents `[B, L, D]`.

        Raises:
          ValueError: the images have another shape, dtype or range.
        """
        return self._encode(self.params, self._checked(images))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Decodes latents `[B, L, D]` to images `[B, H, W, 3]`, clipped to [-1, 1].

        Raises:
          ValueError: the latents have another shape.
        """
        latents = jnp.asarray(latents, jnp.float32)
        self._check_shape("latents", latents, (self.config.num_latent_tokens, self.config.latent_dim))
        return jnp.clip(self._decode(self.params, latents), -1.0, 1.0)

    def reconstruct(self, images: jax.Array) -> jax.Array:
        """Encodes and decodes images, `decode(encode(images))`."""
        return self.decode(self.encode(images))

    def encode_indices(self, images: jax.Array) -> jax.Array:
        """Encodes images as code indices `[B, C, L/C]` int32, for discrete bottlenecks such as VQ and SimVQ."""
        self._check_discrete()
        return self._encode_indices(self.params, self._checked(images))

    def decode_indices(self, indices: jax.Array) -> jax.Array:
        """Decodes code indices `[B, C, L/C]` to images, clipped to [-1, 1], for discrete bottlenecks (VQ, SimVQ)."""
        self._check_discrete()
        config, indices = self.config, jnp.asarray(indices)
        self._check_shape("indices", indices, (config.num_codebooks, config.num_latent_tokens // config.num_codebooks))
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise ValueError(f"indices are {indices.dtype}; expected integers")
        low, high = int(jnp.min(indices)), int(jnp.max(indices))
        if low < 0 or high >= config.codebook_size:
            raise ValueError(f"indices range from {low} to {high}; expected 0 to {config.codebook_size - 1}")
        return jnp.clip(self._decode_indices(self.params, indices), -1.0, 1.0)

    def _check_discrete(self):
        if not self.config.discrete:
            raise ValueError(
                f"the {self.config.bottleneck} bottleneck has continuous latents and no indices: use encode and decode"
            )

    def _check_shape(self, name, array, expected):
        if array.shape[1:] != expected or not len(array):
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"{name} have shape {array.shape}; expected [B, {sizes}] with B at least 1")

    def _checked(self, images):
        size, images = self.config.image_size, jnp.asarray(images)
        self._check_shape("images", images, (size, size, 3))
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images are {images.dtype}; expected floats in [-1, 1]: x / 127.5 - 1 from 0..255")
        images = images.astype(jnp.float32)
        # The comparison is false for NaN, which XLA's minimum and maximum can miss on CPUs.
        if not jnp.all(jnp.abs(images) <= 1.001):
            low, high = np.min(np.asarray(images)), np.max(np.asarray(images))
            raise ValueError(f"image values range from {low:.4g} to {high:.4g}; expected [-1, 1]")
        return images


def abstract_params(config: TokenizerConfig) -> dict:
    """Returns the parameter tree of a tokenizer as `ShapeDtypeStruct`s."""
    return functional(TokenizerModel, config).shapes
