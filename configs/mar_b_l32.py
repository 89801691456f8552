"""MAR-B on the latents of SoftVQ-L-32: 32 tokens of 64 channels, 208 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-32 --data=imagenet/train --out=imagenet-l32
    python -m softvq_jax.main --config=configs/mar_b_l32.py --workdir=... --config.data.path=imagenet-l32

Cost: 115 GFLOP an image, forward and backward: 59 EFLOP for the 400 epochs of ImageNet.
Score to expect: none is published.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("mar", "base", "l32")
