"""SoftVQ-BL-64-512: 64 tokens of 32 channels at 512 px, encoder B, decoder L.

    python -m softvq_jax.main --config=configs/bl64_512.py --workdir=... --config.data.path=.../imagenet/train

Cost: 3013 GFLOP per image for the tokenizer alone, forward and backward; 193 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: rFID 0.71 is published (softvq-bl-64-512); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "L")
    config.model.update(image_size=512, num_latent_tokens=64, latent_dim=32)
    return config
