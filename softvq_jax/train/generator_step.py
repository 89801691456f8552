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
from softvq_jax.train.repa import Repa, Tapped
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
      repa: REPA's loss; None without it.
    """

    def __init__(
        self,
        config: ConfigDict,
        network: GeneratorNetwork,
        to_latents: Callable,
        optimizer,
        learning_rate: Callable[[jax.Array], jax.Array],
        frozen: Callable[[str], bool],
        repa: Repa | None = None,
    ):
        self.config, self.network, self.to_latents, self.optimizer = config, network, to_latents, optimizer
        self.learning_rate, self.frozen = learning_rate, frozen
        self.repa = repa
        self.pieces = 1  # of each microbatch; see `optim.accumulate_gradients`

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
        params, targets, repa = state.generator.params, None, state.repa
        if self.repa is not None and repa is not None:
            params, targets = (params, repa.params), constrain_batch(self.repa.targets(frozen, batch["image"]))
        grads, metrics = self.accumulate(params, latents, batch["label"], key, targets)
        limit = self.config.optim.clip_norm
        if self.repa is not None and repa is not None:
            grads, repa_grads = grads
            repa, metrics["repa_grad_norm"] = optim.apply(self.repa.optimizer, repa, repa_grads, limit)
        generator, norm = optim.apply(self.optimizer, state.generator, grads, limit, self.frozen)
        ema = optim.ema_update(state.ema, generator.params, optim.ema_decay(self.config.optim, state.step))
        metrics |= {"grad_norm": norm, "learning_rate": self.learning_rate(state.step)}
        return GeneratorState(state.step + 1, generator, ema, repa), metrics

    def accumulate(
        self, params, latents: jax.Array, labels: jax.Array, key: jax.Array, targets: jax.Array | None = None
    ):
        """Returns gradients and losses, averaged over `optim.accumulate` microbatches; arguments as in `gradients`."""

        def gradients(carry, microbatch, key):
            latents, labels, targets = microbatch
            grads, metrics = self.gradients(params, latents, labels, key, targets)
            return grads, carry, metrics

        count, batch = self.config.optim.accumulate, (latents, labels, targets)
        grads, _, metrics = optim.accumulate_gradients(gradients, count, None, batch, key, pieces=self.pieces)
        return grads, metrics

    def gradients(
        self, params, latents: jax.Array, labels: jax.Array, key: jax.Array, targets: jax.Array | None = None
    ):
        """Returns the gradient of the mean loss, and the mean losses by name.

        Args:
          params: of the generator; with `targets` a pair, of the generator and of REPA's projection.
          latents, labels: `[B, L, D]` and `[B]`.
          key: random key.
          targets: the teacher's features `[B, N, teacher width]`, for REPA.
        """
        label_key, loss_key = jax.random.split(key)
        dropped = drop_labels(labels, self.network.config.num_classes, self.config.objective.label_dropout, label_key)

        def mean_loss(params):
            losses = self.network.losses(self.network(params), constrain_batch(latents), dropped, loss_key, True)
            means = {name: jnp.mean(loss) for name, loss in losses.items()}
            return means["loss"], means

        def mean_loss_with_repa(params):
            assert self.repa is not None and targets is not None
            params, head_params = params
            network = Tapped(self.network(params), self.repa.block)
            losses = self.network.losses(network, constrain_batch(latents), dropped, loss_key, True)
            means = {name: jnp.mean(loss) for name, loss in losses.items()}
            assert network.tokens is not None, "the losses called the network"
            means["repa"] = self.repa.loss(head_params, network.tokens, targets)
            return means["loss"] + self.repa.weight * means["repa"], means

        return jax.grad(mean_loss if targets is None else mean_loss_with_repa, has_aux=True)(params)
