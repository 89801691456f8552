"""MAR, a masked autoencoder over tokens with a diffusion head that samples each token (arXiv 2406.11838)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.config.fields import Field, Schema, integer, number, one_of
from softvq_jax.diffusion import masking, objectives, samplers
from softvq_jax.diffusion.guidance import guided
from softvq_jax.diffusion.schedules import BETAS, Schedule, make_schedule
from softvq_jax.generators.family import Family, Losses, Sampler, Settings
from softvq_jax.generators.published import (
    attention_and_mlp_rules,
    check_tensors,
    final_rules,
    num_heads,
    time_rules,
)
from softvq_jax.generators.sampling import fold_in, split_keys
from softvq_jax.models import mar
from softvq_jax.models.functional import functional
from softvq_jax.models.mar import MARConfig, StackConfig
from softvq_jax.weights.layout import LEADING_ONE, Layout, Rule, count_blocks, linear, norm

TWO_LEADING_ONES = Layout(lambda w: w[0, 0], lambda w: w[None, None])  # [1, 1, ...] <-> [...]


def _preset(width: int, depth: int, heads: int, head_width: int, head_depth: int) -> dict[str, Any]:
    stacks = {name: dict(width=width, depth=depth, num_heads=heads) for name in ("encoder", "decoder")}
    return dict(**stacks, head_width=head_width, head_depth=head_depth)


PRESETS = {  # MAR, table 4
    "B": _preset(768, 12, 12, 1024, 6),
    "L": _preset(1024, 16, 16, 1280, 8),
    "H": _preset(1280, 20, 16, 1536, 12),
}


def _stack_fields(name: str) -> Schema:
    return {
        "width": Field(768, f"Width of the {name}.", integer(2), "channels"),
        "depth": Field(12, f"Number of blocks of the {name}.", integer(1), "blocks"),
        "num_heads": Field(12, "Attention heads of each block; they divide the width.", integer(1), "heads"),
    }


MODEL_FIELDS: Schema = {
    "encoder": _stack_fields("encoder"),
    "decoder": _stack_fields("decoder"),
    "head_width": Field(1024, "Width of the diffusion head.", integer(2), "channels"),
    "head_depth": Field(6, "Number of blocks of the diffusion head.", integer(1), "blocks"),
    "buffer_size": Field(64, "Copies of the class embedding put before the tokens.", integer(1), "tokens"),
    "dropout": Field(0.1, "Dropout of attention, its projection and the MLPs.", number(0, below=1)),
}
OBJECTIVE_FIELDS: Schema = {
    "process": Field("cosine", "Noise schedule of the head's 1,000 timesteps.", one_of(*BETAS)),
    "head_repeats": Field(4, "Timesteps and noises drawn for each token.", integer(1)),
}
SAMPLING_FIELDS: Schema = {
    "temperature": Field(1.0, "Factor on the noise of the head's steps.", number(0)),
    "head_steps": Field(100, "Denoising steps of each token.", integer(1, 1000), "steps"),
}


def make_losses(objective) -> Losses:
    """Returns the diffusion loss of the masked tokens (MAR, equation 2): `{"loss": [B]}`."""
    return partial(_losses, make_schedule(objective.process), objective.head_repeats)


def _losses(schedule: Schedule, repeats: int, network: mar.MAR, x, labels, key, training):
    keys, (batch, length, _) = jax.random.split(key, 3), x.shape
    mask = masking.draw_mask(batch, length, keys[0])
    visible = masking.max_visible(length)
    z = network(x, labels, mask, num_visible=visible, key=keys[1] if training else None)
    return {"loss": objectives.mar_loss(network.head, x, z, mask, keys[2], schedule=schedule, repeats=repeats)}


def draw(network: mar.MAR, labels, keys, guidance, *, settings: Settings, process: str, temperature=1.0) -> jax.Array:
    """Draws normalized latents `[B, L, D]`, a few tokens per iteration; `process` is the noise schedule of the head.

    With guidance, network and head run on a doubled batch: the first half with classes, the second half without.
    """
    config = network.config
    length, channels = config.num_tokens, config.channels
    order_keys, token_keys = split_keys(keys, 2)
    schedule = make_schedule(process, steps=settings.head_steps)

    def double(x):
        return jnp.concatenate([x, x]) if settings.guided else x

    all_labels = jnp.concatenate([labels, jnp.full_like(labels, config.num_classes)]) if settings.guided else labels

    def predict(latents, masked, positions, scale, iteration):
        z = network(double(latents), all_labels, double(masked), num_visible=length)
        z = jnp.take_along_axis(z, double(positions)[..., None], axis=1)
        head = lambda x, t: network.head(x, jnp.broadcast_to(t[:, None], x.shape[:2]), z)  # noqa: E731
        model = samplers.Model(head, guided(head, scale, channels) if settings.guided else None)
        shape = (positions.shape[1], channels)
        start_keys, step_keys = split_keys(fold_in(token_keys, iteration), 2)
        x, noise_fn = samplers.noise_from_keys(start_keys, shape)(0), samplers.noise_from_keys(step_keys, shape)
        return samplers.ddpm(model, x, schedule, noise_fn=noise_fn, temperature=temperature)

    orders = masking.random_orders(order_keys, length)
    return masking.fill_tokens(predict, orders, channels, settings.steps, guidance)


def weight_rules(config: MARConfig) -> list[Rule]:
    """Returns the rules of `MAR`, including its head, in the naming of its authors."""
    rules = [
        Rule("class_embeddings", "class_emb.weight"),
        Rule("no_class", "fake_latent", LEADING_ONE),
        Rule("encoder_positions", "encoder_pos_embed_learned", LEADING_ONE),
        Rule("mask_token", "mask_token", TWO_LEADING_ONES),
        Rule("decoder_positions", "decoder_pos_embed_learned", LEADING_ONE),
        Rule("head_positions", "diffusion_pos_embed_learned", LEADING_ONE),
    ]
    rules += linear("z_proj", "z_proj") + norm("z_proj_norm", "z_proj_ln") + linear("decoder_embed", "decoder_embed")
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        blocks = f"{name}_blocks.{{i}}"
        rules += attention_and_mlp_rules(f"{name}/blocks", blocks, stack.depth) + norm(f"{name}/norm", f"{name}_norm")
        for each in ("norm1", "norm2"):
            rules += norm(f"{name}/blocks/{each}", f"{blocks}.{each}", stack.depth)
    net, blocks = "diffloss.net", "diffloss.net.res_blocks.{i}"
    rules += time_rules("head/time_embed", f"{net}.time_embed")
    rules += linear("head/cond_embed", f"{net}.cond_embed") + linear("head/input_proj", f"{net}.input_proj")
    rules += norm("head/blocks/norm", f"{blocks}.in_ln", config.head_depth)
    for ours, theirs in (("mlp/fc1", "mlp.0"), ("mlp/fc2", "mlp.2"), ("modulation", "adaLN_modulation.1")):
        rules += linear(f"head/blocks/{ours}", f"{blocks}.{theirs}", config.head_depth)
    return rules + final_rules("head/final_layer", f"{net}.final_layer")


def read_config(
    tensors: Mapping[str, np.ndarray], published: Mapping[str, Any], *, dtype: str, remat: str
) -> MARConfig | None:
    """Returns the config of a MAR, given its tensors; None if they belong to another network.

    Raises:
      WeightsError: a tensor is missing, or the number of heads is unknown.
    """
    if "diffloss.net.input_proj.weight" not in tensors:
        return None
    needed = ("diffusion_pos_embed_learned", "z_proj.weight", "class_emb.weight", "encoder_pos_embed_learned")
    check_tensors(tensors, (*needed, "encoder_norm.weight", "decoder_norm.weight"), "a MAR")
    heads = {size: (preset["encoder"]["width"], preset["encoder"]["num_heads"]) for size, preset in PRESETS.items()}
    stacks = {}
    for name in ("encoder", "decoder"):
        width = tensors[f"{name}_norm.weight"].shape[0]
        stated = published.get(f"{name}_num_heads")
        stacks[name] = StackConfig(width, count_blocks(tensors, f"{name}_blocks."), num_heads(stated, width, heads))
    num_tokens = tensors["diffusion_pos_embed_learned"].shape[1]
    return MARConfig(
        num_tokens=num_tokens,
        channels=tensors["z_proj.weight"].shape[1],
        **stacks,
        head_width=tensors["diffloss.net.input_proj.weight"].shape[0],
        head_depth=count_blocks(tensors, "diffloss.net.res_blocks."),
        num_classes=tensors["class_emb.weight"].shape[0],
        buffer_size=tensors["encoder_pos_embed_learned"].shape[1] - num_tokens,
        dropout=float(published.get("attn_dropout", MARConfig.dropout)),
        dtype=dtype,
        remat=remat,
    )


def published_fields(config: MARConfig, process: str) -> dict[str, Any]:
    """Returns the flat `config.json` of a MAR."""
    fields = {
        "vae_embed_dim": config.channels,
        "num_latent_tokens": config.num_tokens,
        "class_num": config.num_classes,
        "buffer_size": config.buffer_size,
        "diffloss_d": config.head_depth,
        "diffloss_w": config.head_width,
        "attn_dropout": config.dropout,
        "proj_dropout": config.dropout,
        "schedule": process,
    }
    for name, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        fields |= {
            f"{name}_embed_dim": stack.width,
            f"{name}_depth": stack.depth,
            f"{name}_num_heads": stack.num_heads,
        }
    return fields


MAR = Family(
    name="mar",
    presets=PRESETS,
    fields={"model": MODEL_FIELDS, "objective": OBJECTIVE_FIELDS, "sampling": SAMPLING_FIELDS},
    make_config=MARConfig.from_dict,
    matches_config=lambda config: isinstance(config, MARConfig),
    network=partial(functional, mar.MAR),
    losses=make_losses,
    samplers={
        "masked": Sampler(
            draw, frozenset({"temperature", "head_steps"}), None, most_steps=lambda config: config.num_tokens
        )
    },
    weight_rules=weight_rules,
    read_config=read_config,
    published_fields=published_fields,
    process_field="schedule",
    paper="2406.11838",
    # warm-up, weight decay and beta2 as in MAR's appendix
    optimizer_defaults=dict(schedule="constant", warmup_epochs=100.0, beta2=0.95, weight_decay=0.02),
    train_defaults=dict(batch_size=2048, num_epochs=400.0),
    anchors=("diffloss.net.input_proj.weight",),
    config_json={
        "encoder_num_heads": integer(1),
        "decoder_num_heads": integer(1),
        "attn_dropout": number(0, below=1),
    },
)
