"""SiT-XL on the latents of SoftVQ-L-64: 64 tokens of 32 channels, 675 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/sit_xl_l64.py --workdir=... --config.data.path=imagenet-l64

Cost: 174 GFLOP an image, forward and backward: 134 EFLOP for the 600 epochs of ImageNet.
Score to expect: gFID 5.35, with guidance 1.86, is published (sit-xl_softvq-l-64); not reproduced here.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("sit", "XL", "l64")
