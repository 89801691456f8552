"""One training step of a tokenizer: the generator, then the discriminator on the same images (SoftVQ-VAE, section 3).

The step is pure and unjitted; `train/compile.py` jits it. The reconstruction is computed once. Pixel loss, LPIPS and
discriminator each give a cotangent of the reconstruction, and one pullback through the tokenizer takes their weighted
sum. The adaptive weight is computed from the separate cotangents and so needs no second backward pass.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from softvq_jax.losses import adversarial, alignment
from softvq_jax.losses.diff_augment import diff_augment
from softvq_jax.losses.reconstruction import pixel_l2
from softvq_jax.models.codebook import code_counts
from softvq_jax.models.dinov2 import patch_features
from softvq_jax.models.discriminators import fit
from softvq_jax.models.functional import buffers_of
from softvq_jax.models.quantizers import bottleneck_class
from softvq_jax.models.vit import patchify
from softvq_jax.parallel.mesh import constrain_batch
from softvq_jax.pixels import as_float
from softvq_jax.train import masked_training, optim
from softvq_jax.train.state import Discriminator, RunningStatistics, TokenizerState
from softvq_jax.train.tokenizer_networks import TokenizerNetworks

CODE_USAGE_WINDOW = 65536  # tokens per codebook over which `codebook_usage` is computed, as in the released code
STRONG_CUTOUT = 0.5


class TokenizerStep:
    """The training step, `(state, frozen, batch, key) -> (state, metrics)`.

    `frozen` holds the parameters of the frozen networks by name; `batch["image"]` is `[B, H, W, 3]`, uint8 or float32 in
    [-1, 1]; `metrics` are float32 scalars, with losses unweighted.

    The loss methods return gradients, the running statistics after the forward pass, and metrics.
    """

    def __init__(
        self,
        config,
        nets: TokenizerNetworks,
        generator_optimizer,
        discriminator_optimizer,
        learning_rate: Callable[[jax.Array], jax.Array],
        frozen: Callable[[str], bool],
        codebook_learning_rate: Callable[[jax.Array], jax.Array] | None = None,
    ):
        """Takes config, networks and optimizers; the rest as `GeneratorStep`.

        `codebook_learning_rate` is None if it is the rate of all parameters.
        """
        self.codebook_learning_rate = codebook_learning_rate
        self.config, self.nets, self.learning_rate, self.frozen = config, nets, learning_rate, frozen
        self.pieces = 1  # of each microbatch; see `optim.accumulate_gradients`
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer

    def __call__(self, state: TokenizerState, frozen, batch, key: jax.Array):
        key = jax.random.fold_in(key, state.step)
        grads, running, metrics = self.accumulate(state, frozen, as_float(batch["image"]), key)
        state, norms = self.update(state, grads, running)
        lecam = {f"lecam_{name}": average for name, average in state.lecam.items()}
        return state, metrics | norms | lecam | codebook_usage(state)

    def accumulate(self, state, frozen, images, key):
        """Returns gradients and metrics, averaged over `optim.accumulate` microbatches, and the running statistics."""
        gradients = partial(self.gradients, state, frozen)
        count = self.config.optim.accumulate
        return optim.accumulate_gradients(gradients, count, state.running_statistics, images, key, pieces=self.pieces)

    def gradients(self, state, frozen, running: RunningStatistics, images, key):
        """Returns gradients of both networks, `(generator, discriminator)`, on one microbatch."""
        images = constrain_batch(images)
        generator_key, discriminator_key, _ = jax.random.split(key, 3)
        grads, running, metrics, reconstructions = self.generator(state, frozen, running, images, generator_key)
        if self.nets.discriminator is None:
            return (grads, None), running, metrics
        images, reconstructions = after((images, reconstructions), grads)
        discriminator_grads, running, more = self.discriminator(
            state, frozen, running, images, reconstructions, discriminator_key
        )
        return (grads, discriminator_grads), running, metrics | more

    # --- generator ---------------------------------------------------------------------------------------------------

    def generator(self, state, frozen, running: RunningStatistics, images, key):
        """Returns gradients of `L2 + ramp * LPIPS + latent terms + gate * 0.2 * adaptive * gan_G`, and reconstructions."""
        model_key, alignment_key, augmentation_key = jax.random.split(key, 3)
        mask = self.mask(len(images), state.step, jax.random.fold_in(model_key, 0))
        masked = {} if mask is None else {"mask": mask}

        def tokenize(params):
            model = self.nets.model(params["model"])
            out = model(images, step=state.step, key=model_key, **masked)
            reconstructions = constrain_batch(model.decoder.to_pixels(out.decoded))
            latent_loss, terms = self.latent_terms(params, frozen, images, out.bottlenecked, alignment_key, mask)
            return (reconstructions, latent_loss), (out, terms)

        (reconstructions, latent_loss), pullback, (out, terms) = jax.vjp(tokenize, state.tokenizer.params, has_aux=True)
        (image_loss, image_terms), image_grad = jax.value_and_grad(self.image_terms, has_aux=True)(
            reconstructions, images, frozen, state.step
        )
        total, cotangent = image_loss + latent_loss, image_grad
        metrics = terms | image_terms | out.bottlenecked.stats
        if self.nets.discriminator is not None:
            (gan, buffers), gan_grad = jax.value_and_grad(self.adversarial_term, has_aux=True)(
                after(reconstructions, image_grad),
                state.discriminator.params,
                running.buffers,
                frozen,
                augmentation_key,
            )
            running = dataclasses.replace(running, buffers=buffers)
            weight = self.gate(state.step) * self.config.gan.weight
            if self.config.gan.adaptive:
                adaptive = adaptive_weight(out.decoded, image_grad, gan_grad, self.nets.config.decoder.patch_size)
                weight, metrics["adaptive_weight"] = weight * adaptive, adaptive
            total, cotangent = total + weight * gan, cotangent + weight * gan_grad
            metrics["gan_generator"] = gan
        (grads,) = pullback((cotangent, jnp.ones_like(latent_loss)))
        if out.bottlenecked.indices is not None and running.code_age is not None:
            code_age = age_codes(running.code_age, out.bottlenecked.indices)
            running = dataclasses.replace(running, code_age=code_age)
        return grads, running, metrics | {"generator_total": total}, jax.lax.stop_gradient(reconstructions)

    def mask(self, batch: int, step: jax.Array, key: jax.Array) -> jax.Array | None:
        """Returns which patches a MAETok's encoder does not see, `[B, N]`; None for other tokenizers."""
        if "masking" not in self.config:
            return None
        model = self.nets.config
        num_patches = model.encoder.grid(model.image_size) ** 2
        return masked_training.draw_mask(self.config.masking, num_patches, batch, step, key)

    def latent_terms(self, params, frozen, images, bottlenecked, key, mask=None):
        """Returns the weighted sum of all losses of the latents, and each loss unweighted.

        They are the bottleneck's losses, the alignment loss, and those of a MAETok's auxiliary decoders.
        """
        named = (*bottlenecked.losses, "alignment", *self.nets.auxiliary)
        weights = {name: self.loss_weight(name) for name in named}
        # Terms with weight 0 are not computed: the entropy of 65,536 codes takes most of a step.
        terms = {name: term for name, term in bottlenecked.losses.items() if weights[name]}
        if self.nets.teacher is not None and self.nets.alignment is not None:
            mode, length = self.config.alignment.mode, self.nets.config.num_latent_tokens
            patches = patch_features(self.nets.teacher(frozen["teacher"]), images)
            targets = alignment.alignment_targets(mode, patches, length, key)
            head = self.nets.alignment(params["alignment"])
            aligned = bottlenecked.latents[..., : self.config.alignment.channels or None]
            projected = head(alignment.alignment_inputs(mode, aligned))
            terms["alignment"] = alignment.alignment_loss(projected, jax.lax.stop_gradient(targets))
        if self.nets.auxiliary:
            networks = {name: getattr(self.nets, name) for name in masked_training.TEACHERS.values()}
            teachers = {name: network(frozen[name]) for name, network in networks.items() if network is not None}
            where = mask if self.config.masking.targets == "masked" else None
            inputs = (images, bottlenecked.latents, teachers, where)
            terms |= masked_training.auxiliary_terms(self.nets.auxiliary, params["auxiliary"], *inputs)
        return sum((weights[name] * term for name, term in terms.items()), jnp.zeros(())), terms

    def loss_weight(self, name: str) -> float:
        """Returns the weight of a latent loss: `config.loss.<name>_weight` if set, else the bottleneck's default."""
        field = f"{name}_weight"
        if field in self.config.loss:
            return self.config.loss[field]
        return bottleneck_class(self.nets.config.bottleneck).loss_weights[name]

    def image_terms(self, reconstructions, images, frozen, step):
        """Computes pixel loss and LPIPS; the weight of LPIPS grows linearly over `loss.perceptual_warmup_steps`."""
        weights = self.config.loss
        terms = {"reconstruction": pixel_l2(reconstructions, images)}
        total = weights.reconstruction_weight * terms["reconstruction"]
        if self.nets.lpips is not None:
            terms["perceptual"] = jnp.mean(self.nets.lpips(frozen["lpips"])(images, reconstructions))
            ramp = jnp.minimum(1.0, (step + 1) / max(1, weights.perceptual_warmup_steps))
            total += weights.perceptual_weight * ramp * terms["perceptual"]
        return total, terms

    def adversarial_term(self, reconstructions, params, buffers, frozen, key):
        """Returns the generator's GAN loss, and the discriminator's buffers after the forward pass."""
        augmented = self.augment(reconstructions, key)
        (inputs,) = self.discriminator_inputs(frozen, augmented[None])
        buffers, logits = self.discriminate(params, buffers, inputs)
        return adversarial.generator_loss(self.config.gan.loss, logits), buffers

    # --- discriminator -----------------------------------------------------------------------------------------------

    def discriminator(self, state, frozen, running: RunningStatistics, images, reconstructions, key):
        """Returns the gradient of `gate * (0.2 * (gan_D + 0.001 * LeCam) + 4 * consistency)`."""
        gan = self.config.gan
        keys = jax.random.split(key, 4)
        pair = jnp.stack([images, reconstructions])
        # Loops, because the body of a loop is compiled once, but a function once for each call.
        augmented = jax.lax.map(lambda each: self.augment(*each), (pair, keys[:2]))
        if gan.consistency_weight:
            strong = jax.lax.map(lambda each: self.augment(*each, strong=True), (pair, keys[2:]))
            augmented = jnp.concatenate([augmented, strong])
        inputs = self.discriminator_inputs(frozen, augmented)

        def loss(params):
            # A loop gathers the heads' kernels in every iteration, but an unrolled one compiles minutes longer for TPUs.
            # PatchGAN is unrolled, because convolutions in loops are nine times as slow on CPUs.
            unroll = self.nets.trunk is None
            buffers, logits = jax.lax.scan(partial(self.discriminate, params), running.buffers, inputs, unroll=unroll)
            real, fake = logits[:2]
            lecam = adversarial.lecam_update(running.lecam, real, fake, gan.lecam_decay)
            terms = {
                "gan_discriminator": adversarial.discriminator_loss(gan.loss, real, fake),
                "lecam": adversarial.lecam(lecam, real, fake),
            }
            total = gan.weight * (terms["gan_discriminator"] + gan.lecam_weight * terms["lecam"])
            if gan.consistency_weight:
                terms["consistency"] = jnp.mean(jnp.square(logits[:2] - logits[2:]))
                total += gan.consistency_weight * terms["consistency"]
            total *= self.gate(state.step)
            means = {"logits_real": jnp.mean(real), "logits_fake": jnp.mean(fake)}
            metrics = terms | means | {"discriminator_total": total}
            return total, (dataclasses.replace(running, buffers=buffers, lecam=lecam), metrics)

        grads, (running, metrics) = jax.grad(loss, has_aux=True)(state.discriminator.params)
        return grads, running, metrics

    def augment(self, images, key, *, strong: bool = False):
        """Returns one augmented view of the images `[B, H, W, 3]`, at the image size of the discriminator's trunk."""
        gan = self.config.gan
        augment_key, crop_key = jax.random.split(key)
        if strong:
            images = diff_augment(augment_key, images, probability=1.0, cutout=STRONG_CUTOUT)
        elif gan.diff_augment:
            images = diff_augment(augment_key, images)
        if self.nets.trunk_size is None:
            return images
        return fit(images, self.nets.trunk_size, crop_key if gan.random_crop else None)

    def discriminator_inputs(self, frozen, augmented):
        """Returns trunk features of each augmented view `[V, B, H, W, 3]`, or the views themselves for PatchGAN."""
        if self.nets.trunk is None:
            return augmented
        count, batch = augmented.shape[:2]
        # One pass for all views. The views of an image are adjacent, so that all of them stay on the image's device.
        together = augmented.swapaxes(0, 1).reshape(batch * count, *augmented.shape[2:])
        features = self.nets.trunk(frozen["trunk"])(constrain_batch(together))
        return jnp.moveaxis(features.reshape(len(features), batch, count, *features.shape[2:]), 2, 0)

    def discriminate(self, params, buffers, inputs):
        """Runs the discriminator in training mode; returns updated buffers and logits, in `lax.scan`'s order."""
        assert self.nets.discriminator is not None
        network = self.nets.discriminator(params, buffers)
        logits = network(inputs, train=True)
        return buffers_of(network), logits

    def gate(self, step: jax.Array) -> jax.Array:
        """Returns 0 before `gan.start_step`, then 1; steps are counted from 1."""
        return (step + 1 >= self.config.gan.start_step).astype(jnp.float32)

    # --- update ------------------------------------------------------------------------------------------------------

    def update(self, state: TokenizerState, grads, running: RunningStatistics):
        """Clips and applies both gradients, updates the EMA, and sets the running statistics."""
        generator_grads, discriminator_grads = grads
        limit = self.config.optim.clip_norm
        tokenizer, norm = optim.apply(self.generator_optimizer, state.tokenizer, generator_grads, limit, self.frozen)
        metrics, discriminator = {"generator_grad_norm": norm, "learning_rate": self.learning_rate(state.step)}, None
        if self.codebook_learning_rate is not None:
            metrics["codebook_learning_rate"] = self.codebook_learning_rate(state.step)
        if state.discriminator is not None:
            trained, norm = optim.apply(self.discriminator_optimizer, state.discriminator, discriminator_grads, limit)
            discriminator = Discriminator(trained.params, running.buffers, trained.opt)
            metrics["discriminator_grad_norm"] = norm
        return TokenizerState(
            step=state.step + 1,
            tokenizer=tokenizer,
            ema=optim.ema_update(state.ema, tokenizer.params, optim.ema_decay(self.config.optim, state.step)),
            discriminator=discriminator,
            lecam=running.lecam,
            code_age=running.code_age,
        ), metrics


