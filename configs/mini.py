"""A small tokenizer of photographs: 128 px, 32 tokens, trained on a laptop's CPU.

    python launch/mini_photographs.py --out=photographs
    python -m softvq_jax.main --config=configs/mini.py --workdir=runs/mini

32 tokens of 128 channels for 64 patches: 4,096 latent numbers for 49,152 pixel values. Tokens start as linear codes of two
patches each (`local_init`, with one head for each of the two) and stay there, unlike in `tiny.py`. The only losses are the
pixel loss and the entropy loss, whose weight is a tenth of the default: with 0.01 it outweighs the pixel loss, if there is
no perceptual loss beside it. The result is in the package: `Tokenizer.from_pretrained("softvq-mini")`.

Expected score: 24.6 dB PSNR on 20 held-out photographs, after about 12 minutes on two cores. See docs/studies.md for what
was tried.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("S", "S")
    small = dict(width=160, depth=2, num_heads=2, patch_size=16, layer_scale=1.0)
    config.model.encoder.update(small)
    config.model.decoder.update(small)
    config.model.update(image_size=128, num_latent_tokens=32, latent_dim=128, codebook_size=2048, num_codebooks=1)
    config.model.update(local_init=True, dtype="float32")
    config.weights.encoder = ""
    config.loss.update(perceptual_weight=0.0, alignment_weight=0.0, entropy_weight=0.001)
    config.gan.discriminator = "none"
    config.optim.update(optimizer="muon", muon_learning_rate=0.32, learning_rate=0.048, weight_decay=0.0)
    config.optim.update(warmup_epochs=2.0, final_factor=0.0, ema_decay=0.998, ema_warmup=True)
    config.train.update(batch_size=16, num_steps=2000)
    config.data.update(
        path="photographs/train", eval_path="photographs/held_out", classes="one", augment="random_region"
    )
    config.checkpoint.update(every_steps=250)
    config.log.every_steps = 50
    config.evals.held_out.update(every_steps=500, num_images=21, num_pictures=16)
    return config
