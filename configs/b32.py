"""SoftVQ-B-32: 32 tokens of 64 channels at 256 px, encoder B, decoder B.

    python -m softvq_jax.main --config=configs/b32.py --workdir=... --config.data.path=.../imagenet/train

Cost: 314 GFLOP per image for the tokenizer alone, forward and backward; 20 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: rFID 0.89 is published (softvq-b-32); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "B")
    config.model.update(image_size=256, num_latent_tokens=32, latent_dim=64)
    return config
