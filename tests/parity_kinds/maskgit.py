"""Kind `maskgit`: masked token generators in the published layout, and their sampling with given draws."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.diffusion import masked_tokens
from softvq_jax.generators.family import Settings
from softvq_jax.generators.maskgit import guided_logits, sampling_defaults
from softvq_jax.models import maskgit
from softvq_jax.weights import layout
from softvq_jax.weights.maskgit import config_of, maskgit_rules
from tests.parity import recipe


def run(case, arrays):
    state = recipe.state_dict(case)
    config = config_of(state, case["arguments"])
    functional = maskgit.functional(config)
    params = layout.read(maskgit_rules(config), state, functional.shapes, source="case")
    ids, none = jnp.asarray(arrays["ids"]), config.num_classes
    network = jax.jit(lambda params, tokens, labels: functional(params)(tokens, labels))
    results = {
        "logits_cond_sub": network(params, ids, jnp.array([3, 500, 999]))[..., ::16],
        "logits_none_sub": network(params, ids, jnp.full(3, none))[..., ::16],
    }

    labels, steps = jnp.array([7, 123]), case["arguments"]["model"]["generator"]["num_steps"]
    shape = (len(labels), config.num_tokens)
    draws = [
        jnp.stack([uniforms(f"uniform_{2 * step + part}", drawn, case["seed"]) for step in range(steps)])
        for part, drawn in enumerate([(*shape, config.codebook_size), shape])
    ]
    options = sampling_defaults(case["arguments"])
    sampling = Settings("maskgit", options["steps"], True, guidance_schedule=options["guidance_schedule"])

    @jax.jit
    def sample(params, draws):
        logits_fn = partial(guided_logits, functional(params), labels, settings=sampling, guidance=options["guidance"])
        return masked_tokens.sample_tokens(
            logits_fn,
            lambda step: (draws[0][step], draws[1][step]),
            shape,
            mask_token=config.mask_token,
            steps=steps,
            temperature=options["temperature"],
            anneal_softmax=case["softmax_temperature_annealing"],
        )

    return results | {"tokens": sample(params, draws)}


def uniforms(name, shape, seed):
    """The normal distribution function of a case's draws, float64 then float32."""
    noise = recipe.noise(name, shape, seed).astype(np.float64)
    return np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))(noise).astype(np.float32)


KINDS = {"maskgit": run}
INPUTS = {"maskgit": ("ids",)}
