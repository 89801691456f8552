"""The fields of a tokenizer's losses: `config.loss`, `config.alignment` and `config.gan`."""

from softvq_jax.config.fields import BOOLEAN, STEPS, Field, Schema, integer, number, one_of

LOSS: Schema = {
    "reconstruction_weight": Field(1.0, "Weight of the squared error of pixels.", number(0)),
    "perceptual_weight": Field(1.0, "Weight of LPIPS; with 0, LPIPS is neither computed nor loaded.", number(0)),
    "perceptual_warmup_steps": Field(10_000, "Steps of LPIPS's linear warm-up from weight 0.", STEPS, "steps"),
    "alignment_weight": Field(
        0.1, "Weight of the alignment loss; with 0, the teacher is neither computed nor loaded.", number(0)
    ),
    "entropy_weight": Field(0.01, "Weight of SoftVQ's entropy loss.", number(0)),
    "codebook_weight": Field(1.0, "Weight of the codebook loss of VQ, SimVQ and TokenFlow.", number(0)),
    "commitment_weight": Field(0.25, "Weight of the commitment loss of VQ, SimVQ and TokenFlow.", number(0)),
    "kl_weight": Field(1e-6, "Weight of the KL divergence of the KL bottleneck.", number(0)),
}

ALIGNMENT: Schema = {
    "mode": Field(
        "repeat",
        "How latent tokens are matched with the teacher's patches: each token is repeated for its patches, the mean of all "
        "tokens is matched with the mean patch, or each token with the mean of its patches, in order or shuffled.",
        one_of("repeat", "global", "avg_1d", "avg_1d_shuffle"),
    ),
    "hidden": Field(1024, "Hidden width of the projection to the teacher's channels.", integer(1), "channels"),
    "head": Field(
        "mlp",
        'Projection to the teacher\'s channels: "mlp" acts on each token; "vit" is a transformer of `depth` blocks on all '
        "tokens, `hidden` wide, as TokenFlow's semantic decoder.",
        one_of("mlp", "vit"),
    ),
    "depth": Field(3, 'Blocks of the head "vit".', integer(1), "blocks"),
    "channels": Field(
        0, "Number of channels of the latents that are aligned, the first ones; 0: all of them.", integer(0), "channels"
    ),
}

GAN: Schema = {
    "discriminator": Field(
        "dino", 'Discriminator: heads on frozen DINO, PatchGAN, or "none".', one_of("dino", "patchgan", "none")
    ),
    "loss": Field("hinge", "Adversarial loss.", one_of("hinge", "vanilla", "non_saturating")),
    "weight": Field(0.2, "Weight of the adversarial loss of the tokenizer.", number(0)),
    "start_step": Field(20_000, "First step of adversarial training.", STEPS, "steps"),
    "adaptive": Field(
        False, "Whether to scale the weight by the ratio of gradient norms at the last layer (VQGAN).", BOOLEAN
    ),
    "lecam_weight": Field(0.001, "Weight of LeCam regularization of the discriminator.", number(0)),
    "lecam_decay": Field(0.999, "Decay of LeCam's moving averages of logits, per step.", number(0, 1)),
    "diff_augment": Field(True, "Whether to augment the discriminator's images differentiably (DiffAugment).", BOOLEAN),
    "random_crop": Field(
        True, "Whether half of the DINO discriminator's batches are random crops instead of resized images.", BOOLEAN
    ),
    "consistency_weight": Field(
        4.0, "Weight of the discriminator's consistency loss between views of an image.", number(0)
    ),
}
