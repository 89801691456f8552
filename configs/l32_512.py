"""SoftVQ-L-32-512: 32 tokens of 64 channels at 512 px, encoder L, decoder L.

    python -m softvq_jax.main --config=configs/l32_512.py --workdir=... --config.data.path=.../imagenet/train

Cost: 4494 GFLOP per image for the tokenizer alone, forward and backward; 288 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: rFID 0.64 is published (softvq-l-32-512); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("L", "L")
    config.model.update(image_size=512, num_latent_tokens=32, latent_dim=64)
    return config
