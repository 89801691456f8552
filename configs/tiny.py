"""A small SoftVQ tokenizer on the photographs inside scikit-image: no download, a laptop's CPU, minutes.

    python -m softvq_jax.main --config=configs/tiny.py --workdir=runs/tiny

64 px, 32 tokens of 32 channels: 1,024 latent numbers for 12,288 pixel values. Pixels and entropy are the only losses,
because LPIPS, the teacher and the discriminator's trunk need downloaded weights.
"""

from softvq_jax.config import tokenizer_config


def get_config():
    config = tokenizer_config("S", "S")
    small = dict(width=192, depth=4, num_heads=3, patch_size=8, layer_scale=0.1)
    config.model.encoder.update(small)
    config.model.decoder.update(small)
    config.model.update(image_size=64, num_latent_tokens=32, latent_dim=32, codebook_size=1024, dtype="float32")
    config.weights.encoder = ""
    config.loss.update(perceptual_weight=0.0, alignment_weight=0.0)
    config.gan.discriminator = "none"
    config.optim.update(learning_rate=1e-3 * 256 / 32, warmup_epochs=0.0, final_factor=0.01, ema_decay=0.99)
    config.train.update(batch_size=32, num_steps=1500)
    config.data.update(source="embedded", augment="random_region", holdout=0.25)
    config.checkpoint.update(every_steps=500)
    config.eval.update(every_steps=500, num_images=64, num_pictures=16)
    return config
