"""SoftVQ's temperature from 0.01 (nearly hard quantization) to 10 (nearly the same average of all codes for all tokens).

    python -m softvq_jax.main --config=configs/studies/temperature.py --workdir=runs/temperature

Thirty shortened runs of `tiny`, with 8 tokens for 16 patches and three seeds, with the released posterior and the paper's.
The paper uses 0.07 and finds nearby values equally good.
"""

from softvq_jax.config.study import study_config, tiny_base, variant

POSTERIORS = {"released": "softmax of cosines", "paper": "softmax of -distances"}


def get_config():
    base = tiny_base(__file__)
    base.model.bottleneck = "softvq"
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
        seeds=3,
    )
