"""One training step of a tokenizer: the generator, then the discriminator on the same images (SPEC: SoftVQ-VAE's losses).

Pure and unjitted; `train/compile.py` jits it. The reconstruction is computed once. Its gradient is put together in image
space: pixels, LPIPS and discriminator each give a cotangent of the reconstruction, and one pullback takes their sum
through the tokenizer. The adaptive weight needs these cotangents apart, and costs no second backward pass this way.
"""

from functools import partial

import jax
import jax.numpy as jnp

from softvq_jax.losses import adversarial, alignment
from softvq_jax.losses.diff_augment import diff_augment
from softvq_jax.losses.reconstruction import pixel_l2
from softvq_jax.models.dinov2 import imagenet_normalize
from softvq_jax.models.discriminators import fit
from softvq_jax.models.functional import buffers_of
from softvq_jax.models.quantizers import code_counts
from softvq_jax.models.vit import patchify
from softvq_jax.parallel.mesh import constrain_batch
from softvq_jax.pixels import as_float
from softvq_jax.train import optim
from softvq_jax.train.state import Discriminator, TokenizerState
from softvq_jax.train.tokenizer_networks import TokenizerNetworks

CODE_USE_WINDOW = 65536  # tokens per codebook; the release looks back as far
STRONG_CUTOUT = 0.5


