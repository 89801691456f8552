"""MAETok-B-128 at 512 px: 128 tokens of 32 channels for 1,024 patches.

    python -m softvq_jax.main --config=configs/maetok_b128_512.py --workdir=runs/maetok_b128_512 \
        --config.data.path=.../imagenet/train

The recipe is that of `maetok_b128`. `--config.init_from=runs/maetok_b128` starts from a tokenizer for 256 px.
Expected score: rFID 0.62 is published (maetok-b-128-512); not reproduced here.
"""

from softvq_jax.config.names import load_config


def get_config():
    config = load_config("maetok_b128")
    config.model.image_size = 512
    return config
