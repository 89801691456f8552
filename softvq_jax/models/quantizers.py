"""Bottlenecks: what stands between the encoder's output and the decoder's input.

All share one interface. `bottleneck(z, key)` gives a `Bottlenecked`; `encode(z)` the latents that inference stores;
`encode_indices(z)` and `lookup(indices)` exist where there is a codebook. The token sequence of length `L` is cut into
`C` segments of `L/C` tokens and segment `i` uses codebook `i`, so indices are `[B, C, L/C]`.
"""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

ENTROPY_TEMPERATURE = 0.01


@flax.struct.dataclass
class Bottlenecked:
    """What a bottleneck makes of `z`.

    Attributes:
      latents: `[B, L, D]`, what the decoder sees.
      losses: unweighted scalars: `entropy`, `codebook`, `commitment` or `kl`.
      indices: `[B, C, L/C]` int32, the nearest or most probable code of each token; None without a codebook.
      stats: scalars worth logging.
    """

    latents: jax.Array
    losses: dict[str, jax.Array]
    indices: jax.Array | None = None
    stats: dict[str, jax.Array] = flax.struct.field(default_factory=dict)


def normalize(x: jax.Array) -> jax.Array:
    """Unit L2 norm on the last axis, with PyTorch's floor of 1e-12 on the norm."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-24))


def segment(z: jax.Array, num_codebooks: int) -> jax.Array:
    """`[B, L, D] -> [C, B, L/C, D]`."""
    batch, length, dim = z.shape
    return z.reshape(batch, num_codebooks, length // num_codebooks, dim).swapaxes(0, 1)


def unsegment(z: jax.Array) -> jax.Array:
    """`[C, B, L/C, D] -> [B, L, D]`, the inverse of `segment`."""
    num_codebooks, batch, length, dim = z.shape
    return z.swapaxes(0, 1).reshape(batch, num_codebooks * length, dim)


def squared_distances(z: jax.Array, codes: jax.Array) -> jax.Array:
    """`|z - c|^2` of every token of a segment to every code of its codebook: `[C, B, L/C, K]`."""
    products = jnp.einsum("cbld,ckd->cblk", z, codes)
    return jnp.sum(z * z, -1)[..., None] + jnp.sum(codes * codes, -1)[:, None, None] - 2 * products


def entropy_loss(logits: jax.Array, mean_floor: float) -> jax.Array:
    """`mean_tokens H(q) - H(mean_tokens q)`, `q = softmax(logits / 0.01)`, over all tokens of all codebooks together.

    Low when every token is sure of its code and all codes are used alike (SPEC: the KL term of SoftVQ-VAE, eq. 5).

    Args:
      logits: `[..., K]`.
      mean_floor: added inside the logarithm of the second term, as the release does.
    """
    logits = logits.reshape(-1, logits.shape[-1]) / ENTROPY_TEMPERATURE
    q, log_q = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    mean = jnp.mean(q, axis=0)
    return -jnp.mean(jnp.sum(q * log_q, -1)) + jnp.sum(mean * jnp.log(mean + mean_floor))


def perplexity(indices: jax.Array, codebook_size: int) -> jax.Array:
    """`exp` of the entropy of the codes used in this batch, averaged over codebooks; `indices` is `[B, C, L/C]`."""
    counts = code_counts(indices, codebook_size)
    shares = counts / jnp.sum(counts, -1, keepdims=True)
    return jnp.mean(jnp.exp(-jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)), -1)))


def code_counts(indices: jax.Array, codebook_size: int, weights: jax.Array | None = None) -> jax.Array:
    """How often each code occurs: `[B, C, L/C] -> [C, K]` float32; an image counts `weights` `[B]` times."""
    codebook = jnp.arange(indices.shape[1])[None, :, None]
    amount = 1.0 if weights is None else jnp.broadcast_to(weights[:, None, None], indices.shape)
    return jnp.zeros((indices.shape[1], codebook_size), jnp.float32).at[codebook, indices].add(amount)


def _straight_through(z, z_q):
    return z + jax.lax.stop_gradient(z_q - z)


def _cosine(a, b):
    return jnp.mean(jnp.sum(normalize(a) * normalize(b), -1))


class SoftVQ(nnx.Module):
    """Soft vector quantisation: a latent is the posterior average of all codes (SoftVQ-VAE, eq. 3-4).

    `posterior="released"` is `softmax(<z, c> / tau)` with the codebook detached inside the logits: the codes learn only
    through the average. `posterior="paper"` is `softmax(-|z - c| / tau)`, not detached.
    """

    discrete = False

    def __init__(self, dim, codebook_size, num_codebooks, *, temperature, l2_normalize, posterior, rngs: nnx.Rngs):
        self.temperature, self.l2_normalize, self.posterior = temperature, l2_normalize, posterior
        self.codebook = nnx.Param(uniform_codebook(rngs, num_codebooks, codebook_size, dim))
        self.input_dim = dim

    def posterior_logits(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits before division by the temperature, `[C, B, L/C, K]`, and the codes that are averaged, `[C, K, D]`."""
        codes = self.codebook[...]
        z = segment(z, codes.shape[0])
        if self.l2_normalize:
            z, codes = normalize(z), normalize(codes)
        if self.posterior == "released":
            return jnp.einsum("cbld,ckd->cblk", z, jax.lax.stop_gradient(codes)), codes
        # The square root has no gradient at 0: a floor of 1e-12 on the squared distance keeps it finite.
        return -jnp.sqrt(jnp.maximum(squared_distances(z, codes), 1e-12)), codes

    def __call__(self, z: jax.Array, key: jax.Array | None = None) -> Bottlenecked:
        logits, codes = self.posterior_logits(z)
        probabilities = jax.nn.softmax(logits / self.temperature)
        latents = unsegment(jnp.einsum("cblk,ckd->cbld", probabilities, codes))
        indices = jnp.argmax(logits, -1).swapaxes(0, 1).astype(jnp.int32)
        stats = {
            "max_probability": jnp.mean(jnp.max(probabilities, -1)),
            "quantizer_cosine": _cosine(z, latents),
            "perplexity": perplexity(indices, codes.shape[1]),
        }
        return Bottlenecked(latents, {"entropy": entropy_loss(logits, 1e-6)}, indices, stats)

    def encode(self, z: jax.Array) -> jax.Array:
        logits, codes = self.posterior_logits(z)
        return unsegment(jnp.einsum("cblk,ckd->cbld", jax.nn.softmax(logits / self.temperature), codes))