class TokenizerStep:
    """`step(state, frozen, batch, key) -> (state, metrics)`.

    `frozen` holds the parameters of the frozen networks by name; `batch["image"]` is `[B, H, W, 3]`, uint8 or float32 in
    [-1, 1]; `metrics` are float32 scalars, every loss before its weight.
    """

    def __init__(self, config, nets: TokenizerNetworks, generator_optimizer, discriminator_optimizer):
        self.config, self.nets = config, nets
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer

    def __call__(self, state: TokenizerState, frozen, batch, key: jax.Array):
        images = as_float(batch["image"])
        key = jax.random.fold_in(key, state.step)
        grads, carried, counts, metrics = self.accumulate(state, frozen, images, key)
        state, norms = self.update(state, grads, carried, counts)
        lecam = {f"lecam_{name}": average for name, average in state.lecam.items()}
        return state, metrics | norms | lecam | self.code_use(state)

    def accumulate(self, state, frozen, images, key):
        """Gradients averaged over `optim.accumulate` parts of the batch, each a forward and backward pass."""
        parts = self.config.optim.accumulate
        moving = (state.discriminator and state.discriminator.buffers, state.lecam)
        if parts == 1:
            return self.gradients(state, moving, frozen, images, key)
        # Every `parts`-th image, so that each device keeps working on its own share of the batch.
        images = images.reshape(-1, parts, *images.shape[1:]).swapaxes(0, 1)

        def one(moving, inputs):
            images, index = inputs
            grads, moving, *rest = self.gradients(state, moving, frozen, images, jax.random.fold_in(key, index))
            return moving, (grads, *rest)

        moving, results = jax.lax.scan(one, moving, (images, jnp.arange(parts)))
        grads, counts, metrics = results
        mean = lambda tree: jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)  # noqa: E731
        return mean(grads), moving, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), counts), mean(metrics)

    def gradients(self, state, moving, frozen, images, key):
        """Gradients of both networks on one batch, and what moves without gradients: buffers, LeCam's averages."""
        buffers, lecam = moving
        images = constrain_batch(images)
        keys = jax.random.split(key, 3)
        generator_grads, reconstructions, buffers, counts, metrics = self.generator(
            state, buffers, frozen, images, keys[0]
        )
        if self.nets.discriminator is None:
            return (generator_grads, None), (None, lecam), counts, metrics
        discriminator_grads, buffers, lecam, more = self.discriminator(
            state, buffers, lecam, frozen, images, reconstructions, keys[1]
        )
        return (generator_grads, discriminator_grads), (buffers, lecam), counts, metrics | more

    # --- generator ---------------------------------------------------------------------------------------------------

    def generator(self, state, buffers, frozen, images, key):
        """`total_G = L2 + ramp * LPIPS + latent terms + gate * 0.2 * adaptive * gan_G`, and its gradient."""
        keys = jax.random.split(key, 3)

        def tokenize(params):
            model = self.nets.model(params["model"])
            out = model(images, key=keys[0])
            reconstructions = constrain_batch(model.decoder.to_pixels(out.decoded))
            latent_loss, terms = self.latent_terms(params, frozen, images, out.bottlenecked, keys[1])
            return (reconstructions, latent_loss), (out, terms)

        (reconstructions, latent_loss), pullback, (out, terms) = jax.vjp(tokenize, state.tokenizer.params, has_aux=True)
        (image_loss, image_terms), image_grad = jax.value_and_grad(self.image_terms, has_aux=True)(
            reconstructions, images, frozen, state.step
        )
        total, cotangent = image_loss + latent_loss, image_grad
        metrics = terms | image_terms | out.bottlenecked.stats
        if self.nets.discriminator is not None:
            (gan, buffers), gan_grad = jax.value_and_grad(self.adversarial_term, has_aux=True)(
                reconstructions, state.discriminator.params, buffers, frozen, keys[2]
            )
            weight = self.gate(state.step) * self.config.gan.weight
            if self.config.gan.adaptive:
                adaptive = adaptive_weight(out.decoded, image_grad, gan_grad, self.nets.config.decoder.patch_size)
                weight, metrics["adaptive_weight"] = weight * adaptive, adaptive
            total, cotangent = total + weight * gan, cotangent + weight * gan_grad
            metrics["gan_generator"] = gan
        (grads,) = pullback((cotangent, jnp.ones_like(latent_loss)))
        indices = out.bottlenecked.indices
        counts = None if indices is None else code_counts(indices, self.nets.config.codebook_size)
        return grads, jax.lax.stop_gradient(reconstructions), buffers, counts, metrics | {"generator_total": total}

    def latent_terms(self, params, frozen, images, bottlenecked, key):
        """The weighted sum of the bottleneck's own losses and alignment, and each of them before its weight."""
        weights = self.config.loss
        # A term without weight is left out, and so never computed: the entropy of 65,536 codes is most of a step.
        terms = {name: term for name, term in bottlenecked.losses.items() if weights[f"{name}_weight"]}
        if self.nets.teacher is not None:
            mode, length = self.config.alignment.mode, self.nets.config.num_latent_tokens
            teacher = self.nets.teacher(frozen["teacher"])
            patches = teacher(imagenet_normalize(images))[:, teacher.num_prefix_tokens :]
            targets = alignment.alignment_targets(mode, patches, length, key)
            head = self.nets.alignment(params["alignment"])
            projected = head(alignment.alignment_inputs(mode, bottlenecked.latents))
            terms["alignment"] = alignment.alignment_loss(projected, jax.lax.stop_gradient(targets))
        return sum((weights[f"{name}_weight"] * term for name, term in terms.items()), jnp.zeros(())), terms

    def image_terms(self, reconstructions, images, frozen, step):
        """Pixels and LPIPS, the latter growing linearly over its first steps."""
        weights = self.config.loss
        terms = {"reconstruction": pixel_l2(reconstructions, images)}
        total = weights.reconstruction_weight * terms["reconstruction"]
        if self.nets.lpips is not None:
            terms["perceptual"] = jnp.mean(self.nets.lpips(frozen["lpips"])(images, reconstructions))
            ramp = jnp.minimum(1.0, (step + 1) / max(1, weights.perceptual_warmup_steps))
            total += weights.perceptual_weight * ramp * terms["perceptual"]
        return total, terms

    def adversarial_term(self, reconstructions, params, buffers, frozen, key):
        (seen,) = self.look(frozen, self.view(reconstructions, key)[None])
        buffers, logits = self.judge(params, buffers, seen)
        return adversarial.generator_loss(self.config.gan.loss, logits), buffers

    # --- discriminator -----------------------------------------------------------------------------------------------

    def discriminator(self, state, buffers, lecam, frozen, images, reconstructions, key):
        """`total_D = gate * (0.2 * (gan_D + 0.001 * LeCam) + 4 * consistency)`, and its gradient."""
        gan = self.config.gan
        keys = jax.random.split(key, 4)
        pair = jnp.stack([images, reconstructions])
        # Loops rather than calls: what a call holds is compiled once for each.
        views = jax.lax.map(lambda each: self.view(*each), (pair, keys[:2]))
        if gan.consistency_weight:
            strong = jax.lax.map(lambda each: self.view(*each, strong=True), (pair, keys[2:]))
            views = jnp.concatenate([views, strong])
        seen = self.look(frozen, views)

        def loss(params, buffers):
            # A loop gathers the heads' kernels in every turn; unrolled it takes the TPU's compiler minutes more. Not so
            # PatchGAN's convolutions, which in loops are nine times as slow on CPUs.
            unroll = self.nets.trunk is None
            buffers, logits = jax.lax.scan(partial(self.judge, params), buffers, seen, unroll=unroll)
            real, fake = logits[:2]
            averages = adversarial.lecam_update(lecam, real, fake, gan.lecam_decay)
            terms = {
                "gan_discriminator": adversarial.discriminator_loss(gan.loss, real, fake),
                "lecam": adversarial.lecam(averages, real, fake),
            }
            total = gan.weight * (terms["gan_discriminator"] + gan.lecam_weight * terms["lecam"])
            if gan.consistency_weight:
                terms["consistency"] = jnp.mean(jnp.square(logits[:2] - logits[2:]))
                total += gan.consistency_weight * terms["consistency"]
            total *= self.gate(state.step)
            means = {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
            return total, (buffers, averages, terms | means | {"discriminator_total": total})

        grads, (buffers, lecam, metrics) = jax.grad(loss, has_aux=True)(state.discriminator.params, buffers)
        return grads, buffers, lecam, metrics

    def view(self, images, key, *, strong: bool = False):
        """Augmented images, at the size that the discriminator's trunk takes."""
        gan = self.config.gan
        augment_key, crop_key = jax.random.split(key)
        if strong:
            images = diff_augment(augment_key, images, probability=1.0, cutout=STRONG_CUTOUT)
        elif gan.diff_augment:
            images = diff_augment(augment_key, images)
        if self.nets.trunk is None:
            return images
        return fit(images, self.nets.trunk_size, crop_key if gan.random_crop else None)

    def look(self, frozen, views):
        """What the discriminator sees of each of the views `[V, B, H, W, 3]`: the trunk's features, or the view."""
        if self.nets.trunk is None:
            return views
        count, batch = views.shape[:2]
        # One pass for all; the views of an image side by side, so that each stays on its device.
        together = views.swapaxes(0, 1).reshape(batch * count, *views.shape[2:])
        features = self.nets.trunk(frozen["trunk"])(constrain_batch(together))
        return jnp.moveaxis(features.reshape(len(features), batch, count, *features.shape[2:]), 2, 0)

    def judge(self, params, buffers, seen):
        """The buffers after a training-mode forward, and its logits."""
        network = self.nets.discriminator(params, buffers)
        logits = network(seen, train=True)
        return buffers_of(network), logits

    def gate(self, step: jax.Array) -> jax.Array:
        """0 before `gan.start_step`, then 1; steps count from 1."""
        return (step + 1 >= self.config.gan.start_step).astype(jnp.float32)

    # --- update ------------------------------------------------------------------------------------------------------

    def update(self, state: TokenizerState, grads, moving, counts):
        """Clips and applies both gradients, and moves EMA, buffers and the codes' ages."""
        generator_grads, discriminator_grads = grads
        buffers, lecam = moving
        limit = self.config.optim.clip_norm
        tokenizer, norm = optim.apply(self.generator_optimizer, state.tokenizer, generator_grads, limit)
        metrics, discriminator = {"generator_grad_norm": norm}, None
        if state.discriminator is not None:
            trained, norm = optim.apply(self.discriminator_optimizer, state.discriminator, discriminator_grads, limit)
            discriminator = Discriminator(trained.params, buffers, trained.opt)
            metrics["discriminator_grad_norm"] = norm
        code_age = state.code_age
        if code_age is not None:
            seen = jnp.sum(counts[0]).astype(jnp.int32)
            code_age = jnp.where(counts > 0, 0, jnp.minimum(code_age + seen, CODE_USE_WINDOW))
        return TokenizerState(
            step=state.step + 1,
            tokenizer=tokenizer,
            ema=optim.ema_update(state.ema, tokenizer.params, self.config.optim.ema_decay),
            discriminator=discriminator,
            lecam=lecam,
            code_age=code_age,
        ), metrics

    def code_use(self, state: TokenizerState) -> dict[str, jax.Array]:
        """Share of the codes that were the most probable one of some token lately."""
        if state.code_age is None:
            return {}
        return {"codebook_usage": jnp.mean((state.code_age < CODE_USE_WINDOW).astype(jnp.float32))}


def adaptive_weight(decoded: jax.Array, image_grad: jax.Array, gan_grad: jax.Array, patch: int) -> jax.Array:
    """`|grad of (L2 + ramp * LPIPS)| / (|grad of gan_G| + 1e-4)` at the kernel of the last linear map, within [0, 1e4].

    The kernel's gradient is its input times the cotangent of its output, so both follow from image-space gradients.

    Args:
      decoded: the map's input `[B, N, width]`.
      image_grad, gan_grad: gradients with respect to the images `[B, H, W, 3]`.
      patch: side of a patch in pixels.
    """

    def kernel_grad_norm(grad):
        return jnp.linalg.norm(jnp.einsum("bnw,bnp->wp", decoded, patchify(grad, patch)))

    ratio = kernel_grad_norm(image_grad) / (kernel_grad_norm(gan_grad) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))
