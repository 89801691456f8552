"""MAR-B on the latents of SoftVQ-L-64: 64 tokens of 32 channels, 208 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/mar_b_l64.py --workdir=... --config.data.path=imagenet-l64

Cost: 165 GFLOP an image, forward and backward: 85 EFLOP for the 400 epochs of ImageNet.
Score to expect: none is published.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("mar", "base", "l64")
