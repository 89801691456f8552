"""The fields of `config.optim`, shared by all tasks."""

from softvq_jax.config.fields import BOOLEAN, Field, Schema, integer, number, one_of

SCHEDULES = ("cosine", "constant")
DECAY = number(0, below=1)

OPTIM: Schema = {
    "optimizer": Field(
        "adamw",
        '"adamw", or "muon" (Jordan et al., 2024): Muon for kernels, except those of the discriminator, and AdamW for all '
        "other parameters.",
        one_of("adamw", "muon"),
    ),
    "learning_rate": Field(1e-4, "Peak learning rate for batch 256; it is multiplied by batch / 256.", number(0)),
    "muon_learning_rate": Field(
        0.02, "The same for the parameters that Muon updates; without Muon it is not used.", number(0)
    ),
    "final_factor": Field(0.1, "Learning rate at the end of a cosine, as a share of the peak.", number(0, 1), "share"),
    "beta1": Field(0.9, "Adam's decay of the mean of gradients.", DECAY),
    "eps": Field(1e-8, "Adam's epsilon.", number(above=0)),
    "clip_norm": Field(1.0, "Gradients of each network are clipped to this global norm.", number(above=0)),
    "ema_decay": Field(0.9999, "Decay of the moving average of parameters, per step.", DECAY),
    "ema_warmup": Field(
        False,
        "Whether the average's decay grows as (1 + n) / (10 + n) over the steps n up to `ema_decay`, so that short runs "
        "do not average over their initial weights.",
        BOOLEAN,
    ),
    "offload": Field(
        False,
        "Whether the optimizer's moments and the moving average of parameters are kept in the hosts' memory. This frees "
        "memory of the chips or GPUs, and takes time for the transfers of every step.",
        BOOLEAN,
    ),
    "accumulate": Field(1, "Microbatches of each step; must divide the batch.", integer(1), "microbatches"),
    "schedule": Field("cosine", "Learning rate after the warm-up.", one_of(*SCHEDULES)),
    "warmup_epochs": Field(1.0, "Length of the linear warm-up.", number(0), "epochs"),
    "beta2": Field(0.95, "Adam's decay of the mean of squared gradients.", DECAY),
    "weight_decay": Field(
        1e-4, "Decoupled weight decay (AdamW); 0 is plain Adam, which the tokenizer's released trainer used.", number(0)
    ),
}

CODEBOOK_SCHEDULE = Field(
    "cosine",
    'Learning rate of the codebook; "constant" keeps the peak rate while the other parameters follow `schedule`.',
    one_of(*SCHEDULES),
)
