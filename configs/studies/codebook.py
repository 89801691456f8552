"""Codebook usage as the codebook grows to 65,536 codes: VQ against SimVQ, Gumbel-softmax, TokenFlow and FSQ.

    python -m softvq_jax.main --config=configs/studies/codebook.py --workdir=runs/codebook

SimVQ has a frozen or a trained matrix; the codebook's learning rate in VQ and SimVQ is annealed or constant. Twenty-four
shortened runs of `tiny_patches` with 16 tokens, one codebook and no entropy loss, which would need memory proportional
to the codebook. Those of VQ and SimVQ take eleven minutes on two cores, mostly for 65,536 codes. SimVQ's paper (arXiv
2411.02038) reports 100 % usage of 65,536 codes, and 1.4 to 4.5 % for VQ.
"""

from softvq_jax.config.study import load_base, shortened, study_config, variant

STEPS = 200
KINDS = {
    "vq": ("VQ", dict(bottleneck="vq"), "cosine"),
    "vq_constant": ("VQ, constant rate", dict(bottleneck="vq"), "constant"),
    "simvq": ("SimVQ", dict(bottleneck="simvq"), "cosine"),
    "simvq_constant": ("SimVQ, constant rate", dict(bottleneck="simvq"), "constant"),
    "simvq_trained": ("SimVQ, trained matrix", dict(bottleneck="simvq", train_codebook=True), "cosine"),
    "gumbel": (
        "Gumbel-softmax",
        dict(bottleneck="gumbel", bottleneck_args=dict(anneal_steps=STEPS, hard=True)),
        "cosine",
    ),
    "token_flow": ("TokenFlow", dict(bottleneck="token_flow", bottleneck_args=dict(semantic_dim=8)), "cosine"),
}
LEVELS = {1024: (8, 8, 4, 4), 8192: (8, 8, 8, 4, 4), 65_536: (8, 8, 8, 8, 4, 4)}  # of FSQ


def get_config():
    base = shortened(load_base(__file__, "tiny_patches"), STEPS)
    base.model.update(num_latent_tokens=16, num_codebooks=1)
    base.loss.entropy_weight = 0.0
    config = study_config(
        "codebook",
        base,
        {
            f"{name}_{size}": variant(
                label, size, model=dict(codebook_size=size, **model), optim=dict(codebook_schedule=schedule)
            )
            for size in LEVELS
            for name, (label, model, schedule) in KINDS.items()
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
    )
    config.images.train = 8192  # 131,072 tokens, twice the size of the largest codebook
    return config
