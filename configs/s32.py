"""SoftVQ-S-32: 32 tokens of 64 channels at 256 px, encoder S, decoder S.

    python -m softvq_jax.main --config=configs/s32.py --workdir=... --config.data.path=.../imagenet/train

Cost: 84 GFLOP per image for the tokenizer alone, forward and backward; 5 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: rFID 1.24 at 32 tokens is in the paper's ablation; not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("S", "S")
    config.model.update(image_size=256, num_latent_tokens=32, latent_dim=64)
    return config
