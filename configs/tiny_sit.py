"""A small SiT on latents of the photographs in scikit-image, which trains in minutes on a laptop's CPU.

    python -m softvq_jax.main --config=configs/tiny_patches.py --workdir=runs/tiny_patches
    python -m softvq_jax.main --config=configs/tiny_sit.py --workdir=runs/tiny_sit

The classes are the photographs. The first command trains the tokenizer, which encodes random crops on the fly. At the end,
the run prints the share of samples for which the training crop with the most similar colors has the sample's class.
"""

from softvq_jax.generators.config import generator_config


def get_config():
    config = generator_config("sit", "B")
    config.tokenizer = "./runs/tiny_patches"
    config.model.update(num_tokens=64, channels=16, num_classes=8, width=128, depth=4, num_heads=4, dtype="float32")
    config.sampling.update(steps=50, guidance=1.5, guidance_interval=(0.0, 1.0))
    config.optim.update(learning_rate=8e-3, warmup_epochs=100.0, schedule="cosine", ema_decay=0.99, ema_warmup=True)
    config.train.update(batch_size=32, num_steps=1300)
    config.data.update(source="embedded", augment="random_region", holdout=0.3)
    config.checkpoint.every_steps = 500
    config.log.every_steps = 100
    config.evals.held_out.update(every_steps=500, num_images=64, num_pictures=64)
    config.evals.nearest_class.every_steps = 500
    return config
