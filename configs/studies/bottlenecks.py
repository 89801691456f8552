"""Reconstruction by bottleneck and number of tokens: all built-in bottlenecks, 8 and 4 tokens for 16 patches, three seeds.

    python -m softvq_jax.main --config=configs/studies/bottlenecks.py --workdir=runs/bottlenecks

Forty-eight shortened runs of `tiny`. TokenFlow's semantic half has no teacher here. FSQ has 3 channels of 8 levels, as many
codes as the others, and 3 numbers per token. Any field of the base config can be set, such as
`--config.base.data.path=...`. With `--config.base.evals.fid.every_steps=1000 --config.base.evals.fid.weights=...`, rFID on
the held-out images is measured too. In the paper (SoftVQ-VAE, ablations), rFID with 256 and with 32 tokens is 0.80 and 1.24
for SoftVQ, 1.45 and 10.97 for VQ, and 1.15 and 2.01 without a bottleneck.
"""

from softvq_jax.config.study import STEPS, study_config, tiny_base, variant

KINDS = {
    "softvq": ("SoftVQ", {}),
    "vq": ("VQ", {}),
    "simvq": ("SimVQ", {}),
    "kl": ("KL", {}),
    "ae": ("AE", {}),
    "gumbel": ("Gumbel-softmax", dict(bottleneck_args=dict(anneal_steps=STEPS, hard=True))),
    "token_flow": ("TokenFlow", dict(bottleneck_args=dict(semantic_dim=32))),
    "fsq": ("FSQ", dict(bottleneck_args=dict(levels=(8, 8, 8)), latent_dim=3)),
}


def get_config():
    return study_config(
        "bottlenecks",
        tiny_base(__file__),
        {
            f"{name}_{tokens}": variant(label, tokens, model=dict(bottleneck=name, num_latent_tokens=tokens, **model))
            for tokens in (8, 4)
            for name, (label, model) in KINDS.items()
        },
        measures=("reconstruction", "codes"),
        x="Tokens",
        columns=("latent_numbers", "bits", "rfid", "psnr", "ssim_gauss", "codebook_usage", "perplexity"),
        panels=("psnr", "ssim_gauss", "codebook_usage", "rfid"),
        seeds=3,
    )
