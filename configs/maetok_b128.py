"""MAETok-B-128: a plain autoencoder with 128 tokens of 32 channels at 256 px, trained on masked images.

    python -m softvq_jax.main --config=configs/maetok_b128.py --workdir=runs/maetok_b128 \
        --config.data.path=.../imagenet/train

The second stage is `maetok_b128_decoder`. Recipe: arXiv 2502.03444 (500,000 steps of 512 images) and its release. Auxiliary
decoders predict HOG, DINOv2-B and CLIP (SigLIP so400m) features of the masked patches, each with weight 1. SigLIP has 412 M
parameters and runs in every step; `--config.loss.clip_weight=0` leaves it out.
Expected score: rFID 0.48 is published (maetok-b-128, both stages); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "B", kind="maetok")
    config.optim.update(learning_rate=5e-5, warmup_epochs=4.0)  # 1e-4 for 512 images, after 10,000 steps of warm-up
    config.train.update(batch_size=512, num_steps=500_000)
    config.gan.update(weight=0.4, adaptive=True, start_step=30_000)
    return config
