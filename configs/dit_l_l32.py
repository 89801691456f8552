"""DiT-L on the latents of SoftVQ-L-32: 32 tokens of 64 channels, 458 M parameters.

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-32 --data=imagenet/train --out=imagenet-l32
    python -m softvq_jax.main --config=configs/dit_l_l32.py --workdir=... --config.data.path=imagenet-l32

Cost: 59 GFLOP an image, forward and backward: 46 EFLOP for the 600 epochs of ImageNet.
Score to expect: none is published.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    return generator_config("dit", "L", "l32")
