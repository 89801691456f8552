"""Gumbel-softmax in place of SoftVQ in SoftVQ-B-64: a discrete tokenizer of 64 tokens at 256 px, 8,192 codes.

    python -m softvq_jax.main --config=configs/gumbel_b64.py --workdir=... --config.data.path=.../imagenet/train

One codebook of 8,192 codes, and a tau that falls from 1 to 1/16 over 150,000 steps, are as in DALL-E (arXiv 2102.12092,
appendix A.2). Each code has 32 channels.

Cost: 351 GFLOP per image for the tokenizer alone, forward and backward; 22 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: nothing is published; not run at this size here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "B")
    config.model.update(bottleneck="gumbel", codebook_size=8192, num_codebooks=1)
    config.model.bottleneck_args = dict(start=1.0, floor=1 / 16, anneal_steps=150_000, hard=True)
    return config
