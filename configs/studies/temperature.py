"""SoftVQ's temperature from 0.01 (nearly hard quantization) to 10 (nearly the same average of all codes for all tokens).

    python -m softvq_jax.main --config=configs/studies/temperature.py --workdir=runs/temperature

Ten shortened runs of `tiny_patches` with 32 tokens, with the released posterior and the paper's; about thirteen minutes
on one core. The paper uses 0.07 and finds nearby values equally good.
"""

from softvq_jax.config.study import load_base, shortened, study_config, variant

POSTERIORS = {"released": "softmax of cosines", "paper": "softmax of -distances"}


def get_config():
    base = shortened(load_base(__file__, "tiny_patches"), 200)
    base.model.update(bottleneck="softvq", num_latent_tokens=32)
    base.log.every_steps = 1  # because gradient peaks last only one step
    return study_config(
        "temperature",
        base,
        {
            f"{posterior}_{temperature:g}".replace(".", "p"): variant(  # names have no dots
                label, temperature, model=dict(posterior=posterior, temperature=temperature)
            )
            for posterior, label in POSTERIORS.items()
            for temperature in (0.01, 0.07, 0.2, 1.0, 10.0)
        },
        measures=("reconstruction", "posterior", "codes", "training"),
        x="Temperature",
        columns=("psnr", "posterior_entropy", "max_probability", "codebook_usage", "grad_norm", "grad_norm_peak"),
        panels=("psnr", "posterior_entropy", "grad_norm"),
    )
