"""Kind `train_trace`: whole training steps, through the step that `main` compiles."""

import jax
import numpy as np

from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.models.dino_trunk import DINO_IMAGE_SIZE, DINO_S
from softvq_jax.parallel.mesh import make_mesh
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.optim import clip_by_global_norm
from softvq_jax.train.tokenizer_task import TokenizerTask
from softvq_jax.weights import dino, discriminators, layout, lpips, tokenizer_kinds
from softvq_jax.weights.pretrained import Pretrained
from softvq_jax.weights.tokenizer import alignment_rules, config_of, tokenizer_rules
from softvq_jax.weights.vit import vit_config_of, vit_rules
from tests.parity import recipe
from tests.parity_kinds.adversarial import lpips_tensors


def training_config(case, shape):
    a, t = case["arguments"], case["training"]
    config = tokenizer_config("S", "S")
    fields = tokenizer_kinds.config_to_dict(shape)
    for name in ("encoder", "decoder"):  # options of other tokenizers are not fields of the training config
        fields[name] = {field: fields[name][field] for field in config.model[name]}
    config.model.update(fields)
    config.loss.alignment_weight = a["repa_loss_weight"] if a["repa"] else 0.0
    config.loss.entropy_weight = a["entropy_loss_ratio"]
    config.loss.perceptual_warmup_steps = t["perceptual_warmup"] or 1
    config.alignment.update(mode=a["repa_align"], hidden=a["repa_proj_dim"])
    config.gan.update(
        loss=t["gan_loss"],
        weight=t["disc_weight"],
        start_step=t["disc_start"],
        adaptive=t["adaptive_weight"],
        lecam_weight=t["lecam_weight"],
        lecam_decay=t["lecam_decay"],
        diff_augment=t["diff_augment"],
        random_crop=t["disc_random_crop"],
        consistency_weight=t["consistency_weight"],
    )
    config.optim.update(
        learning_rate=t["learning_rate"] * 256 / case["batch"],
        schedule="constant",
        codebook_schedule="constant",
        warmup_epochs=0.0,
        beta1=t["betas"][0],
        beta2=t["betas"][1],
        weight_decay=t["weight_decay"],
        clip_norm=t["clip_norm"],
        ema_decay=t["ema_decay"],
    )
    config.train.update(batch_size=case["batch"], num_steps=case["steps"])
    return config


def run(case, arrays):
    seed = case["seed"]
    tensors = recipe.state_dict(case)
    shape = config_of(tensors, case["arguments"])
    key = "repa_model."
    teacher = vit_config_of(tensors, key, patch_size=tensors[f"{key}patch_embed.proj.weight"].shape[-1])
    disc = recipe.state_dict({"shapes": case["discriminator_shapes"], "seed": seed})
    config = training_config(case, shape)
    task = TokenizerTask(
        config,
        Pretrained({}, {"teacher": (teacher, shape.image_size), "lpips": (), "trunk": (DINO_S, DINO_IMAGE_SIZE)}),
        num_steps=case["steps"],
        steps_per_epoch=case["steps"],
    )
    nets = task.nets

    def read(rules, tensors, net):
        return layout.read(rules, tensors, net.shapes, source="case")

    frozen_params = {
        "teacher": read(vit_rules(teacher, "", key), tensors, nets.teacher),
        "lpips": lpips.read_lpips(lpips_tensors(case["lpips_shapes"], seed), nets.lpips.shapes, source="case"),
        "trunk": dino.read_dino(disc, nets.trunk.shapes, source="case"),
    }
    params = {
        "model": read(tokenizer_rules(shape), tensors, nets.model),
        "alignment": read(alignment_rules(), tensors, nets.alignment),
    }
    heads = read(discriminators.head_rules(), disc, nets.discriminator)
    state = jax.jit(task.init)(jax.random.key(0), {})
    buffers = layout.read(discriminators.head_buffer_rules(), disc, state.discriminator.buffers, source="case")
    mesh = make_mesh(devices=jax.devices()[:1])
    state = state.replace(
        tokenizer=state.tokenizer.replace(params=params),
        ema=params,
        discriminator=state.discriminator.replace(params=heads, buffers=buffers),
    )
    state, frozen_params = put(jax.device_get(state), mesh), put(frozen_params, mesh)
    _report_gradient(task)
    step = jit_step(task.step, state, frozen_params, mesh)
    logs, gradients = [], []
    with jax.set_mesh(mesh):
        for i in range(case["steps"]):
            state, metrics = step(state, frozen_params, _batch(case, i), jax.random.key(0))
            gradients.append(metrics.pop("gradient"))
            logs.append(jax.device_get(metrics))

    rules = tokenizer_rules(shape)
    before, after, ema, grads = (
        layout.write(rules, tree["model"]) | layout.write(alignment_rules(), tree["alignment"])
        for tree in jax.device_get((params, state.tokenizer.params, state.ema, gradients[0]))
    )
    heads_after = layout.write(discriminators.head_rules(), jax.device_get(state.discriminator.params))
    buffers_after = layout.write(discriminators.head_buffer_rules(), jax.device_get(state.discriminator.buffers))
    return _named(case, config, arrays, logs, before, after, ema, grads, disc, heads_after, buffers_after)


def _batch(case, i):
    images = recipe.images(case["batch"], case["size"], case["seed"] * 1000 + i)
    return {"image": images.transpose(0, 2, 3, 1)}


def _report_gradient(task):
    """Puts the generator's clipped gradient among what each step returns."""
    update = task.step.update

    def reporting(state, grads, *rest):
        state, metrics = update(state, grads, *rest)
        return state, metrics | {"gradient": clip_by_global_norm(grads[0], task.config.optim.clip_norm)[0]}

    task.step.update = reporting


def _named(case, config, arrays, logs, before, after, ema, grads, disc, heads_after, buffers_after):
    weights = {"entropy": config.loss.entropy_weight, "alignment": config.loss.alignment_weight}
    thin = lambda array: np.asarray(array, np.float32).reshape(-1)[::97]  # noqa: E731
    results = {}
    for name in arrays:
        kind, _, rest = name.partition("_")
        if kind == "log":
            results[name] = np.array([weights.get(rest, 1.0) * log[rest] for log in logs])
        elif name.startswith("delta_disc_"):
            key = name.removeprefix("delta_disc_")
            results[name] = thin(heads_after[key] - disc[key])
        elif name.startswith("ema_delta_"):
            key = name.removeprefix("ema_delta_")
            results[name] = thin(ema[key] - before[key])
        elif kind == "delta":
            results[name] = thin(after[rest] - before[rest])
        elif kind == "first":
            results[name] = thin(grads[name.removeprefix("first_grad_")])
        elif kind == "after":
            results[name] = buffers_after[rest]
    return results


KINDS = {"train_trace": run}
