"""Optimization as in SoftVQ-VAE's appendix: AdamW, cosine schedule with warm-up, clipping per network, EMA.

Also Muon, and gradient accumulation, for the steps of all tasks.
"""

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from softvq_jax.parallel import batch_random
from softvq_jax.train.state import Discriminator, Network

# Parameters without weight decay. The released code decays tensors with two or more axes that are not biases. Stacking
# over depth adds an axis here, so the rule is stated by name.
UNDECAYED = ("bias", "scale", "gamma", "projection_bias")
MUON_BETA = 0.95  # decay of Muon's momentum, as published


def learning_rate(
    optim, kind: str, *, batch_size: int, steps_per_epoch: int, num_steps: int
) -> Callable[[ArrayLike], jax.Array]:
    """Returns the learning rate as a function of the step, counted from 0.

    It grows linearly over `warmup_epochs` to the peak, `learning_rate * batch_size / 256`. Then "cosine" decays it to
    `final_factor` of the peak at the last step, and "constant" keeps it.

    Args:
      optim: `config.optim`.
      kind: "cosine" or "constant".
      batch_size: global batch size.
      steps_per_epoch: steps per epoch, for the warm-up.
      num_steps: steps of the whole run.

    Raises:
      ValueError: unknown `kind`.
    """
    if kind not in ("cosine", "constant"):
        raise ValueError(f"the schedule of the learning rate is {kind!r}; expected 'cosine' or 'constant'")
    peak = optim.learning_rate * batch_size / 256
    warmup = warmup_steps(optim, steps_per_epoch)

    def schedule(count):
        after = 1.0
        if kind == "cosine":
            progress = jnp.clip((count - warmup) / max(1, num_steps - warmup), 0.0, 1.0)
            after = optim.final_factor + (1 - optim.final_factor) * 0.5 * (1 + jnp.cos(math.pi * progress))
        return peak * jnp.minimum((count + 1) / warmup, after)

    return schedule


def warmup_steps(optim, steps_per_epoch: int) -> int:
    """Returns the number of steps over which the learning rate grows to its peak."""
    return max(1, round(optim.warmup_epochs * steps_per_epoch))


def adamw(optim, schedules: Mapping[str, optax.Schedule], group: Callable[[str], str]) -> optax.GradientTransformation:
    """Returns AdamW with a schedule for each group of parameters, whatever `optim.optimizer` says.

    Args:
      optim: `config.optim`.
      schedules: learning rates by group.
      group: maps a parameter's `/`-joined path to its group. Group "frozen" is not updated and has no state.
    """
    return _by_group(lambda schedule: _adamw(optim, schedule), schedules, group)


def optimizer(
    optim, schedules: Mapping[str, optax.Schedule], group: Callable[[str], str]
) -> optax.GradientTransformation:
    """Returns the optimizer that `optim.optimizer` names, with the arguments of `adamw`.

    "muon" updates kernels `[..., in, out]` by Muon (Jordan et al., 2024): by the momentum with all singular values set to
    about 1, times `max(1, out / in)^0.5` and the learning rate. AdamW updates all other parameters. Muon's learning rate
    follows the schedule of the group, with `muon_learning_rate` as its peak; weight decay is decoupled, as in AdamW.
    """
    if optim.optimizer == "adamw":
        return adamw(optim, schedules, group)
    ratio = optim.muon_learning_rate / optim.learning_rate if optim.learning_rate else 0.0

    def transform(schedule):
        kernels = optax.chain(
            scale_by_muon(beta=MUON_BETA, weight_dimension_numbers=_last_two_axes),
            optax.stateless_with_tree_map(lambda update, _: _widening(update) * update),
            optax.add_decayed_weights(optim.weight_decay),
            optax.scale_by_learning_rate(lambda count: ratio * schedule(count)),
        )
        return optax.partition({"kernel": kernels, "other": _adamw(optim, schedule)}, _kernels)

    return _by_group(transform, schedules, group)


def _last_two_axes(tree) -> dict:
    """Returns a tree with Muon's dimensions of kernels `[..., in, out]`."""
    return jax.tree.map(lambda _: MuonDimensionNumbers(-2, -1), tree)


def _widening(kernel: ArrayLike) -> float:
    """Returns `max(1, out / in)^0.5`, the factor of Muon's update of a kernel `[..., in, out]`."""
    width_in, width_out = jnp.shape(kernel)[-2:]
    return max(1.0, width_out / width_in) ** 0.5


def _kernels(params) -> dict:
    """Returns a tree of labels, "kernel" for the parameters that Muon updates and "other" for the rest."""
    return map_with_path(lambda path, _: "kernel" if path.rsplit("/", 1)[-1] == "kernel" else "other", params)


def _adamw(optim, schedule):
    return optax.adamw(
        schedule, b1=optim.beta1, b2=optim.beta2, eps=optim.eps, weight_decay=optim.weight_decay, mask=decay_mask
    )


def _by_group(transform, schedules, group):
    transforms: dict[Hashable, optax.GradientTransformation] = {"frozen": optax.set_to_zero()}
    transforms |= {name: transform(schedule) for name, schedule in schedules.items()}
    return optax.partition(transforms, lambda params: map_with_path(lambda path, _: group(path), params))


