"""TiTok-BL-64 with VQ, trained in one stage: 64 tokens, 8,192 codes of 64 channels, 256 px.

    python -m softvq_jax.main --config=configs/titok_bl64_vq8k.py --workdir=runs/titok_bl64_vq8k \
        --config.data.path=.../imagenet/train

The authors published no recipe for this tokenizer. Weights of the losses, start of the discriminator and learning rate are
those of its successor (TA-TiTok, arXiv 2501.07730, its published yaml). Its pixel loss is on images in [0, 1], so its
weight 1 is 1/4 here, on [-1, 1]. LPIPS is VGG-16's here and ConvNeXt's there. The number of steps is TiTok's (arXiv
2406.07550).
Two-stage TiTok, which first learns the codes of another tokenizer, can be opened but not trained here.
Expected score: rFID 2.06 is published (tokenizer_titok_bl64_vq8k_imagenet); not reproduced here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "L", kind="titok")
    config.model.update(num_latent_tokens=64, latent_dim=64, codebook_size=8192)
    config.loss.update(reconstruction_weight=0.25, perceptual_weight=1.1, perceptual_warmup_steps=0)
    config.gan.update(discriminator="patchgan", weight=0.1, start_step=200_000)
    config.gan.update(diff_augment=False, consistency_weight=0.0)
    config.optim.update(beta2=0.999, warmup_epochs=2.0)
    config.train.update(batch_size=256, num_steps=1_000_000)
    return config
