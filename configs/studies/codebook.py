"""Codebook usage as the codebook grows to 65,536 codes: VQ against SimVQ.

    python -m softvq_jax.main --config=configs/studies/codebook.py --workdir=runs/codebook

SimVQ has a frozen or a trained matrix; the codebook's learning rate in VQ and SimVQ is annealed or constant. Fifteen
shortened runs of `configs/tiny.py` with 16 tokens, one codebook and no entropy loss, which would need memory proportional
to the codebook. Eleven minutes on two cores, mostly for 65,536 codes. SimVQ's paper (arXiv 2411.02038) reports 100 % usage
of 65,536 codes, and 1.4 to 4.5 % for VQ.
"""

from softvq_jax.config.study import load_base, shortened, study_config, variant

KINDS = {
    "vq": ("VQ", dict(bottleneck="vq"), "cosine"),
    "vq_constant": ("VQ, constant rate", dict(bottleneck="vq"), "constant"),
    "simvq": ("SimVQ", dict(bottleneck="simvq"), "cosine"),
    "simvq_constant": ("SimVQ, constant rate", dict(bottleneck="simvq"), "constant"),
    "simvq_trained": ("SimVQ, trained matrix", dict(bottleneck="simvq", train_codebook=True), "cosine"),
}


def get_config():
    base = shortened(load_base(__file__, "tiny"), 200)
    base.model.update(num_latent_tokens=16, num_codebooks=1)
    base.loss.entropy_weight = 0.0
    config = study_config(
        "codebook",
        base,
        {
            f"{name}_{size}": variant(
                label, size, model=dict(codebook_size=size, **model), optim=dict(codebook_schedule=schedule)
            )
            for size in (1024, 8192, 65536)
            for name, (label, model, schedule) in KINDS.items()
        },
        measures=("reconstruction", "codes"),
        x="Codes",
        columns=("psnr", "codebook_usage", "codebook_usage_uniform", "perplexity"),
        panels=("codebook_usage", "perplexity", "psnr"),
    )
    config.images.train = 8192  # 131,072 tokens, twice the size of the largest codebook
    return config
