"""Speed of generation by number of tokens: SiT at 32 and 64 tokens against the 256 and 1,024 of common 2-D latents.

    python benchmarks/generation.py                        # SiT-B in float32 on a CPU, SiT-XL in bfloat16 elsewhere
    python benchmarks/generation.py --steps=250 --batch=64
    python benchmarks/generation.py --latency              # only 64 tokens at batch 1 and at --network-batch

Each row samples (Euler-Maruyama, guidance in an interval) and decodes a batch. Weights are random, because their values do
not change the time. 1-D latents are decoded by SoftVQ's ViT; 2-D latents (f8, 4 channels, patches of 2 x 2) by the
convolutional decoder of latent diffusion's KL-f8, which is implemented below. Rounds alternate between the rows; the best
round of each row counts.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.aot.flops import matmul_flops
from softvq_jax.diffusion.samplers import sde_times
from softvq_jax.generator import Generator, abstract_params
from softvq_jax.generators.sit import SIT
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.models.vit import ViTConfig

CLAIMS = {(32, 256): 18, (64, 1024): 55}  # speedup in images/s by SoftVQ-VAE's abstract, at 256 px and at 512 px
README_STEPS = 250


@dataclasses.dataclass(frozen=True)
class Latents:
    """Latents of `tokens` tokens with `channels` channels, for images of `image_size` pixels; `grid` if they are 2-D."""

    tokens: int
    channels: int
    image_size: int
    grid: bool


KINDS = (
    Latents(32, 64, 256, grid=False),
    Latents(256, 16, 256, grid=True),
    Latents(64, 32, 512, grid=False),
    Latents(1024, 16, 512, grid=True),
)


class ResidualBlock(nnx.Module):
    """Residual block of two convolutions, each after group norm and SiLU."""

    def __init__(self, width_in: int, width: int, dtype: str, rngs: nnx.Rngs):
        self.norm1 = nnx.GroupNorm(width_in, rngs=rngs)
        self.conv1 = nnx.Conv(width_in, width, (3, 3), dtype=dtype, rngs=rngs)
        self.norm2 = nnx.GroupNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), dtype=dtype, rngs=rngs)
        self.shortcut = None if width_in == width else nnx.Conv(width_in, width, (1, 1), dtype=dtype, rngs=rngs)

    def __call__(self, x):
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class KLf8Decoder(nnx.Module):
    """Decoder of latent diffusion's KL-f8 (arXiv 2112.10752, appendix G): `[B, h, w, 4] -> [B, 8h, 8w, 3]`."""

    def __init__(self, dtype: str, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.conv_in = nnx.Conv(4, 512, (3, 3), **options)
        self.middle = nnx.List([ResidualBlock(512, 512, dtype, rngs) for _ in range(2)])
        self.attention_norm = nnx.GroupNorm(512, rngs=rngs)
        self.qkv, self.proj = nnx.Linear(512, 3 * 512, **options), nnx.Linear(512, 512, **options)
        self.levels, self.upsampling = nnx.List(), nnx.List()
        for width_in, width in ((512, 512), (512, 512), (512, 256), (256, 128)):
            widths = (width_in, width, width)
            self.levels.append(nnx.List([ResidualBlock(w, width, dtype, rngs) for w in widths]))
            self.upsampling.append(nnx.Conv(width, width, (3, 3), **options) if width > 128 else None)
        self.norm_out = nnx.GroupNorm(128, rngs=rngs)
        self.conv_out = nnx.Conv(128, 3, (3, 3), **options)

    def __call__(self, z):
        x = self.middle[0](self.conv_in(z))
        x = self.middle[1](x + self.attend(x))
        for blocks, upsampling in zip(self.levels, self.upsampling, strict=True):
            for block in blocks:
                x = block(x)
            if upsampling is not None:
                x = upsampling(x.repeat(2, axis=1).repeat(2, axis=2))
        return self.conv_out(jax.nn.silu(self.norm_out(x)))

    def attend(self, x):
        q, k, v = jnp.split(self.qkv(self.attention_norm(x).reshape(len(x), -1, 1, 512)), 3, axis=-1)
        return self.proj(jax.nn.dot_product_attention(q, k, v)).reshape(x.shape)


class GridDecoder(nnx.Module):
    """KL-f8 decoder of tokens `[B, L, 16]`, which are 2 x 2 patches of a latent image."""

    def __init__(self, dtype: str, rngs: nnx.Rngs):
        self.decoder = KLf8Decoder(dtype, rngs)

    def decode(self, latents):
        side = int(latents.shape[1] ** 0.5)
        patches = latents.reshape(-1, side, side, 2, 2, 4)
        return self.decoder(patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 2 * side, 2 * side, 4))


