"""MAR on the latents of SoftVQ-L-64 (64 tokens of 32 channels) or SoftVQ-L-32 (32 tokens of 64 channels).

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/mar.py:h_l64 --workdir=... --config.data.path=imagenet-l64

The argument is SIZE_LATENTS; for `_l32`, encode with SoftVQVAE/softvq-l-32. GFLOP are per image, forward and backward;
EFLOP are for the 400 epochs of ImageNet. gFID is published (arXiv 2412.10958, on softvq-bl-64), without and with guidance;
not reproduced here.

| argument | parameters | GFLOP | EFLOP | gFID                |
| -------- | ---------- | ----- | ----- | ------------------- |
| b_l64    |      208 M |   165 |    85 |                     |
| b_l32    |      208 M |   115 |    59 |                     |
| l_l64    |      478 M |   371 |   190 |                     |
| l_l32    |      478 M |   263 |   135 |                     |
| h_l64    |      942 M |   738 |   378 | 2.81, guidance 1.93 |
| h_l32    |      942 M |   520 |   266 |                     |
"""

from softvq_jax.generators.config import config_from_argument


def get_config(argument: str = ""):
    return config_from_argument("mar", argument)
