"""DiT-L on the latents of SoftVQ-L-64: 64 tokens of 32 channels, 458 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/dit_l_l64.py --workdir=... --config.data.path=imagenet-l64

Cost: 118 GFLOP an image, forward and backward: 91 EFLOP for the 600 epochs of ImageNet.
Score to expect: none is published.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("dit", "L", "l64")
