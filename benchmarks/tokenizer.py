"""Speed of a tokenizer, relative to large matmuls on the same machine.

    python benchmarks/tokenizer.py                                   # B-64 at 256 px, batch 8, float32
    python benchmarks/tokenizer.py --config=configs/l64.py --dtype=bfloat16 --batch=128      # on an accelerator

Prints images/s and the share of the best matmul rate for encode, decode, and forward + backward (pixel loss). FLOPs are
model FLOPs: the matmuls of the forward pass, three times that for forward + backward, recomputation not counted. With
`--peak_tflops` it also prints the MFU, the share of the accelerator's peak.
"""

import time

import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_flags

from softvq_jax.aot.flops import matmul_flops
from softvq_jax.losses.reconstruction import pixel_l2
from softvq_jax.models.functional import functional
from softvq_jax.models.tokenizer import TokenizerConfig, TokenizerModel
from softvq_jax.weights.tokenizer_kinds import config_from_fields

_CONFIG = config_flags.DEFINE_config_file("config", "configs/b64.py", "Config of the tokenizer.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Data type of the matmuls.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images per batch.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Seconds to measure each function.")
_PEAK = flags.DEFINE_float("peak_tflops", None, "Peak of the accelerator in TFLOP/s, for the MFU.")


def alternate(functions, seconds: float) -> list[float]:
    """Returns the best time of each function in seconds. Functions take turns, so that a drift in speed affects all."""
    for function in functions:
        jax.block_until_ready(function())
    best = [float("inf")] * len(functions)
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end:
        for i, function in enumerate(functions):
            began = time.perf_counter()
            jax.block_until_ready(function())
            best[i] = min(best[i], time.perf_counter() - began)
    return best


def matmuls(dtype):
    """Yields large square matmuls: `(FLOPs, function)`."""
    multiply = jax.jit(lambda a, b: a @ b)
    for size in (2048, 4096) if jax.default_backend() == "cpu" else (8192, 16384):
        a, b = jax.random.normal(jax.random.key(size), (2, size, size)).astype(dtype)
        yield 2.0 * size**3, lambda a=a, b=b: multiply(a, b)


def tokenizer_functions(config: TokenizerConfig, batch: int):
    """Yields `(name, model FLOPs, function)` of encode, decode, and forward + backward."""
    net = functional(TokenizerModel, config)
    params, _ = jax.jit(net.init)(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (batch, config.image_size, config.image_size, 3), minval=-1.0)

    def encode(params, images):
        return net(params).encode(images)

    def decode(params, latents):
        return net(params).decode(latents)

    def loss(params, images):
        model = net(params)
        out = model(images)
        return pixel_l2(model.decoder.to_pixels(out.decoded), images)

    latents = jax.jit(encode)(params, images)
    forward = matmul_flops(jax.make_jaxpr(loss)(params, images))
    for name, flops, function, argument in (
        ("encode", matmul_flops(jax.make_jaxpr(encode)(params, images)), encode, images),
        ("decode", matmul_flops(jax.make_jaxpr(decode)(params, latents)), decode, latents),
        ("forward + backward", 3 * forward, jax.value_and_grad(loss), images),
    ):
        compiled = jax.jit(function).lower(params, argument).compile()
        yield name, flops, lambda compiled=compiled, argument=argument: compiled(params, argument)


def main(_):
    config = _CONFIG.value
    config.model.dtype = _DTYPE.value
    model = config_from_fields(config.model.to_dict())
    products, functions = list(matmuls(jnp.dtype(_DTYPE.value))), list(tokenizer_functions(model, _BATCH.value))
    times = alternate([product[1] for product in products] + [function[2] for function in functions], _SECONDS.value)
    rate = max(flops / seconds for (flops, _), seconds in zip(products, times, strict=False))
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}, {_DTYPE.value}, batch {_BATCH.value}")
    print(f"{'best large matmul':<20} {rate / 1e9:10.1f} GFLOP/s")
    for (name, flops, _), seconds in zip(functions, times[len(products) :], strict=True):
        share = f"{flops / seconds / rate:6.3f} of matmul"
        mfu = f"  MFU {flops / seconds / (_PEAK.value * 1e12):.3f}" if _PEAK.value else ""
        print(
            f"{name:<20} {_BATCH.value / seconds:10.2f} images/s  {flops / seconds / 1e9:10.1f} GFLOP/s  {share}{mfu}"
        )


if __name__ == "__main__":
    app.run(main)