class _NearestCode(nnx.Module):
    """What VQ and SimVQ share: the nearest code by L2, straight-through, codebook and commitment losses."""

    discrete = True

    def codes(self) -> jax.Array:
        """`[C, K, D]`."""
        raise NotImplementedError

    def prepare(self, z: jax.Array) -> jax.Array:
        """The vectors that are compared with the codes, `[B, L, D]`."""
        return z

    def __call__(self, z: jax.Array, key: jax.Array | None = None) -> Bottlenecked:
        z, codes = self.prepare(z), self.codes()
        distances = squared_distances(segment(z, codes.shape[0]), codes)
        indices = jnp.argmin(distances, -1).swapaxes(0, 1).astype(jnp.int32)
        z_q = _gather(codes, indices)
        losses = {
            "codebook": jnp.mean(jnp.square(z_q - jax.lax.stop_gradient(z))),
            "commitment": jnp.mean(jnp.square(jax.lax.stop_gradient(z_q) - z)),
            "entropy": entropy_loss(-distances, 1e-5),
        }
        stats = {"quantizer_cosine": _cosine(z, z_q), "perplexity": perplexity(indices, codes.shape[1])}
        return Bottlenecked(_straight_through(z, z_q), losses, indices, stats)

    def encode_indices(self, z: jax.Array) -> jax.Array:
        codes = self.codes()
        distances = squared_distances(segment(self.prepare(z), codes.shape[0]), codes)
        return jnp.argmin(distances, -1).swapaxes(0, 1).astype(jnp.int32)

    def lookup(self, indices: jax.Array) -> jax.Array:
        """`[B, C, L/C] -> [B, L, D]`."""
        return _gather(self.codes(), indices)

    def encode(self, z: jax.Array) -> jax.Array:
        return self.lookup(self.encode_indices(z))