def decay_mask(params) -> dict:
    """Returns a tree that is True for parameters with weight decay: all but biases, gains of norms, and LayerScale."""
    return map_with_path(lambda path, _: path.rsplit("/", 1)[-1] not in UNDECAYED, params)


def map_with_path(function: Callable, tree):
    """Maps `function(path, leaf)` over a tree; paths are joined by `/`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )


def accumulate_gradients(
    gradients: Callable[[Any, Any, jax.Array], tuple[Any, Any, Any]],
    num_microbatches: int,
    carry: Any,
    batch: Any,
    key: jax.Array,
    *,
    pieces: int = 1,
) -> tuple[Any, Any, Any]:
    """Averages gradients and metrics over microbatches, computed one after the other.

    Args:
      gradients: `gradients(carry, batch, key) -> (grads, carry, metrics)`, one forward and backward pass.
      num_microbatches: 1 calls `gradients` on the whole batch, with `key` itself.
      carry: state passed from one microbatch to the next without gradients, such as running statistics; or None.
      batch: tree of arrays `[B, ...]`, B divisible by `num_microbatches`.
      key: random key; microbatch `i` gets `fold_in(key, i)`.
      pieces: computes each microbatch in this many pieces with the same random numbers (`parallel.batch_random`), so that
        losses that are means over examples are those of the whole microbatch.

    Returns:
      Mean gradients, the carry after the last microbatch, mean metrics.
    """

    def of_microbatch(carry, microbatch, key):
        def of_piece(carry, piece, index):
            with batch_random.piece(index, pieces):
                return gradients(carry, piece, key)

        if pieces == 1:
            return gradients(carry, microbatch, key)
        return _average(of_piece, pieces, carry, microbatch)

    if num_microbatches == 1:
        return of_microbatch(carry, batch, key)
    return _average(
        lambda carry, microbatch, index: of_microbatch(carry, microbatch, jax.random.fold_in(key, index)),
        num_microbatches,
        carry,
        batch,
    )


def _average(gradients: Callable[[Any, Any, jax.Array], tuple[Any, Any, Any]], count: int, carry: Any, batch: Any):
    """Averages `gradients(carry, part, index)` over `count` parts of a batch; returns what `gradients` returns."""

    # A part takes every n-th sample, so that each device works on its own share of the batch.
    def split(x):
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    def run(carry, inputs):
        index, part = inputs
        grads, carry, metrics = gradients(carry, part, index)
        return carry, jax.tree.map(lambda leaf: leaf / count, (grads, metrics))

    # A running sum, because stacked gradients would take `count` times the memory.
    def add(state, inputs):
        carry, total = state
        carry, results = run(carry, inputs)
        return (carry, jax.tree.map(jnp.add, total, results)), None

    inputs = (jnp.arange(count), jax.tree.map(split, batch))
    _, shapes = jax.eval_shape(run, carry, jax.tree.map(lambda x: x[0], inputs))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (carry, (grads, metrics)), _ = jax.lax.scan(add, (carry, zeros), inputs)
    return grads, carry, metrics


def clip_by_global_norm(grads, limit: float):
    """Scales gradients by `min(1, limit / (norm + 1e-6))`, as PyTorch's `clip_grad_norm_` does.

    Unlike optax's, which does not add 1e-6. Also returns the norm before clipping.
    """
    norm = optax.tree.norm(grads)
    factor = jnp.minimum(1.0, limit / (norm + 1e-6))
    return jax.tree.map(lambda grad: grad * factor, grads), norm


def apply(
    optimizer: optax.GradientTransformation,
    network: Network | Discriminator,
    grads,
    limit: float,
    frozen: Callable[[str], bool] = lambda path: False,
) -> tuple[Network, jax.Array]:
    """Updates a network with gradients clipped to norm `limit`; also returns their norm before clipping.

    Args:
      optimizer, network, grads, limit: see above.
      frozen: tells by its `/`-joined path whether a parameter stays as it is, bit for bit. Its gradient is not part of
        the norm, and the compiler leaves its computation out.
    """
    kept = map_with_path(lambda path, _: frozen(path), network.params)
    grads = jax.tree.map(lambda keep, grad: jnp.zeros_like(grad) if keep else grad, kept, grads)
    grads, norm = clip_by_global_norm(grads, limit)
    updates, opt = optimizer.update(grads, network.opt, network.params)
    params = jax.tree.map(lambda keep, param, update: param if keep else param + update, kept, network.params, updates)
    return Network(params, opt), norm


def ema_decay(optim, step: jax.Array) -> jax.Array | float:
    """Returns the average's decay at the update after `step` steps: `ema_decay`, or with `ema_warmup` a growing one.

    The warm-up is `min(ema_decay, (1 + step) / (10 + step))`, as in TensorFlow's ExponentialMovingAverage.
    """
    if not optim.ema_warmup:
        return optim.ema_decay
    step = step.astype(jnp.float32)
    return jnp.minimum(optim.ema_decay, (1.0 + step) / (10.0 + step))


def ema_update(ema, params, decay: jax.Array | float):
    """Returns the moving average `ema + (1 - decay) * (params - ema)`, which is exact for constant parameters."""
    return jax.tree.map(lambda average, param: average + (1.0 - decay) * (param - average), ema, params)
