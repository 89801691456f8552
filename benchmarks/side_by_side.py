"""Ratios of speed between this package and the same networks in PyTorch, which take turns.

    python benchmarks/side_by_side.py --python=TORCH_ENVIRONMENT/bin/python                # B-64, 8 images, float32
    python benchmarks/side_by_side.py --python=... --case=sit --size=B --batch=16
    python benchmarks/side_by_side.py --python=... --case=tokenizer --config=l64 --dtype=bfloat16 --batch=128  # on a GPU

The peer is `benchmarks/peer_torch.py`, in a separate process with the interpreter `--python`, which needs torch and numpy.
Both load the same random weights, and results and gradients must agree before anything is timed. Then this package and the
peer's variants (eager, `torch.compile`) take turns; only one runs at a time. The ratio is the peer's time divided by ours:
above 1, ours is faster. It is printed for the fastest calls and for the median of the rounds, against the peer's faster
variant.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.config import load_config
from softvq_jax.generator import abstract_params
from softvq_jax.generators.sit import SIT
from softvq_jax.generators.transformer import weight_rules
from softvq_jax.losses.reconstruction import pixel_l2
from softvq_jax.models.discriminators import DinoDiscriminator
from softvq_jax.models.functional import functional
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.tokenizer import TokenizerModel
from softvq_jax.weights import layout
from softvq_jax.weights.discriminators import head_buffer_rules, head_rules
from softvq_jax.weights.lpips import lpips_rules
from softvq_jax.weights.tokenizer import tokenizer_rules
from softvq_jax.weights.tokenizer_kinds import config_from_fields, config_to_dict

PEER = pathlib.Path(__file__).with_name("peer_torch.py")
TOLERANCE = {"float32": 2e-4, "bfloat16": 3e-2}  # of results, relative to their norm, and of gradient norms


class Case:
    """Networks and inputs of both sides.

    Attributes:
      kind, config: kind of network and its config, from which the peer makes its network.
      tensors: state dict in the published layout.
      inputs: arrays by name.
      functions: `(function, arguments, gradient)` by name. With a gradient, the function returns `(result, gradients)`.
    """

    def __init__(self, kind, config, tensors, inputs, functions):
        self.kind, self.config, self.tensors, self.inputs = kind, config, tensors, inputs
        self.functions: dict[str, tuple[Callable, tuple, bool]] = functions


def tokenizer(args) -> Case:
    """Encodes, decodes, and trains on the pixel loss."""
    model = load_config(args.config).model
    model.dtype = args.dtype
    config = config_from_fields(model.to_dict())
    net = functional(TokenizerModel, config)
    params = _random(net.shapes)
    size = config.image_size
    images = jax.random.uniform(jax.random.key(1), (args.batch, size, size, 3), minval=-1.0)

    def loss(params, images):
        network = net(params)
        return pixel_l2(network.decoder.to_pixels(network(images).decoded), images)

    encode = jax.jit(lambda params, images: net(params).encode(images))
    decode = jax.jit(lambda params, latents: net(params).decode(latents))
    latents = encode(params, images)
    functions = {
        "encode": (encode, (params, images), False),
        "decode": (decode, (params, latents), False),
        "forward + backward": (jax.jit(jax.value_and_grad(loss)), (params, images), True),
    }
    tensors = layout.write(tokenizer_rules(config), params)
    return Case("tokenizer", config_to_dict(config), tensors, {"images": images, "latents": latents}, functions)


def sit(args) -> Case:
    """One evaluation, and training on given targets."""
    config = SIT.preset(args.size, num_tokens=64, channels=32, dtype=args.dtype)
    network = SIT.network(config)
    params = _random(abstract_params(config))
    keys = jax.random.split(jax.random.key(1), 4)
    shape = (args.batch, config.num_tokens, config.channels)
    inputs = {
        "x": jax.random.normal(keys[0], shape),
        "t": jax.random.uniform(keys[1], (args.batch,)),
        "labels": jax.random.randint(keys[2], (args.batch,), 0, config.num_classes),
        "target": jax.random.normal(keys[3], shape),
    }

    def loss(params, x, t, labels, target):
        return jnp.mean(jnp.square(network(params)(x, t, labels) - target))

    trained = {name: value for name, value in params.items() if name != "pos_embed"}
    fixed = {"pos_embed": params["pos_embed"]}
    gradient = jax.jit(jax.value_and_grad(lambda trained, *rest: loss(trained | fixed, *rest)))
    functions = {
        "evaluation": (jax.jit(lambda params, *rest: network(params)(*rest)), (params, *_first(inputs, 3)), False),
        "forward + backward": (gradient, (trained, *_first(inputs, 4)), True),
    }
    fields = {name: getattr(config, name) for name in ("num_tokens", "channels", "width", "depth", "num_heads")}
    fields["num_classes"] = config.num_classes
    return Case("sit", fields, layout.write(weight_rules(config), params), inputs, functions)


def lpips(args) -> Case:
    """The distance, and its gradient with respect to one of the images."""
    net = functional(LPIPS, dtype=args.dtype)
    params = _random(net.shapes, positive=("head",))
    a, b = jax.random.uniform(jax.random.key(1), (2, args.batch, 256, 256, 3), minval=-1.0)
    distance = jax.jit(lambda params, a, b: net(params)(a, b))
    gradient = jax.jit(jax.value_and_grad(lambda b, params, a: jnp.mean(net(params)(a, b))))
    functions = {
        "distance": (distance, (params, a, b), False),
        "distance + gradient": (gradient, (b, params, a), True),
    }
    return Case("lpips", {}, layout.write(lpips_rules(), params), {"a": a, "b": b}, functions)


def discriminator(args) -> Case:
    """The trained heads on features of the frozen trunk: logits, and gradients of their mean."""
    net = functional(DinoDiscriminator, dtype=args.dtype)
    params, buffers = jax.jit(net.init)(jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (5, args.batch, 196, 384))

    def loss(params, features):
        return jnp.mean(net(params, buffers)(features, train=True))

    functions = {"forward + backward": (jax.jit(jax.value_and_grad(loss)), (params, features), True)}
    tensors = layout.write(head_rules(), params) | layout.write(head_buffer_rules(), buffers)
    return Case("discriminator", {"width": 384}, tensors, {"features": features}, functions)


CASES = {case.__name__: case for case in (tokenizer, sit, lpips, discriminator)}


def _first(inputs, count):
    return tuple(inputs.values())[:count]


def _random(shapes, positive=()):
    """Random parameters of moderate size; gains near 1, so that every block has an effect."""
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        name = jax.tree_util.keystr(path, simple=True, separator="/").rsplit("/", 1)[-1]
        noise = rng.standard_normal(shape.shape, np.float32)
        if name in ("gamma", "scale"):
            return jnp.asarray(1 + 0.1 * noise)
        fan_in = shape.shape[-2] if name == "kernel" else 2500
        scale = (np.prod(shape.shape[:-1]) if name == "kernel" and len(shape.shape) == 4 else fan_in) ** -0.5
        return jnp.asarray(scale * (np.abs(noise) if name.startswith(tuple(positive) or "\0") else noise))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


class Peer:
    """The process of the peer."""

    def __init__(self, python: str, case: Case, folder: pathlib.Path, dtype: str, variants: list[str]):
        self.folder = folder
        np.savez(folder / "weights.npz", **case.tensors)
        np.savez(folder / "inputs.npz", **{name: _peer_type(array) for name, array in case.inputs.items()})
        fields = {"kind": case.kind, "config": case.config, "dtype": dtype, "variants": variants}
        (folder / "case.json").write_text(json.dumps(fields))
        self.process = subprocess.Popen(
            [python, str(PEER), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._reply()["version"]

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: the peer ended with code {self.process.wait()}; its message is above")
        return json.loads(line)

    def ask(self, what: str, variant: str, name: str) -> dict:
        """Sends a command and waits for its answer."""
        self.process.stdin.write(json.dumps({"do": what, "variant": variant, "name": name}) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def numbers(self, variant: str, name: str) -> dict[str, np.ndarray]:
        """Results of a function, to compare with ours."""
        self.ask("check", variant, name)
        with np.load(self.folder / "numbers.npz") as arrays:
            return dict(arrays)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def _peer_type(array):
    array = np.asarray(array)
    return array.astype(np.int64) if array.dtype == np.int32 else array


def check(case: Case, peer: Peer, variants: list[str], names: list[str], tolerance: float) -> None:
    """Compares results and gradient norms of the two sides; raises SystemExit where they differ."""
    for name in names:
        function, arguments, gradient = case.functions[name]
        value = jax.block_until_ready(function(*arguments))
        result, gradients = value if gradient else (value, None)
        result = np.asarray(result, np.float64)
        for variant in variants:
            theirs = peer.numbers(variant, name)
            other = theirs["result"].astype(np.float64)
            if other.ndim == 4:
                other = other.transpose(0, 2, 3, 1)
            error = np.linalg.norm(result - other) / np.linalg.norm(result)
            line = f"{name}, {variant}: results differ by {error:.1e}"
            if gradient:
                norm = np.sqrt(
                    sum(float(np.sum(np.square(np.asarray(g, np.float64)))) for g in jax.tree.leaves(gradients))
                )
                ratio = abs(norm / float(theirs["gradient_norm"]) - 1)
                error, line = max(error, ratio), f"{line}, norms of gradients by {ratio:.1e}"
            if error > tolerance:
                raise SystemExit(f"error: {line}, more than {tolerance:.0e}: not the same networks, nothing is timed")
            print(line, flush=True)


def in_turns(case: Case, peer: Peer, variants: list[str], name: str, rounds: int) -> np.ndarray:
    """Seconds `[rounds, 1 + variants]`: ours, then each variant of the peer."""
    function, arguments, _ = case.functions[name]
    seconds = np.empty((rounds + 1, 1 + len(variants)))
    for row in seconds:
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        row[0] = time.perf_counter() - began
        row[1:] = [peer.ask("time", variant, name)["seconds"] for variant in variants]
    return seconds[1:]  # The first round warms up.


def report(name: str, batch: int, variants: list[str], seconds: np.ndarray) -> str:
    """A row of the table: images/s of both sides, and the ratios."""
    least = seconds.min(axis=0)
    best = 1 + int(np.argmin(least[1:]))
    median = float(np.median(seconds[:, best] / seconds[:, 0]))
    return (
        f"| {name} | {batch / least[0]:.3g} | {batch / least[best]:.3g} ({variants[best - 1]}) "
        f"| {least[best] / least[0]:.2f} | {median:.2f} |"
    )


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="interpreter of an environment with torch")
    parser.add_argument("--case", choices=CASES, default="tokenizer")
    parser.add_argument("--config", default="b64", help="config of the tokenizer")
    parser.add_argument("--size", default="B", help="size of SiT")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="*", help="functions to time; default: all")
    parser.add_argument("--variants", nargs="*", choices=("eager", "compiled"), default=["eager", "compiled"])
    args = parser.parse_args(argv)
    case = CASES[args.case](args)
    names = args.only or list(case.functions)
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(args.python, case, pathlib.Path(folder), args.dtype, args.variants)
        check(case, peer, args.variants, names, TOLERANCE[args.dtype])
        device = jax.devices()[0]
        print(f"{device.device_kind}, {len(os.sched_getaffinity(0))} CPU cores, jax {jax.__version__}, {peer.version}")
        print(f"{args.case}, {args.dtype}, batch {args.batch}, {args.rounds} rounds\n")
        print("| | ours, per s | PyTorch, per s | ratio | median ratio |\n|---|---|---|---|---|", flush=True)
        for name in names:
            seconds = in_turns(case, peer, args.variants, name, args.rounds)
            print(report(name, args.batch, args.variants, seconds), flush=True)
        peak = peer.ask("time", args.variants[0], names[0])["peak_mib"]
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"\npeak memory of the processes, all variants together: ours {own:,.0f} MiB, PyTorch {peak:,.0f} MiB")
        peer.close()


if __name__ == "__main__":
    main()