def _gather(codes, indices):
    batch, num_codebooks, length = indices.shape
    z_q = codes[jnp.arange(num_codebooks)[None, :, None], indices]
    return z_q.reshape(batch, num_codebooks * length, -1)


class VQ(_NearestCode):
    """Vector quantisation (van den Oord et al., 2017), on normalised vectors when `l2_normalize`."""

    def __init__(self, dim, codebook_size, num_codebooks, *, l2_normalize, rngs: nnx.Rngs):
        self.l2_normalize, self.input_dim = l2_normalize, dim
        self.codebook = nnx.Param(uniform_codebook(rngs, num_codebooks, codebook_size, dim))

    def codes(self):
        return normalize(self.codebook[...]) if self.l2_normalize else self.codebook[...]

    def prepare(self, z):
        return normalize(z) if self.l2_normalize else z


class SimVQ(_NearestCode):
    """A normal codebook, frozen by default, behind one learned linear map (SimVQ, arXiv 2411.02038)."""

    def __init__(self, dim, codebook_size, num_codebooks, *, train_codebook, rngs: nnx.Rngs):
        self.train_codebook, self.input_dim = train_codebook, dim
        shape = (num_codebooks, codebook_size, dim)
        self.codebook = nnx.Param(dim**-0.5 * jax.random.normal(rngs.params(), shape))
        bound = dim**-0.5
        uniform = lambda shape: jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)  # noqa: E731
        self.projection = nnx.Param(uniform((dim, dim)))
        self.projection_bias = nnx.Param(uniform((dim,)))

    def codes(self):
        codebook = self.codebook[...] if self.train_codebook else jax.lax.stop_gradient(self.codebook[...])
        return codebook @ self.projection[...] + self.projection_bias[...]


class KL(nnx.Module):
    """A diagonal Gaussian latent, sampled in training (Kingma and Welling, 2014); `z` is `[mean, log-variance]`."""

    discrete = False

    def __init__(self, dim):
        self.input_dim = 2 * dim

    def __call__(self, z: jax.Array, key: jax.Array | None = None) -> Bottlenecked:
        mean, log_variance = self.moments(z)
        kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1.0 - log_variance, axis=(1, 2))
        latents = mean if key is None else mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        stats = {"latent_std": jnp.mean(jnp.exp(0.5 * log_variance))}
        return Bottlenecked(latents, {"kl": jnp.mean(kl)}, stats=stats)

    def moments(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_variance = jnp.split(z, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def encode(self, z: jax.Array) -> jax.Array:
        return self.moments(z)[0]


class AE(nnx.Module):
    """No bottleneck: the latents are the encoder's output."""

    discrete = False

    def __init__(self, dim):
        self.input_dim = dim

    def __call__(self, z: jax.Array, key: jax.Array | None = None) -> Bottlenecked:
        return Bottlenecked(z, {})

    def encode(self, z: jax.Array) -> jax.Array:
        return z


def uniform_codebook(rngs: nnx.Rngs, num_codebooks: int, codebook_size: int, dim: int) -> jax.Array:
    """`[C, K, D]` uniform in +-1/K."""
    bound = 1.0 / codebook_size
    return jax.random.uniform(rngs.params(), (num_codebooks, codebook_size, dim), minval=-bound, maxval=bound)