def random_params(tree):
    """Returns small random arrays with the shapes of `tree`."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(0.02 * rng.standard_normal(leaf.shape, np.float32)), tree)


def make_decoder(kind: Latents, size: str, dtype: str) -> tuple[Callable, float]:
    """Returns a compiled function of latents, and its multiply-adds per image."""
    if kind.grid:
        init = lambda: GridDecoder(dtype, nnx.Rngs(0))  # noqa: E731
    else:
        vit = ViTConfig(768, 12, 12) if size in ("S", "B") else ViTConfig(1024, 24, 16)
        config = TokenizerConfig(
            vit,
            vit,
            image_size=kind.image_size,
            num_latent_tokens=kind.tokens,
            latent_dim=kind.channels,
            bottleneck="ae",
            num_codebooks=1,
            dtype=dtype,
        )
        init = lambda: TokenizerModel(config, rngs=nnx.Rngs(0))  # noqa: E731
    graphdef, state = nnx.split(nnx.eval_shape(init))
    params = random_params(nnx.to_pure_dict(state))
    decode = jax.jit(lambda params, latents: nnx.merge(graphdef, params).decode(latents))
    one = jax.ShapeDtypeStruct((1, kind.tokens, kind.channels), jnp.float32)
    return lambda latents: decode(params, latents), matmul_flops(jax.make_jaxpr(decode)(params, one)) / 2


class Sampler:
    """SiT on latents of one shape; each method waits for its result."""

    def __init__(self, kind: Latents, args, batch: int):
        config = SIT.preset(args.size, num_tokens=kind.tokens, channels=kind.channels, dtype=args.dtype)
        assert isinstance(config, DiTConfig)
        self.config = config
        self._generator = Generator(config, random_params(abstract_params(config)), LatentStatistics(0.0, 1.0))
        network = SIT.network(config)
        self._velocity = jax.jit(lambda params, *inputs: network(params)(*inputs))
        self._labels = np.arange(batch) % self.config.num_classes
        self._x = jnp.ones((batch, kind.tokens, kind.channels))
        self._steps, self._guidance, self._interval = args.steps, args.guidance, (0.0, args.guidance_high)

    def evaluate(self):
        t = jnp.full(len(self._x), 0.5)
        return jax.block_until_ready(self._velocity(self._generator.params, self._x, t, jnp.asarray(self._labels)))

    def sample(self):
        options = {"steps": self._steps, "guidance": self._guidance, "guidance_interval": self._interval}
        return jax.block_until_ready(self._generator.sample(self._labels, key=jax.random.key(0), **options))


def count_evaluations(steps: int, guidance: float, high: float) -> int:
    """Returns the evaluations of the network per image: two per step with guidance, else one."""
    times = sde_times(steps)[:-1]
    return steps + int(np.sum(times <= high)) * (guidance != 1)


def best_seconds(functions: list[Callable], rounds: int) -> list[float]:
    """Returns the shortest time of each function. Functions are called in turns, after a first call that compiles."""
    for function in functions:
        function()
    times = np.empty((rounds, len(functions)))
    for row in times:
        for i, function in enumerate(functions):
            begin = time.perf_counter()
            function()
            row[i] = time.perf_counter() - begin
    return times.min(axis=0).tolist()


def network_report(args) -> str:
    """Returns a report that compares one network evaluation with large matmuls, and the sampling loop with evaluations."""
    sampler = Sampler(Latents(64, 32, 256, grid=False), args, args.network_batch)
    matrix = jnp.ones((4096, 4096) if args.size == "XL" else (2048, 2048), args.dtype)
    product = jax.jit(jnp.matmul)
    functions = [lambda: jax.block_until_ready(product(matrix, matrix)), sampler.evaluate, sampler.sample]
    matmul, one, loop = best_seconds(functions, args.rounds)
    rate = len(matrix) ** 3 / matmul
    share = args.network_batch * sampler.config.multiply_adds / one / rate
    evaluations = count_evaluations(args.steps, args.guidance, args.guidance_high)
    return (
        f"SiT-{args.size} at 64 tokens, batch {args.network_batch}, {args.dtype}: one evaluation {one * 1e3:.1f} ms, "
        f"{share:.2f} of the machine's matmul rate ({rate / 1e9:,.0f} G multiply-adds/s). A loop of {args.steps} steps "
        f"takes {loop / (evaluations * one):.3f} times as long as its {evaluations} evaluations."
    )


class Measured(NamedTuple):
    """Multiply-adds and seconds per image for latents of one shape."""

    kind: Latents
    evaluation_macs: float
    decoder_macs: float
    sampling: float
    decoding: float

    def rate(self, more: float = 1.0) -> float:
        """Returns images/s with `more` times as many evaluations."""
        return 1 / (more * self.sampling + self.decoding)


def measure(kind: Latents, args, batch: int) -> Measured:
    """Measures sampling and decoding of a batch."""
    sampler = Sampler(kind, args, batch)
    decode, decoder_macs = make_decoder(kind, args.size, args.dtype)
    latents = sampler.sample()
    times = best_seconds([sampler.sample, lambda: jax.block_until_ready(decode(latents))], args.rounds)
    return Measured(kind, sampler.config.multiply_adds, decoder_macs, *(each / batch for each in times))


def images_report(args) -> str:
    """Returns the tables of the four kinds of latents and of the two speedups, in Markdown."""
    kinds = [kind for kind in KINDS if kind.image_size in args.image_sizes]
    of_kind = {kind.tokens: measure(kind, args, args.batch) for kind in kinds}
    evaluations = count_evaluations(README_STEPS, args.guidance, args.guidance_high)
    more = evaluations / count_evaluations(args.steps, args.guidance, args.guidance_high)
    lines = [
        f"| tokens | image | G multiply-adds: evaluation | decoder | sampling s/image | decoding s/image "
        f"| images/s | images/s at {README_STEPS} steps, computed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m in of_kind.values():
        lines.append(
            f"| {m.kind.tokens} | {m.kind.image_size} px | {m.evaluation_macs / 1e9:.1f} | {m.decoder_macs / 1e9:.0f} "
            f"| {m.sampling:.3g} | {m.decoding:.3g} | {m.rate():.3g} | {m.rate(more):.3g} |"
        )
    lines += [
        "",
        f"| speedup | measured | at {README_STEPS} steps, computed | sampling alone | multiply-adds | paper |",
        "|---|---|---|---|---|---|",
    ]
    for (few, many), claim in CLAIMS.items():
        if few not in of_kind:
            continue
        a, b = of_kind[few], of_kind[many]
        macs = [evaluations * m.evaluation_macs + m.decoder_macs for m in (a, b)]
        lines.append(
            f"| {few} against {many} tokens | {a.rate() / b.rate():.1f}x | {a.rate(more) / b.rate(more):.1f}x "
            f"| {b.sampling / a.sampling:.1f}x | {macs[1] / macs[0]:.1f}x | {claim}x |"
        )
    return "\n".join(lines)


def latency_report(args) -> str:
    """Returns the time of a batch of one image, and that of a large batch, in Markdown; 64 tokens of images of 256 px."""
    kind = Latents(64, 32, 256, grid=False)
    more = count_evaluations(README_STEPS, args.guidance, args.guidance_high) / count_evaluations(
        args.steps, args.guidance, args.guidance_high
    )
    lines = [
        f"| batch | sampling s | decoding s | images/s | at {README_STEPS} steps, computed: s | images/s |",
        "|---|---|---|---|---|---|",
    ]
    for batch in (1, args.network_batch):
        found = measure(kind, args, batch)
        latency = batch / found.rate(more)
        lines.append(
            f"| {batch} | {batch * found.sampling:.3f} | {batch * found.decoding:.3f} | {found.rate():.3g} "
            f"| {latency:.3g} | {found.rate(more):.3g} |"
        )
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    accelerator = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIT.presets, default="XL" if accelerator else "B", help="size of SiT")
    parser.add_argument("--dtype", default="bfloat16" if accelerator else "float32", help="data type of the matmuls")
    parser.add_argument("--batch", type=int, default=64 if accelerator else 2, help="images per batch")
    parser.add_argument("--steps", type=int, default=README_STEPS if accelerator else 8)
    parser.add_argument("--guidance", type=float, default=1.75)
    parser.add_argument("--guidance-high", type=float, default=0.7, help="guidance applies at t up to this")
    parser.add_argument("--network-batch", type=int, default=16, help="batch of the single evaluation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--image-sizes",
        type=int,
        nargs="+",
        choices=(256, 512),
        default=(256, 512),
        help="sizes of the images in pixels",
    )
    parser.add_argument("--latency", action="store_true", help="only sampling and decoding of 64 tokens, by batch")
    return parser.parse_args()


def main():
    args = parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {args.dtype}, batch {args.batch}, {args.steps} Euler-Maruyama steps", end=", ")
    print(f"guidance {args.guidance} up to t = {args.guidance_high}")
    if args.latency:
        print(latency_report(args))
    else:
        print(network_report(args), images_report(args), sep="\n\n")


if __name__ == "__main__":
    main()
