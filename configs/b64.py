"""SoftVQ-B-64: 64 tokens of 32 channels at 256 px, encoder B, decoder B.

    python -m softvq_jax.main --config=configs/b64.py --workdir=... --config.data.path=.../imagenet/train

Cost: 351 GFLOP per image for the tokenizer alone, forward and backward; 22 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: rFID 0.88 is published (softvq-b-64); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "B")
    config.model.update(image_size=256, num_latent_tokens=64, latent_dim=32)
    return config
