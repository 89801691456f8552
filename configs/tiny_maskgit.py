"""A small MaskGIT on the codes of a small VQ tokenizer, on the photographs in scikit-image.

    python -m softvq_jax.main --config=configs/tiny_patches.py --config.model.bottleneck=vq --workdir=runs/tiny_vq
    python -m softvq_jax.main --config=configs/tiny_maskgit.py --workdir=runs/tiny_maskgit

It trains in minutes on a laptop's CPU. The classes are the photographs. The first command trains the tokenizer, which
encodes random crops on the fly. At the end, the run prints the share of samples for which the training crop with the most
similar colors has the sample's class.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    config = generator_config("maskgit", "B")
    config.tokenizer = "./runs/tiny_vq"
    config.model.update(num_tokens=64, codebook_size=512, num_codebooks=4, num_classes=8, dtype="float32")
    config.model.update(width=128, depth=4, num_heads=4, hidden=512, dropout=0.0, attention_dropout=0.0)
    config.objective.label_smoothing = 0.0
    config.sampling.update(steps=16, guidance=2.0, temperature=4.0)
    config.optim.update(learning_rate=8e-3, warmup_epochs=100.0, ema_decay=0.99, ema_warmup=True)
    config.train.update(batch_size=32, num_steps=1300)
    config.data.update(source="embedded", augment="random_region", holdout=0.3)
    config.checkpoint.every_steps = 500
    config.log.every_steps = 100
    config.evals.held_out.update(every_steps=500, num_images=64, num_pictures=64)
    config.evals.nearest_class.every_steps = 500
    return config
