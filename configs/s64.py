"""SoftVQ-S-64: 64 tokens of 32 channels at 256 px, encoder S, decoder S.

    python -m softvq_jax.main --config=configs/s64.py --workdir=... --config.data.path=.../imagenet/train

Cost: 94 GFLOP per image for the tokenizer alone, forward and backward; 6 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: nothing is published at this size.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("S", "S")
    config.model.update(image_size=256, num_latent_tokens=64, latent_dim=32)
    return config
