"""Tokenizer and generator on meshes of a user's own: results, shardings, and gradients, with 8 devices.

Every case is compared with the same call without a mesh. Prints the names of the cases.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from softvq_jax.generator import Generator
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.parallel.mesh import make_mesh
from tests import small_tokenizers as small
from tests.generator_test import SIT, _params

TOKENIZER = small.tokenizer(small.config("softvq"))
GENERATOR = Generator(SIT, _params(SIT), LatentStatistics(0.5, 2.0))
IMAGES = small.images(8)
LABELS = np.arange(8, dtype=np.int32) % 7
SAMPLE = functools.partial(GENERATOR.sample, key=jax.random.key(0), steps=3, guidance=2.0)


def expected():
    """The results without a mesh."""
    latents = TOKENIZER.encode(IMAGES)
    return latents, TOKENIZER.decode(latents), SAMPLE(LABELS)


def check(name, got, want, spec):
    """Compares values, and the sharding where a spec is given."""
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3, err_msg=name)
    if spec is not None:
        sharding = got.sharding
        wanted = NamedSharding(sharding.mesh, spec)
        assert sharding.is_equivalent_to(wanted, got.ndim), f"{name}: {sharding}; expected {spec}"
    print(name)


def on_a_mesh(name, mesh, spec, latents, images, samples):
    """Encode, decode and sample: called, inside `jit`, and with the tokenizer as an argument; and a gradient."""
    with jax.set_mesh(mesh):
        batch, labels = (jax.device_put(x, NamedSharding(mesh, spec)) for x in (IMAGES, LABELS))
        encoded = TOKENIZER.encode(batch)
        check(f"{name}: encode", encoded, latents, spec)
        levels = jnp.uint8(jnp.round(127.5 * batch + 127.5))
        check(f"{name}: uint8", TOKENIZER.encode(levels), TOKENIZER.encode(levels / 127.5 - 1), spec)
        check(f"{name}: decode", TOKENIZER.decode(encoded), images, spec)
        check(f"{name}: jit(encode)", jax.jit(TOKENIZER.encode)(batch), latents, spec)
        replicated = jax.device_put(TOKENIZER, NamedSharding(mesh, P()))
        check(f"{name}: jit(tokenizer)", jax.jit(lambda t, x: t.encode(x))(replicated, batch), latents, spec)
        check(f"{name}: sample", SAMPLE(labels), samples, spec)
        check(f"{name}: jit(sample)", jax.jit(SAMPLE)(labels), samples, spec)
        loss = lambda t, x: jnp.mean((t.reconstruct(x, clip=False) - x) ** 2)  # noqa: E731
        grads = jax.jit(jax.grad(loss))(replicated, batch)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        print(f"{name}: grad")


def in_shard_map(mesh, latents, images, samples):
    """Each device works on its own rows."""
    spread = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    check("shard_map: encode", jax.jit(spread(TOKENIZER.encode))(IMAGES), latents, P("data"))
    check("shard_map: decode", jax.jit(spread(TOKENIZER.decode))(latents), images, P("data"))
    check("shard_map: eager", spread(TOKENIZER.encode)(IMAGES), latents, P("data"))
    draw = lambda labels, indices: SAMPLE(labels, indices=indices)  # noqa: E731
    spread = functools.partial(spread, in_specs=(P("data"), P("data")))
    check("shard_map: sample", jax.jit(spread(draw))(LABELS, np.arange(8)), samples, P("data"))


def main():
    want = expected()
    devices = np.asarray(jax.devices())
    on_a_mesh("auto", Mesh(devices, ("data",)), P("data"), *want)
    on_a_mesh("explicit", jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)), P("data"), *want)
    on_a_mesh(
        "two explicit axes", jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2), P("x"), *want
    )
    on_a_mesh("the library's", make_mesh(), P(("slice", "data", "fsdp")), *want)
    in_shard_map(Mesh(devices, ("data",)), *want)


if __name__ == "__main__":
    main()
