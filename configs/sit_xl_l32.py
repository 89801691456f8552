"""SiT-XL on the latents of SoftVQ-L-32: 32 tokens of 64 channels, 675 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-32 --data=imagenet/train --out=imagenet-l32
    python -m softvq_jax.main --config=configs/sit_xl_l32.py --workdir=... --config.data.path=imagenet-l32

Cost: 87 GFLOP an image, forward and backward: 67 EFLOP for the 600 epochs of ImageNet.
Score to expect: gFID 7.59, with guidance 2.44, is published (sit-xl_softvq-l-32); not reproduced here.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("sit", "XL", "l32")
