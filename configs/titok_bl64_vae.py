"""TiTok-BL-64 with a KL bottleneck: 64 tokens of 16 channels, 256 px.

    python -m softvq_jax.main --config=configs/titok_bl64_vae.py --workdir=runs/titok_bl64_vae \
        --config.data.path=.../imagenet/train

The recipe is that of `titok_bl64_vq8k`.
Expected score: rFID 1.25 is published (tokenizer_titok_bl64_vae_c16_imagenet); not reproduced here.
"""

from softvq_jax.config.names import load_config


def get_config():
    config = load_config("titok_bl64_vq8k")
    config.model.update(bottleneck="kl", latent_dim=16)
    return config
