"""Codebook usage as the codebook grows to 65,536 codes: VQ against SimVQ, Gumbel-softmax, TokenFlow and FSQ.

    python -m softvq_jax.main --config=configs/studies/codebook.py --workdir=runs/codebook

SimVQ has a frozen or a trained matrix. Thirty-six shortened runs of `tiny` with 8 tokens of 32 channels for 16 patches,
three seeds and no entropy loss, which would need memory proportional to the codebook. SimVQ's paper (arXiv 2411.02038)
reports 100 % usage of 65,536 codes, and 1.4 to 4.5 % for VQ.
"""

from softvq_jax.config.study import STEPS, study_config, tiny_base, variant

KINDS = {
    "vq": ("VQ", dict(bottleneck="vq")),
    "simvq": ("SimVQ", dict(bottleneck="simvq")),
    "simvq_trained": ("SimVQ, trained matrix", dict(bottleneck="simvq", train_codebook=True)),
    "gumbel": ("Gumbel-softmax", dict(bottleneck="gumbel", bottleneck_args=dict(anneal_steps=STEPS, hard=True))),
    "token_flow": ("TokenFlow", dict(bottleneck="token_flow", bottleneck_args=dict(semantic_dim=8))),
}
LEVELS = {1024: (8, 8, 4, 4), 65_536: (8, 8, 8, 8, 4, 4)}  # of FSQ


def get_config():
    base = tiny_base(__file__)
    base.model.latent_dim = 32
    base.loss.entropy_weight = 0.0
    config = study_config(
        "codebook",
        base,
        {
            f"{name}_{size}": variant(label, size, model=dict(codebook_size=size, **model))
            for size in LEVELS
            for name, (label, model) in KINDS.items()
        }
        | {
            f"fsq_{size}": variant(
                "FSQ",
                size,
                model=dict(
                    bottleneck="fsq", bottleneck_args=dict(levels=levels), latent_dim=len(levels), codebook_size=size
                ),
            )
            for size, levels in LEVELS.items()
        },
        measures=("reconstruction", "codes"),
        x="Codes",
        columns=("psnr", "codebook_usage", "codebook_usage_uniform", "perplexity"),
        panels=("codebook_usage", "perplexity", "psnr"),
        seeds=3,
    )
    config.images.train = 8192  # 65,536 tokens, the size of the largest codebook
    return config
