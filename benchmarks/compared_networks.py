"""The networks that `side_by_side.py` compares, with random weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.config import load_config
from softvq_jax.generator import abstract_params
from softvq_jax.generators.sit import SIT
from softvq_jax.generators.transformer import weight_rules
from softvq_jax.losses.reconstruction import pixel_l2
from softvq_jax.models.discriminators import DinoDiscriminator
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.functional import functional
from softvq_jax.models.layers import unstack_for_loop
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.tokenizer import TokenizerModel
from softvq_jax.weights import layout
from softvq_jax.weights.discriminators import head_buffer_rules, head_rules
from softvq_jax.weights.lpips import lpips_rules
from softvq_jax.weights.tokenizer import tokenizer_rules
from softvq_jax.weights.tokenizer_kinds import config_from_fields, config_to_dict

SAMPLING_STEPS = 250  # evaluations of SiT are those of a loop of so many


class Case:
    """A comparison: the networks, their inputs, and the functions that both sides run.

    Attributes:
      kind, config: kind of network and its config, from which the peer makes its network.
      tensors: state dict in the published layout.
      inputs: arrays by name.
      names: names of the functions to run.
      tolerances: of the compared calls of each function, as multiples of `side_by_side.TOLERANCE`.
    """

    kind: str
    config: dict
    tensors: dict[str, np.ndarray]
    inputs: dict[str, jax.Array]
    names: tuple[str, ...]
    tolerances: tuple[float, ...] = (1,)

    def run(self, name: str):
        """Runs our function `name` and waits for it; returns its result."""
        raise NotImplementedError

    def numbers(self, name: str) -> dict[str, np.ndarray]:
        """Runs our function `name`; returns numbers to compare."""
        raise NotImplementedError


class NetworkCase(Case):
    """A network; `functions` are `(function, arguments, gradient)` by name.

    With a gradient, a function returns `(result, gradients)`.
    """

    def __init__(self, kind, config, tensors, inputs, functions: dict[str, tuple[Callable, tuple, bool]]):
        self.kind, self.config, self.tensors, self.inputs = kind, config, tensors, inputs
        self.functions, self.names = functions, tuple(functions)

    def run(self, name):
        function, arguments, _ = self.functions[name]
        return jax.block_until_ready(function(*arguments))

    def numbers(self, name):
        if not self.functions[name][2]:
            return {"result": np.asarray(self.run(name))}
        result, gradients = self.run(name)
        squares = sum(float(np.sum(np.square(np.asarray(g, np.float64)))) for g in jax.tree.leaves(gradients))
        return {"result": np.asarray(result), "gradient_norm": np.sqrt(squares)}


def tokenizer(args) -> Case:
    """Encodes, decodes, and trains on the pixel loss."""
    model = load_config(args.config).model
    model.dtype = args.dtype
    config = config_from_fields(model.to_dict())
    net = functional(TokenizerModel, config)
    params = random_parameters(net.shapes)
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
    return NetworkCase("tokenizer", config_to_dict(config), tensors, {"images": images, "latents": latents}, functions)


def sit(args) -> Case:
    """One evaluation, and training on given targets."""
    config = SIT.preset(args.size, num_tokens=64, channels=32, dtype=args.dtype)
    assert isinstance(config, DiTConfig)
    network = SIT.network(config)
    params = random_parameters(abstract_params(config))
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
    sampled = network(params)
    unstack_for_loop(sampled, args.batch * config.num_tokens, SAMPLING_STEPS)
    graphdef, unstacked = nnx.split(sampled)
    evaluate = jax.jit(lambda params, *rest: nnx.merge(graphdef, params)(*rest))
    functions = {
        "evaluation": (evaluate, (unstacked, *_first(inputs, 3)), False),
        "forward + backward": (gradient, (trained, *_first(inputs, 4)), True),
    }
    fields = {name: getattr(config, name) for name in ("num_tokens", "channels", "width", "depth", "num_heads")}
    fields["num_classes"] = config.num_classes
    return NetworkCase("sit", fields, layout.write(weight_rules(config), params), inputs, functions)


def lpips(args) -> Case:
    """The distance, and its gradient with respect to one of the images."""
    net = functional(LPIPS, dtype=args.dtype)
    params = random_parameters(net.shapes, positive=("head",))
    a, b = jax.random.uniform(jax.random.key(1), (2, args.batch, 256, 256, 3), minval=-1.0)
    distance = jax.jit(lambda params, a, b: net(params)(a, b))
    gradient = jax.jit(jax.value_and_grad(lambda b, params, a: jnp.mean(net(params)(a, b))))
    functions = {
        "distance": (distance, (params, a, b), False),
        "distance + gradient": (gradient, (b, params, a), True),
    }
    return NetworkCase("lpips", {}, layout.write(lpips_rules(), params), {"a": a, "b": b}, functions)


def discriminator(args) -> Case:
    """The trained heads on features of the frozen trunk: logits, and gradients of their mean."""
    net = functional(DinoDiscriminator, dtype=args.dtype)
    params, buffers = jax.jit(net.init)(jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (5, args.batch, 196, 384))

    def loss(params, features):
        return jnp.mean(net(params, buffers)(features, train=True))

    functions = {"forward + backward": (jax.jit(jax.value_and_grad(loss)), (params, features), True)}
    tensors = layout.write(head_rules(), params) | layout.write(head_buffer_rules(), buffers)
    return NetworkCase("discriminator", {"width": 384}, tensors, {"features": features}, functions)


def _first(inputs, count):
    return tuple(inputs.values())[:count]


def random_parameters(shapes, positive=()):
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
