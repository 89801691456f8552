"""Which bottleneck keeps the image as tokens become fewer: SoftVQ, VQ, SimVQ, KL and none, 64 to 8 tokens.

    python -m softvq_jax.main --config=configs/studies/bottlenecks.py --workdir=runs/bottlenecks

Fifteen runs of `configs/tiny.py`, shortened; any field of it can be set as `--config.base.data.path=...`. Cost: six
minutes on two cores. With the FID network's weights
(`--config.base.evals.fid.every_steps=1000 --config.base.evals.fid.weights=...`) it measures rFID too, on as many held-out
images as there are. The paper says (SoftVQ-VAE, ablations): from 256 to 32 tokens rFID goes from 0.80 to 1.24 with
SoftVQ, from 1.45 to 10.97 with VQ, from 1.15 to 2.01 without a bottleneck.
"""

from softvq_jax.config.study import beside, shortened, study_config, variant

BOTTLENECKS = {"softvq": "SoftVQ", "vq": "VQ", "simvq": "SimVQ", "kl": "KL", "ae": "AE"}


def get_config():
    return study_config(
        "bottlenecks",
        shortened(beside(__file__, "tiny"), 200),
        {
            f"{name}_{tokens}": variant(words, tokens, model=dict(bottleneck=name, num_latent_tokens=tokens))
            for tokens in (64, 16, 8)
            for name, words in BOTTLENECKS.items()
        },
        measures=("reconstruction", "codes"),
        x="Tokens",
        columns=("latent_numbers", "bits", "rfid", "psnr", "ssim_gauss", "code_use", "perplexity"),
        panels=("psnr", "ssim_gauss", "code_use", "rfid"),
    )
