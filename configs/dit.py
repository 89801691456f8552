"""DiT on the latents of SoftVQ-L-64 (64 tokens of 32 channels) or SoftVQ-L-32 (32 tokens of 64 channels).

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/dit.py:xl_l64 --workdir=... --config.data.path=imagenet-l64

The argument is SIZE_LATENTS; for `_l32`, encode with SoftVQVAE/softvq-l-32. GFLOP are per image, forward and backward;
EFLOP are for the 600 epochs of ImageNet. gFID is published (arXiv 2412.10958), without and with guidance; not reproduced
here.

| argument | parameters | GFLOP | EFLOP | gFID                |
| -------- | ---------- | ----- | ----- | ------------------- |
| s_l64    |       33 M |   8.5 |   6.5 |                     |
| s_l32    |       33 M |   4.2 |   3.2 |                     |
| b_l64    |      130 M |    33 |    26 |                     |
| b_l32    |      130 M |    17 |    13 |                     |
| l_l64    |      458 M |   118 |    91 |                     |
| l_l32    |      458 M |    59 |    46 |                     |
| xl_l64   |      675 M |   174 |   134 | 5.83, guidance 2.93 |
| xl_l32   |      675 M |    87 |    67 | 9.07, guidance 3.69 |
"""

from softvq_jax.generators.config import config_from_argument


def get_config(argument: str = ""):
    return config_from_argument("dit", argument)
