"""The training config of a latent generator: every field, its default, and where the default comes from.

A file in `configs/` starts from `generator_config(...)` and changes what its experiment changes. The sections that say how
long, on what, where and what is written down are those of the tokenizer. Nothing here imports jax.
"""

from ml_collections import ConfigDict

from softvq_jax.config.evals import evals_schema
from softvq_jax.config.fields import defaults
from softvq_jax.config.optim import OPTIM
from softvq_jax.config.run import RUN
from softvq_jax.config.schemas import register_schema
from softvq_jax.config.tokenizer import SEED, optim_section, run_sections
from softvq_jax.models import generator_sizes

LATENTS = {"l64": ("SoftVQVAE/softvq-l-64", 64, 32), "l32": ("SoftVQVAE/softvq-l-32", 32, 64)}  # tokens, channels
FAMILIES = ("sit", "dit", "mar")

EVALS = evals_schema("held_out", "fid", "nearest_class")

register_schema("generator", lambda config: {"seed": SEED, "optim": OPTIM, **RUN, "evals": EVALS})


def generator_config(family: str, size: str, latents: str = "l64") -> ConfigDict:
    """A generator's whole training config, locked: fields can be set, not added.

    Args:
      family: "sit", "dit" or "mar".
      size: "B", "L", "XL" of SiT and DiT; "base", "large", "huge" of MAR.
      latents: "l64" or "l32", those of the published tokenizers.
    """
    config = ConfigDict()
    config.task = "generator"
    config.seed = 0
    config.tokenizer, num_tokens, channels = LATENTS[
        latents
    ]  # folder, run or id; "" trains on latents without pictures
    shape = dict(num_tokens=num_tokens, channels=channels, num_classes=1000)
    compute = dict(dtype="bfloat16", remat="none")  # "dots" or "full" trade speed for memory
    config.model = dict(family=family, **shape, **_sizes(family, size), **compute)
    config.objective = dict(label_dropout=0.1, **_objective(family))
    config.sampling = _sampling(family, num_tokens)  # of the pictures; arguments of Generator.sample
    config.optim = optim_section(**_optim(family))
    config.update(run_sections())
    config.data.update(source="latents", holdout=0.004)
    if family == "mar":
        config.train.update(batch_size=2048, num_epochs=400.0)
    else:
        config.train.num_epochs = (
            600.0  # 3 M steps: 2.3 times fewer than SiT's own 7 M, as SoftVQ-VAE's abstract has it
        )
    config.evals = defaults(EVALS)
    config.evals.held_out.every_steps = 10_000
    config.lock()
    return config


def _sizes(family, size):
    if family == "mar":
        width, depth, num_heads, head_width, head_depth = generator_sizes.MAR[size]
        stacks = {name: dict(width=width, depth=depth, num_heads=num_heads) for name in ("encoder", "decoder")}
        return dict(**stacks, head_width=head_width, head_depth=head_depth, buffer_size=64, dropout=0.1)
    return dict(**generator_sizes.DIT[size], mlp_ratio=4.0, qk_norm=False)


def _objective(family):
    return {
        "sit": dict(process="linear", time_distribution="uniform"),  # or "cosine"; or "lognormal"
        "dit": dict(process="linear"),  # or "cosine"
        "mar": dict(process="cosine", head_repeats=4),  # times and noises drawn for each token
    }[family]


def _sampling(family, num_tokens):
    if family == "mar":
        return dict(steps=num_tokens, guidance=1.75, temperature=1.0, head_steps=100)
    sampler = "sde_euler_maruyama" if family == "sit" else "ddpm"
    return dict(sampler=sampler, steps=250, guidance=1.75, guidance_interval=(0.0, 0.7))


def _optim(family):
    """SiT's and DiT's 1e-4 without decay; MAR's appendix: warm-up, decay, beta2."""
    if family == "mar":
        return dict(schedule="constant", warmup_epochs=100.0, beta2=0.95, weight_decay=0.02)
    return dict(schedule="constant", warmup_epochs=0.0, beta2=0.999, weight_decay=0.0)
