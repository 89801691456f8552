"""Which codes stay in use as a codebook grows to 65,536: VQ against SimVQ.

    python -m softvq_jax.main --config=configs/studies/codebook.py --workdir=runs/codebook

SimVQ with its matrix frozen and trained, and both with a learning rate of the codebook that anneals with the rest or stays
constant. Fifteen runs of `configs/tiny.py`, shortened, with 16 tokens, one codebook and no entropy term, whose memory grows
with it. Cost: eleven minutes on two cores, most of it at 65,536.
SimVQ's paper (arXiv 2411.02038) claims 100 % use at 65,536, where VQ uses 1.4 to 4.5 %.
"""

from softvq_jax.config.study import beside, shortened, study_config, variant

KINDS = {
    "vq": ("VQ", dict(bottleneck="vq"), "cosine"),
    "vq_constant": ("VQ, constant rate", dict(bottleneck="vq"), "constant"),
    "simvq": ("SimVQ", dict(bottleneck="simvq"), "cosine"),
    "simvq_constant": ("SimVQ, constant rate", dict(bottleneck="simvq"), "constant"),
    "simvq_trained": ("SimVQ, trained matrix", dict(bottleneck="simvq", train_codebook=True), "cosine"),
}


def get_config():
    base = shortened(beside(__file__, "tiny"), 200)
    base.model.update(num_latent_tokens=16, num_codebooks=1)
    base.loss.entropy_weight = 0.0
    config = study_config(
        "codebook",
        base,
        {
            f"{name}_{size}": variant(
                words, size, model=dict(codebook_size=size, **model), optim=dict(codebook_schedule=schedule)
            )
            for size in (1024, 8192, 65536)
            for name, (words, model, schedule) in KINDS.items()
        },
        measures=("reconstruction", "codes"),
        x="Codes",
        columns=("psnr", "code_use", "code_use_possible", "perplexity"),
        panels=("code_use", "perplexity", "psnr"),
    )
    config.images.train = 8192  # 131,072 tokens: twice as many as the largest codebook has codes
    return config
