"""MAR-H on the latents of SoftVQ-L-64: 64 tokens of 32 channels, 942 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/mar_h_l64.py --workdir=... --config.data.path=imagenet-l64

Cost: 738 GFLOP an image, forward and backward: 378 EFLOP for the 400 epochs of ImageNet.
Score to expect: gFID 2.81, with guidance 1.93, is published on softvq-bl-64; not reproduced here.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("mar", "huge", "l64")
