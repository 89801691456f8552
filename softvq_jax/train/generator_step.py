"""One training step of a latent generator, of any family.

The step is pure and unjitted; `train/compile.py` jits it. The data are latents, or images that the frozen tokenizer
encodes first.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from softvq_jax.diffusion.guidance import drop_labels
from softvq_jax.generators.training import GeneratorNetwork
from softvq_jax.parallel.mesh import constrain_batch
from softvq_jax.train import optim
from softvq_jax.train.state import GeneratorState


class GeneratorStep:
    """The step `(state, frozen, batch, key) -> (state, metrics)`.

    Args:
      config: the run's config.
      network: the generator and its losses.
      to_latents: `(frozen, batch) -> normalized latents [B, L, D]`.
      optimizer: the optimizer of the generator's parameters.
      learning_rate: of the optimizer at a step, to be logged.
      frozen: see `optim.apply`.
    """

    def __init__(
        self,
        config: ConfigDict,
        network: GeneratorNetwork,
        to_latents: Callable,
        optimizer,
        learning_rate: Callable[[jax.Array], jax.Array],
        frozen: Callable[[str], bool],
    ):
        self.config, self.network, self.to_latents, self.optimizer = config, network, to_latents, optimizer
        self.learning_rate, self.frozen = learning_rate, frozen

    def __call__(self, state: GeneratorState, frozen, batch, key: jax.Array):
        """Returns the next state, and the metrics of this step as float32 scalars.

        Args:
          state: the run's state.
          frozen: parameters that are not trained.
          batch: `label` `[B]`, and the fields that `to_latents` uses.
          key: random key of the run.
        """
        key = jax.random.fold_in(key, state.step)
        latents = constrain_batch(self.to_latents(frozen, batch))
        grads, metrics = self.accumulate(state.generator.params, latents, batch["label"], key)
        limit = self.config.optim.clip_norm
        generator, norm = optim.apply(self.optimizer, state.generator, grads, limit, self.frozen)
        ema = optim.ema_update(state.ema, generator.params, optim.ema_decay(self.config.optim, state.step))
        metrics |= {"grad_norm": norm, "learning_rate": self.learning_rate(state.step)}
        return GeneratorState(state.step + 1, generator, ema), metrics

    def accumulate(self, params, latents: jax.Array, labels: jax.Array, key: jax.Array):
        """Returns gradients and losses, averaged over `optim.accumulate` microbatches."""

        def gradients(carry, microbatch, key):
            latents, labels = microbatch
            grads, metrics = self.gradients(params, latents, labels, key)
            return grads, carry, metrics

        parts = self.config.optim.accumulate
        grads, _, metrics = optim.accumulate_gradients(gradients, parts, None, (latents, labels), key)
        return grads, metrics

    def gradients(self, params, latents: jax.Array, labels: jax.Array, key: jax.Array):
        """Returns the gradient of the mean loss, and the mean losses by name."""
        label_key, loss_key = jax.random.split(key)
        dropped = drop_labels(labels, self.network.config.num_classes, self.config.objective.label_dropout, label_key)

        def mean_loss(params):
            losses = self.network.losses(self.network(params), constrain_batch(latents), dropped, loss_key, True)
            means = {name: jnp.mean(loss) for name, loss in losses.items()}
            return means["loss"], means

        return jax.grad(mean_loss, has_aux=True)(params)
