"""SoftVQ-L-64: 64 tokens of 32 channels at 256 px, encoder L, decoder L.

    python -m softvq_jax.main --config=configs/l64.py --workdir=... --config.data.path=.../imagenet/train

Cost: 1225 GFLOP per image for the tokenizer alone, forward and backward; 79 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: rFID 0.61 is published (softvq-l-64); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("L", "L")
    config.model.update(image_size=256, num_latent_tokens=64, latent_dim=32)
    return config
