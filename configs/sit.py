"""SiT on the latents of SoftVQ-L-64 (64 tokens of 32 channels), SoftVQ-L-32 (32 of 64) or MAETok-B-128 (128 of 32).

    python -m softvq_jax.tools.encode_latents --from=SoftVQVAE/softvq-l-64 --data=imagenet/train --out=imagenet-l64
    python -m softvq_jax.main --config=configs/sit.py:xl_l64 --workdir=... --config.data.path=imagenet-l64

The argument is SIZE_LATENTS; for `_l32`, encode with SoftVQVAE/softvq-l-32; for `_maetok_b128` and `_maetok_b128_512`, with
MAETok/maetok-b-128 and MAETok/maetok-b-128-512. GFLOP are per image, forward and backward; EFLOP are for the 600 epochs of
ImageNet. gFID is published (arXiv 2412.10958 and 2502.03444), without and with guidance; not reproduced here.

| argument           | parameters | GFLOP | EFLOP | gFID                |
| ------------------ | ---------- | ----- | ----- | ------------------- |
| s_l64              |       33 M |   8.5 |   6.5 |                     |
| s_l32              |       33 M |   4.2 |   3.2 |                     |
| s_maetok_b128      |       33 M |    17 |    13 |                     |
| s_maetok_b128_512  |       33 M |    17 |    13 |                     |
| b_l64              |      130 M |    33 |    26 |                     |
| b_l32              |      130 M |    17 |    13 |                     |
| b_maetok_b128      |      130 M |    67 |    52 |                     |
| b_maetok_b128_512  |      130 M |    67 |    52 |                     |
| l_l64              |      458 M |   118 |    91 |                     |
| l_l32              |      458 M |    59 |    46 |                     |
| l_maetok_b128      |      458 M |   238 |   183 |                     |
| l_maetok_b128_512  |      458 M |   238 |   183 |                     |
| xl_l64             |      675 M |   174 |   134 | 5.35, guidance 1.86 |
| xl_l32             |      675 M |    87 |    67 | 7.59, guidance 2.44 |
| xl_maetok_b128     |      675 M |   350 |   269 | 2.31, guidance 1.67 |
| xl_maetok_b128_512 |      675 M |   350 |   269 | 2.79, guidance 1.69 |
"""

from softvq_jax.generators.config import config_from_argument


def get_config(argument: str = ""):
    return config_from_argument("sit", argument)
