"""Cases of kinds lpips, dino_discriminator, patchgan and gan_losses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softvq_jax.losses import adversarial
from softvq_jax.models.dino_trunk import DinoTrunk
from softvq_jax.models.discriminators import DinoDiscriminator, PatchGAN, fit
from softvq_jax.models.lpips import LPIPS
from softvq_jax.weights import dino, discriminators, layout
from softvq_jax.weights import lpips as lpips_weights
from tests.parity import recipe

INPUTS = {"gan_losses": ("real", "fake")}


def abstract(make):
    """Graph definition and the trees of shapes of parameters and buffers of `make(rngs)`."""
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graphdef, params, buffers = nnx.split(module, nnx.Param, ...)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)


def lpips_tensors(shapes, seed):
    """Returns the tensors of an LPIPS case: those of `recipe.tensor`, changed as the case's field `what` describes."""
    tensors = recipe.state_dict({"shapes": shapes, "seed": seed})
    for key, tensor in tensors.items():
        if key.startswith("features.") and key.endswith(".weight"):
            tensors[key] = tensor * np.float32(np.sqrt(2))
        elif key.startswith("lin"):
            tensors[key] = np.abs(tensor)
    return tensors


def lpips(tensors):
    """LPIPS and its parameters."""
    graphdef, shapes, _ = abstract(lambda rngs: LPIPS(rngs=rngs))
    return graphdef, lpips_weights.read_lpips(tensors, shapes, source="case")


def dino_discriminator(tensors):
    """The trunk with its parameters, and the discriminator with its parameters and buffers."""
    trunk, trunk_shapes, _ = abstract(lambda rngs: DinoTrunk(rngs=rngs))
    heads, shapes, buffer_shapes = abstract(lambda rngs: DinoDiscriminator(rngs=rngs))
    params = layout.read(discriminators.head_rules(), tensors, shapes, source="case")
    buffers = layout.read(discriminators.head_buffer_rules(), tensors, buffer_shapes, source="case")
    return (trunk, dino.read_dino(tensors, trunk_shapes, source="case")), (heads, params, buffers)


def forward(graphdef, params, buffers, seen, *, train):
    """Returns logits and updated buffers."""
    discriminator = nnx.merge(graphdef, params, buffers)
    logits = discriminator(seen, train=train)
    return logits, nnx.to_pure_dict(nnx.state(discriminator, nnx.Not(nnx.Param)))


def nhwc(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def nchw(images):
    return np.asarray(images).transpose(0, 3, 1, 2)


def run_lpips(case, arrays):
    graphdef, params = lpips(lpips_tensors(case["shapes"], case["seed"]))
    a, b = (nhwc(recipe.images(case["count"], case["size"], case["seed"] + shift)) for shift in (0, 100))

    @jax.jit
    def run(params, a, b):
        distance, pullback = jax.vjp(lambda b: nnx.merge(graphdef, params)(a, b), b)
        return distance, pullback(jnp.ones_like(distance))[0]

    distance, grad = run(params, a, b)
    return {"distance": distance, "grad_b_sub4": nchw(grad)[:, :, ::4, ::4]}


def run_dino_discriminator(case, arrays):
    (trunk_def, trunk_params), (graphdef, params, buffers) = dino_discriminator(recipe.state_dict(case))
    images = nhwc(recipe.images(case["count"], case["size"], case["seed"]))

    @jax.jit
    def run(params, buffers, trunk_params, images):
        trunk = nnx.merge(trunk_def, trunk_params)

        def loss(params, images):
            features = trunk(fit(images, trunk.image_size))
            logits, moved = forward(graphdef, params, buffers, features, train=True)
            return jnp.mean(logits**2), (logits, moved, features)

        (_, (logits, moved, features)), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, images)
        logits_eval, _ = forward(graphdef, params, moved, features, train=False)
        return logits, logits_eval, moved, grads, features

    logits, logits_eval, moved, (grads, grad_x), features = run(params, buffers, trunk_params, images)
    after, grads = (
        layout.write(discriminators.head_buffer_rules(), moved),
        layout.write(discriminators.head_rules(), grads),
    )
    ours = {"logits": logits, "logits_eval": logits_eval, "grad_x_sub4": nchw(grad_x)[:, :, ::4, ::4]}
    ours |= {f"after_{key.removeprefix('heads.')}": value for key, value in after.items()}
    ours |= {f"grad_head{i}_conv": grads[f"heads.{i}.0.0.weight_orig"] for i in range(len(features))}
    return ours | {f"act{i}_sub": np.swapaxes(act, 1, 2)[:, ::8, ::14] for i, act in enumerate(features)}


def run_patchgan(case, arrays):
    width = case["shapes"]["main.0.weight"][0]
    num_layers = sum(key.endswith(".running_mean") for key in case["shapes"])
    graphdef, shapes, buffer_shapes = abstract(lambda rngs: PatchGAN(width, num_layers, rngs=rngs))
    tensors = recipe.state_dict(case)
    params = layout.read(discriminators.patchgan_rules(num_layers), tensors, shapes, source="case")
    buffers = layout.read(discriminators.patchgan_buffer_rules(num_layers), tensors, buffer_shapes, source="case")
    images = nhwc(recipe.images(case["count"], case["size"], case["seed"]))
    logits, moved = forward(graphdef, params, buffers, images, train=True)
    logits_eval, _ = forward(graphdef, params, moved, images, train=False)
    after = layout.write(discriminators.patchgan_buffer_rules(num_layers), moved)
    ours = {"logits": nchw(logits), "logits_eval": nchw(logits_eval)}
    return ours | {f"after_{key}": value for key, value in after.items()}


def run_gan_losses(case, arrays):
    real, fake = arrays["real"], arrays["fake"]
    ours = {}
    for kind in ("hinge", "vanilla", "non_saturating"):
        ours[f"{kind}_d_loss"] = adversarial.discriminator_loss(kind, real, fake)
        ours[f"{kind}_gen_loss"] = adversarial.generator_loss(kind, fake)
    decay = float(re.search(r"decay ([\d.]+)", case["what"])[1])
    averages = {"real": jnp.float32(0), "fake": jnp.float32(0)}
    for i in range(sum(bool(re.fullmatch(r"lecam_\d+", name)) for name in arrays)):
        scaled_real, scaled_fake = (i + 1) * real, (i + 1) * fake
        averages = adversarial.lecam_update(averages, scaled_real, scaled_fake, decay)
        ours[f"lecam_{i}"] = adversarial.lecam(averages, scaled_real, scaled_fake)
    return ours | {"lecam_ema": np.array([averages["real"], averages["fake"]])}


KINDS = {
    "lpips": run_lpips,
    "dino_discriminator": run_dino_discriminator,
    "patchgan": run_patchgan,
    "gan_losses": run_gan_losses,
}
