"""The last stage of MAETok-B-128: the decoder is trained further, with a frozen encoder, and masks that disappear.

    python -m softvq_jax.main --config=configs/maetok_b128_decoder.py --config.init_from=runs/maetok_b128 \
        --workdir=runs/maetok_b128_decoder --config.data.path=.../imagenet/train

The masked share falls from 0.6 to 0 over 50,000 steps (arXiv 2502.03444, section 3.2; the authors released no code of this
stage). There are no auxiliary decoders. The constant learning rate and a discriminator from the first step are our choice.
"""

from softvq_jax.config.names import load_config


def get_config():
    config = load_config("maetok_b128")
    config.init_from = "runs/maetok_b128"
    config.freeze = "encoder,to_latents"
    config.masking.update(least=0.6, most=0.6, off_steps=50_000)
    config.loss.update(hog_weight=0.0, dino_weight=0.0, clip_weight=0.0, perceptual_warmup_steps=0)
    config.gan.start_step = 0
    config.optim.update(schedule="constant", warmup_epochs=0.0)
    config.train.num_steps = 50_000
    return config
