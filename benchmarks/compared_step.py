"""The whole training step of a tokenizer, for `side_by_side.py`: both sides draw the same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from compared_networks import Case, random_parameters
from step_draws import step_draws

from softvq_jax.config import load_config
from softvq_jax.parallel.mesh import make_mesh
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.state import Network
from softvq_jax.train.tokenizer_task import TokenizerTask
from softvq_jax.weights import layout, pretrained
from softvq_jax.weights.dino import dino_rules
from softvq_jax.weights.discriminators import head_buffer_rules, head_rules
from softvq_jax.weights.lpips import lpips_rules
from softvq_jax.weights.tokenizer import alignment_rules, tokenizer_rules
from softvq_jax.weights.tokenizer_kinds import config_to_dict
from softvq_jax.weights.vit import vit_rules

SPARE_STEPS = 8  # beyond the timed rounds: comparisons, warm-up, memory
LEARNING_RATE = 1e-4  # large enough that the second step's losses show an error in the first update
PEER = {
    "gan.discriminator": "dino",
    "gan.loss": "hinge",
    "gan.diff_augment": True,
    "gan.random_crop": True,
    "alignment.mode": "repeat",
    "alignment.head": "mlp",
    "alignment.channels": 0,
    "model.bottleneck": "softvq",
    "model.posterior": "released",
    "optim.optimizer": "adamw",
    "optim.ema_warmup": False,
}  # values of the fields for which the peer's step is written


class GanStep(Case):
    """Steps of a config's training, with all losses from the start. All networks are random, the frozen ones as well."""

    kind, names = "gan_step", ("step",)
    # The second step also compares optimizers, running statistics and LeCam's averages. AdamW's first update has the same
    # size for gradients that are only rounding errors as for all others.
    tolerances = (1, 5)

    def __init__(self, args):
        config = _training_config(args)
        networks = pretrained.abstract(config)
        self.task = TokenizerTask(config, networks, num_steps=100_000, steps_per_epoch=1000)
        self.key, steps, size = jax.random.key(0), args.rounds + SPARE_STEPS, config.model.image_size
        state = jax.jit(self.task.init)(jax.random.key(0), {})
        params = random_parameters(state.tokenizer.params)
        optimizer = self.task.generator_optimizer.init(params)
        state = state.replace(tokenizer=Network(params, optimizer), ema=jax.tree.map(jnp.copy, params))
        frozen = random_parameters(self.task.frozen, positive=("head",))
        self.config = _peer_config(config, self.task, networks.arguments)
        self.tensors = _tensors(self.task, networks.arguments, state, frozen)
        images = jax.random.uniform(jax.random.key(1), (args.batch, size, size, 3), minval=-1.0)
        rates = np.array([self.task.learning_rate(step) for step in jnp.arange(steps)])
        trunk_size = self.task.nets.trunk_size
        assert trunk_size is not None  # the config has a discriminator
        draw = jax.vmap(lambda step: step_draws(self.key, step, args.batch, size, trunk_size))
        self.inputs = {"images": images, "learning_rates": jnp.asarray(rates), **jax.jit(draw)(jnp.arange(steps))}
        self.mesh, self.batch = make_mesh(devices=jax.devices()[:1]), {"image": images}
        with jax.set_mesh(self.mesh):
            self.state, self.frozen = put(jax.device_get(state), self.mesh), put(jax.device_get(frozen), self.mesh)
            self.step = jit_step(self.task.step, self.state, self.frozen, self.mesh)

    def run(self, name):
        """Takes a step; returns its metrics."""
        with jax.set_mesh(self.mesh):
            self.state, metrics = self.step(self.state, self.frozen, self.batch, self.key)
        return jax.block_until_ready((self.state, metrics))[1]

    def numbers(self, name):
        return {name: np.asarray(value) for name, value in self.run(name).items()}


def _training_config(args):
    config = load_config(args.config)
    config.model.dtype, config.train.batch_size = args.dtype, args.batch
    config.weights.encoder = ""
    config.gan.start_step = config.loss.perceptual_warmup_steps = 0
    config.optim.update(learning_rate=LEARNING_RATE * 256 / args.batch, warmup_epochs=0.0)
    for field, value in PEER.items():
        section, name = field.split(".")
        if (given := config[section][name]) != value:
            raise SystemExit(f"error: {args.config} has {field}={given}; the peer's step has only {value}")
    return config


def _peer_config(config, task, arguments):
    """The fields that the peer's step reads."""
    loss, gan, optim = config.loss, config.gan, config.optim
    return {
        "model": config_to_dict(task.nets.config),
        "teacher": _vit(*arguments["teacher"]),
        "trunk": _vit(*arguments["trunk"]),
        "trunk_size": task.nets.trunk_size,
        "hidden": config.alignment.hidden,
        "adaptive": gan.adaptive,
        "lecam_decay": gan.lecam_decay,
        "ema_decay": optim.ema_decay,
        "clip_norm": optim.clip_norm,
        "betas": (optim.beta1, optim.beta2),
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        "weights": {
            "reconstruction": loss.reconstruction_weight,
            "perceptual": loss.perceptual_weight,
            "alignment": loss.alignment_weight,
            "entropy": loss.entropy_weight,
            "gan": gan.weight,
            "lecam": gan.lecam_weight,
            "consistency": gan.consistency_weight,
        },
    }


def _vit(config, image_size):
    return {
        "width": config.width,
        "depth": config.depth,
        "heads": config.num_heads,
        "patch": config.patch_size,
        "grid": config.grid(image_size),
        "layer_scale": config.layer_scale is not None,
        "approximate": "tanh" if config.activation == "gelu_tanh" else "none",
    }


def _tensors(task, arguments, state, frozen):
    """State dict of all networks in the published layouts, with a prefix for each."""
    params, discriminator = state.tokenizer.params, state.discriminator
    parts = {
        "tokenizer": (tokenizer_rules(task.nets.config), params["model"]),
        "alignment": (alignment_rules(), params["alignment"]),
        "teacher": (vit_rules(arguments["teacher"][0]), frozen["teacher"]),
        "trunk": (dino_rules(arguments["trunk"][0]), frozen["trunk"]),
        "lpips": (lpips_rules(), frozen["lpips"]),
        "discriminator": (head_rules(), discriminator.params),
    }
    written = {name: layout.write(rules, tree) for name, (rules, tree) in parts.items()}
    written["discriminator"] |= layout.write(head_buffer_rules(), discriminator.buffers)
    return {f"{name}.{key}": tensor for name, tensors in written.items() for key, tensor in tensors.items()}
