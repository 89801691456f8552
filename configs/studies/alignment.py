"""Alignment: SoftVQ without a teacher, and with one in the four modes, with 8 tokens for 16 patches and three seeds.

    python -m softvq_jax.main --config=configs/studies/alignment.py --workdir=runs/alignment \
        --config.base.weights.teacher=vit_small_patch14_dinov2.safetensors

Needs DINOv2 weights (small by default), which are downloaded from the Hugging Face Hub if possible; without them, the study
stops before the first run. `tools.random_teacher` writes random weights, for a control. Fifteen shortened runs of `tiny`;
most of the time is spent on the teacher's features. Needs the extra `studies`. According to the paper, aligned latents are
easier to probe and to generate, and `repeat` is the best mode for generation.
"""

from softvq_jax.config.study import study_config, tiny_base, variant

MODES = ("repeat", "global", "avg_1d", "avg_1d_shuffle")


def get_config():
    base = tiny_base(__file__)
    base.model.bottleneck = "softvq"
    base.alignment.hidden = 256
    readings = [f"{kind}_after" for kind in ("probe_pooled", "probe_all", "knn_all")]
    kinds = {mode: (mode, 0.1) for mode in MODES} | {"none": ("no teacher", 0.0)}
    return study_config(
        "alignment",
        base,
        {
            name: variant(
                label,
                base.model.num_latent_tokens,
                loss=dict(alignment_weight=weight),
                alignment=dict(mode=MODES[0] if name == "none" else name),
            )
            for name, (label, weight) in kinds.items()
        },
        measures=("reconstruction", "codes", "latents", "latent_pictures"),
        x="Tokens",
        columns=("psnr", "ssim_gauss", "codebook_usage", *readings, "probe_chance"),
        panels=("psnr", "probe_pooled_after", "knn_all_after"),
        seeds=3,
    )
