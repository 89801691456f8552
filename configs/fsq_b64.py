"""Finite scalar quantization in place of SoftVQ in SoftVQ-B-64: a discrete tokenizer of 64 tokens at 256 px.

    python -m softvq_jax.main --config=configs/fsq_b64.py:64000 --workdir=... --config.data.path=.../imagenet/train

The argument is the number of codes. These are recommended in the paper (arXiv 2309.15505, table 1):

| argument | levels           | in place of |
| -------- | ---------------- | ----------- |
| 240      | 8, 6, 5          |         256 |
| 1000     | 8, 5, 5, 5       |       1,024 |
| 4375     | 7, 5, 5, 5, 5    |       4,096 |
| 15360    | 8, 8, 8, 6, 5    |      16,384 |
| 64000    | 8, 8, 8, 5, 5, 5 |      65,536 |

Cost: 351 GFLOP per image for the tokenizer alone, forward and backward; 22 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: nothing is published for 1-D tokens; not run at this size here.
"""

import math

from softvq_jax.config.tokenizer import tokenizer_config

LEVELS = ((8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (8, 8, 8, 5, 5, 5))
BY_SIZE = {str(math.prod(levels)): levels for levels in LEVELS}


def get_config(argument: str = ""):
    if argument not in BY_SIZE:
        raise ValueError(f"--config=fsq_b64:{argument}: expected fsq_b64:CODES, one of {', '.join(BY_SIZE)}")
    levels = BY_SIZE[argument]
    config = tokenizer_config("B", "B")
    config.model.update(bottleneck="fsq", latent_dim=len(levels), codebook_size=int(argument), num_codebooks=1)
    config.model.bottleneck_args = dict(levels=levels)
    return config
