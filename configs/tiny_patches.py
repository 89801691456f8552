"""A small SoftVQ tokenizer whose tokens are codes of patches, on the photographs in scikit-image; minutes on a CPU.

    python -m softvq_jax.main --config=configs/tiny_patches.py --workdir=runs/tiny_patches

64 px, 64 tokens of 16 channels: 1,024 latent numbers for 12,288 pixel values. The only losses are the pixel loss and the
entropy loss, because LPIPS, the teacher and the discriminator need downloaded weights.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("S", "S")
    small = dict(width=64, depth=2, num_heads=1, patch_size=8, layer_scale=1.0)
    config.model.encoder.update(small)
    config.model.decoder.update(small)
    config.model.update(image_size=64, num_latent_tokens=64, latent_dim=16, codebook_size=512)
    config.model.update(local_init=True, dtype="float32")
    config.weights.encoder = ""
    config.loss.update(perceptual_weight=0.0, alignment_weight=0.0)
    config.gan.discriminator = "none"
    config.optim.update(learning_rate=4e-2, warmup_epochs=60.0, final_factor=0.01, ema_decay=0.995, ema_warmup=True)
    config.train.update(batch_size=16, num_steps=1600)
    config.data.update(source="embedded", augment="random_region", holdout=0.3)
    config.checkpoint.update(every_steps=400)
    config.log.every_steps = 100
    config.evals.held_out.update(every_steps=400, num_images=64, num_pictures=16)
    return config
