"""MaskGIT, a transformer that fills in masked codes of a discrete tokenizer (arXiv 2202.04200), as released with TiTok.

The data are code indices `[B, L]`. The two networks are `ImageBert` and `UViTBert` (`models/maskgit.py`).
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from softvq_jax.config.fields import BOOLEAN, Field, Schema, integer, number, one_of
from softvq_jax.diffusion import masked_tokens
from softvq_jax.generators.family import Family, Losses, Sampler, Settings
from softvq_jax.models import maskgit
from softvq_jax.models.maskgit import NETWORKS, MaskGITConfig
from softvq_jax.weights import maskgit as weights

PRESETS: dict[str, dict[str, Any]] = {  # the two networks of the release
    "B": dict(network="bert", width=768, depth=24, num_heads=16, hidden=3072),
    "U": dict(network="uvit", width=1024, depth=20, num_heads=16, hidden=4096),
}
MODEL_FIELDS: Schema = {
    "network": Field("bert", '"bert" is ImageBert, "uvit" is UViTBert.', one_of(*NETWORKS)),
    "width": Field(768, "Width of the transformer.", integer(2), "channels"),
    "depth": Field(24, "Number of blocks; uvit has one more, in the middle.", integer(1), "blocks"),
    "num_heads": Field(16, "Attention heads of each block; they divide the width.", integer(1), "heads"),
    "hidden": Field(3072, "Hidden width of the MLPs.", integer(1), "channels"),
    "dropout": Field(0.1, "Dropout of bert's embeddings, attention outputs and MLPs.", number(0, below=1)),
    "attention_dropout": Field(0.1, "Dropout of bert's attention weights.", number(0, below=1)),
}
OBJECTIVE_FIELDS: Schema = {
    "process": Field("arccos", "Distribution of the masked share: arccos(u) / (pi / 2), u uniform.", one_of("arccos")),
    "label_smoothing": Field(0.1, "Share of the target distribution that is uniform over the codes.", number(0, 1)),
    "unmasked_weight": Field(0.1, "Weight of the codes that are not masked.", number(0)),
}
SAMPLING_FIELDS: Schema = {
    "temperature": Field(9.5, "Noise on the confidence in the first step; it falls to 0.", number(0)),
    "guidance_schedule": Field(
        "linear",
        "How guidance grows over the steps: in proportion to the step, by a power of the cosine, or not at all.",
        one_of(*masked_tokens.GUIDANCE_SCHEDULES),
    ),
    "anneal_softmax": Field(False, "Whether logits are divided by a softmax temperature that falls to 0.5.", BOOLEAN),
}


def make_losses(objective) -> Losses:
    """Returns the loss function: `loss`, the weighted cross-entropy, and `accuracy` on the masked codes, `[B]` each."""
    return partial(_losses, objective.label_smoothing, objective.unmasked_weight)


def _losses(smoothing: float, unmasked_weight: float, network, codes, labels, key, training):
    mask_key, dropout_key = jax.random.split(key)
    batch, length = codes.shape
    mask, whole = masked_tokens.draw_masks(batch, length, mask_key)
    masked = jnp.where(mask, network.config.mask_token, codes)
    logits = network(masked, labels, key=dropout_key if training else None)
    errors = masked_tokens.cross_entropy(logits, codes, smoothing=smoothing)
    correct = (jnp.argmax(logits, axis=-1) == codes).astype(jnp.float32)
    return {
        "loss": masked_tokens.pooled_mean(
            errors, *(masked_tokens.loss_weights(drawn, unmasked_weight) for drawn in (mask, whole))
        ),
        "accuracy": masked_tokens.pooled_mean(correct, mask, whole),
    }


def draw(
    network, labels, keys, guidance, *, settings: Settings, process: str, temperature: jax.Array | float = 1.0
) -> jax.Array:
    """Draws codes `[B, L]` int32, as the release does; each example has its own key, in `keys` `[B]`.

    With guidance, the network runs on a doubled batch: the first half with classes, the second half without.
    """
    config = network.config
    uniform = masked_tokens.uniform_from_keys(keys, config.num_tokens, config.codebook_size)
    logits_fn = partial(guided_logits, network, labels, settings=settings, guidance=guidance)
    return masked_tokens.sample_tokens(
        logits_fn,
        uniform,
        (len(labels), config.num_tokens),
        mask_token=config.mask_token,
        steps=settings.steps,
        temperature=temperature,
        anneal_softmax=settings.anneal_softmax,
    )


def guided_logits(network, labels, tokens, step, *, settings: Settings, guidance) -> jax.Array:
    """Returns the logits `[B, L, K]` of a step, `cond + w (cond - uncond)`; `w` depends on the step, see `released_scale`.

    Args:
      network: an `ImageBert` or `UViTBert`.
      labels: `[B]`.
      tokens: `[B, L]`, codes or the mask.
      step: number of the step.
      settings: settings of the sampling program.
      guidance: guidance scale; 1 is no guidance.
    """
    if not settings.guided:
        return network(tokens, labels)
    none = jnp.full_like(labels, network.config.num_classes)
    both = network(jnp.concatenate([tokens, tokens]), jnp.concatenate([labels, none]))
    with_class, without = jnp.split(both, 2)
    scale = released_scale(settings.guidance_schedule, guidance)
    weight = masked_tokens.guidance_weights(settings.guidance_schedule, scale, settings.steps)[step]
    return with_class + weight * (with_class - without)


def released_scale(schedule: str, guidance):
    """Converts our guidance scale to the release's, which is 1 lower except for "power-cosine"."""
    return guidance if schedule == "power-cosine" else guidance - 1.0


def sampling_defaults(published: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `Generator.sample` with which the release samples, given the content of `config.json`."""
    fields = weights.sampling_of(published)
    schedule, scale = fields["guidance_decay"], fields["guidance_scale"]
    return {
        "steps": fields["num_steps"],
        "guidance": scale if schedule == "power-cosine" else scale + 1.0,
        "guidance_schedule": schedule,
        "temperature": fields["randomize_temperature"],
        "anneal_softmax": fields["softmax_temperature_annealing"],
    }


def read_config(tensors, published, *, dtype: str, remat: str) -> MaskGITConfig | None:
    """Returns the config of a published generator, given its tensors; None if they belong to another network."""
    return weights.config_of(tensors, published, dtype=dtype, remat=remat) if weights.is_maskgit(tensors) else None


MASKGIT = Family(
    name="maskgit",
    presets=PRESETS,
    fields={"model": MODEL_FIELDS, "objective": OBJECTIVE_FIELDS, "sampling": SAMPLING_FIELDS},
    make_config=lambda fields: MaskGITConfig(**fields),
    matches_config=lambda config: isinstance(config, MaskGITConfig),
    network=maskgit.functional,
    losses=make_losses,
    samplers={
        "maskgit": Sampler(draw, frozenset({"temperature", "guidance_schedule", "anneal_softmax"}), steps=8),
    },
    weight_rules=weights.maskgit_rules,
    read_config=read_config,
    published_fields=lambda config, process: weights.published_fields(config),
    process_field="mask_schedule",
    # The release trains 500,000 steps of 2,048 images at 2e-4, after a warm-up of 10,000: 16 and 800 epochs of ImageNet.
    optimizer_defaults=dict(learning_rate=2.5e-5, final_factor=0.05, warmup_epochs=16.0, beta2=0.96, weight_decay=0.03),
    train_defaults=dict(batch_size=2048, num_epochs=800.0),
    anchors=weights.ANCHORS,
    discrete=True,
    paper="2202.04200",
    sampling_defaults=sampling_defaults,
)