def after(values, others):
    """Returns `values`; on CPUs, what is computed from them is computed after `others`.

    Otherwise the CPU's compiler works on all losses in turns, and keeps the activations of all at the same time. It ignores
    `jax.lax.optimization_barrier` when it orders the program, hence a sum with a zero that it cannot predict.
    """

    def wait(values, others):
        # Not one entry of each: that would gather sharded gradients. Norms are computed anyway.
        squares = sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(others))
        zero = jnp.where(squares < -1, 1.0, 0.0)
        return jax.tree.map(lambda value: value + zero.astype(value.dtype), values)

    return jax.lax.platform_dependent(values, others, cpu=wait, default=lambda values, others: values)


def age_codes(code_age: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns the ages `[C, K]` of the codes after a batch: 0 for codes in `indices` `[B, C, L/C]`, higher for others."""
    counts = code_counts(indices, code_age.shape[1])
    num_tokens = jnp.sum(counts[0]).astype(jnp.int32)
    return jnp.where(counts > 0, 0, jnp.minimum(code_age + num_tokens, CODE_USAGE_WINDOW))


def codebook_usage(state: TokenizerState) -> dict[str, jax.Array]:
    """Returns the share of codes used (most probable for a token) within `CODE_USAGE_WINDOW`; {} without a codebook."""
    if state.code_age is None:
        return {}
    return {"codebook_usage": jnp.mean((state.code_age < CODE_USAGE_WINDOW).astype(jnp.float32))}


def adaptive_weight(decoded: jax.Array, image_grad: jax.Array, gan_grad: jax.Array, patch: int) -> jax.Array:
    """Returns `|grad of (L2 + ramp * LPIPS)| / (|grad of gan_G| + 1e-4)`, clipped to [0, 1e4].

    The norms are of gradients with respect to the kernel of the last linear map. Such a gradient is the map's input times
    the cotangent of its output, so both follow from the gradients in image space.

    Args:
      decoded: the map's input `[B, N, width]`.
      image_grad, gan_grad: gradients with respect to the images `[B, H, W, 3]`.
      patch: side of a patch in pixels.
    """

    def kernel_grad_norm(grad):
        return jnp.linalg.norm(jnp.einsum("bnw,bnp->wp", decoded, patchify(grad, patch)))

    ratio = kernel_grad_norm(image_grad) / (kernel_grad_norm(gan_grad) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4))
