"""A small SoftVQ tokenizer with 1-D tokens, on the photographs in scikit-image, which trains on a laptop's CPU.

    python -m softvq_jax.main --config=configs/tiny.py --workdir=runs/tiny

64 px, 8 tokens of 128 channels for 16 patches: 1,024 latent numbers for 12,288 pixel values. Unlike in `tiny_patches.py`,
tokens are not assigned to patches at the start: the tokenizer learns which token is for which part of the image. The only
losses are the pixel loss and the entropy loss, because LPIPS, the teacher and the discriminator need downloaded weights.

Expected score: 25.3 dB PSNR on 64 held-out crops, with 35 % of the codes in use in them, after three and a half minutes on
two cores. See docs/studies.md for what was tried.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("S", "S")
    small = dict(width=96, depth=2, num_heads=2, patch_size=16, layer_scale=1.0)
    config.model.encoder.update(small)
    config.model.decoder.update(small)
    config.model.update(image_size=64, num_latent_tokens=8, latent_dim=128, codebook_size=512, num_codebooks=1)
    config.model.update(unit_init=True, dtype="float32")
    config.weights.encoder = ""
    config.loss.update(perceptual_weight=0.0, alignment_weight=0.0, entropy_weight=0.001)
    config.gan.discriminator = "none"
    config.optim.update(optimizer="muon", muon_learning_rate=0.12, learning_rate=0.018, weight_decay=0.0)
    config.optim.update(warmup_epochs=100.0, final_factor=0.0, ema_decay=0.995, ema_warmup=True)
    config.train.update(batch_size=16, num_steps=2400)
    config.data.update(source="embedded", augment="random_region", holdout=0.3)
    config.checkpoint.update(every_steps=600)
    config.log.every_steps = 100
    config.evals.held_out.update(every_steps=600, num_images=64, num_pictures=16)
    return config
