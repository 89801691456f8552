"""The interface of bottlenecks, the modules between the encoder's output and the decoder's input.

To add a bottleneck, subclass `Bottleneck` and register the class. A complete example, selected by
`config.model.bottleneck = "noise"`:

    class Noise(Bottleneck):
        loss_weights = {"energy": 1e-3}

        def __init__(self, dim, *, scale=1.0, rngs):
            self.input_dim, self.scale = dim, scale

        def __call__(self, z, *, step=None, key=None):
            noise = 0.0 if key is None else self.scale * jax.random.normal(key, z.shape)
            return Bottlenecked(z + noise, {"energy": jnp.mean(z**2)})

        def encode(self, z):
            return z

    register_bottleneck("noise", Noise)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import flax.struct
import jax
import numpy as np
from flax import nnx, traverse_util

if TYPE_CHECKING:
    from softvq_jax.models.tokenizer import TokenizerConfig


@flax.struct.dataclass
class Bottlenecked:
    """The output of a bottleneck.

    Attributes:
      latents: `[B, L, D]`, the decoder's input.
      losses: unweighted scalars by name, such as `entropy`, `codebook`, `commitment` or `kl`.
      indices: `[B, C, L/C]` int32, the nearest or most probable code of each token; None without a codebook.
      stats: scalars to log.
    """

    latents: jax.Array
    losses: dict[str, jax.Array]
    indices: jax.Array | None = None
    stats: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


class Tensor(NamedTuple):
    """The tensor of a published file that holds a parameter.

    Attributes:
      name: the tensor's name, without the bottleneck's prefix `quantize.`.
      transposed: the parameter is a kernel `[in, out]` and the tensor is a PyTorch weight `[out, in]`.
      squeezed: the parameter has a leading axis of length 1 that the tensor lacks.
    """

    name: str
    transposed: bool = False
    squeezed: bool = False


class Bottleneck(nnx.Module):
    """Base class of bottlenecks.

    The `L` tokens are divided into `C` segments of `L/C` consecutive tokens. Segment `i` uses codebook `i`, so indices
    are `[B, C, L/C]`.

    Attributes:
      input_dim: channels of the input `z`.
      has_codebook: whether `__call__` returns indices into `config.num_codebooks` codebooks of `config.codebook_size`.
      discrete: whether the latents are codes, so that indices determine them.
      has_temperature: whether `encode` and `log_posterior` take a `temperature`.
      loss_weights: default weights of the losses, by name. A field `config.loss.<name>_weight` takes precedence.
    """

    input_dim: int
    has_codebook: ClassVar[bool] = False
    discrete: ClassVar[bool] = False
    has_temperature: ClassVar[bool] = False
    loss_weights: ClassVar[Mapping[str, float]] = {}

    if TYPE_CHECKING:

        def __init__(self, dim: int, *, rngs: nnx.Rngs, **arguments: Any):
            """Each bottleneck has its own arguments; `dim` is the number of channels of the latents."""

    @classmethod
    def from_config(cls, config: "TokenizerConfig", *, rngs: nnx.Rngs) -> "Bottleneck":
        """Returns a new bottleneck; by default `cls(latent_dim, **bottleneck_args, rngs=rngs)`."""
        return cls(config.latent_dim, **dict(config.bottleneck_args), rngs=rngs)

    @classmethod
    def check(cls, config: "TokenizerConfig") -> None:
        """Raises ValueError if the config's fields do not fit this bottleneck."""
        if cls.has_codebook and config.num_latent_tokens % config.num_codebooks:
            raise ValueError(
                f"num_latent_tokens {config.num_latent_tokens} is not divisible by num_codebooks "
                f"{config.num_codebooks}: each codebook serves the same number of tokens"
            )

    @classmethod
    def frozen_parameters(cls, config: "TokenizerConfig") -> frozenset[str]:
        """Returns the `/`-joined paths of parameters that are not trained and have no optimizer state."""
        return frozenset()

    def unit_codebooks(self) -> tuple[str, ...]:
        """Returns the names of the codebooks `[C, K, D]` whose codes are scaled to unit length before use."""
        return ()

    @classmethod
    def tensors(cls, config: "TokenizerConfig") -> dict[str, Tensor]:
        """Returns the published tensor of each parameter, by the parameter's `/`-joined path.

        By default the tensor's name is the path joined by dots.
        """
        module = nnx.eval_shape(lambda: cls.from_config(config, rngs=nnx.Rngs(0)))
        paths = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(module, nnx.Param)), sep="/")
        return {path: Tensor(path.replace("/", ".")) for path in paths}

    @classmethod
    def published_config(cls, tensors: Mapping[str, np.ndarray], fields: Mapping) -> dict[str, Any] | None:
        """Recognizes this bottleneck in a published file.

        Args:
          tensors: the file's tensors; the bottleneck's names start with `quantize.`.
          fields: the content of the file's `config.json`.

        Returns:
          Fields of `TokenizerConfig`, or None if the file has another bottleneck. The default always returns None;
          such bottlenecks are read from our own `softvq_jax.json` instead.
        """
        return None

    def __call__(self, z: jax.Array, *, step: jax.Array | None = None, key: jax.Array | None = None) -> Bottlenecked:
        """Passes `z` `[B, L, input_dim]` through the bottleneck.

        Args:
          z: output of the encoder.
          step: int32, number of completed training steps, for annealing; None outside of training.
          key: random key for noise; None, as in evaluation, adds no noise.
        """
        raise NotImplementedError

    def encode(self, z: jax.Array) -> jax.Array:
        """Returns the latents `[B, L, D]` of `z` in inference."""
        raise NotImplementedError

    def encode_indices(self, z: jax.Array) -> jax.Array:
        """Returns the code indices `[B, C, L/C]` of `z`, for discrete bottlenecks."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def lookup(self, indices: jax.Array) -> jax.Array:
        """Returns the latents `[B, L, D]` of indices `[B, C, L/C]`, for discrete bottlenecks."""
        raise NotImplementedError(f"{type(self).__name__} is not discrete")

    def log_posterior(self, z: jax.Array) -> jax.Array | None:
        """Returns log-probabilities `[C, B, L/C, K]` of the codes if the bottleneck averages codes, else None."""
        return None
