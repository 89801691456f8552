"""Kinds `sit`, `dit`, `mar`: networks in the published layout, sampled through the public `Generator`."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.diffusion import objectives
from softvq_jax.diffusion.schedules import make_schedule
from softvq_jax.generator import Generator
from softvq_jax.latent_statistics import LatentStatistics
from tests.parity import recipe

KEY = jax.random.key(0)


def _open(case):
    """The generator of a case and its network; statistics 0 and 1, as the reference samples normalized latents."""
    statistics = LatentStatistics(0.0, 1.0)
    generator = Generator.from_tensors(recipe.state_dict(case), case["arguments"], statistics, source="case")
    return generator, generator.network


def _lists(case, name):
    """The number lists that a case's text gives to `name`, in order: `y=[3,999,1000]`."""
    found = re.findall(rf"\b{name}=\[([^\]]*)\]", case["what"])
    return [jnp.asarray([float(number) for number in each.split(",")]) for each in found]


def run_sit(case, arrays):
    generator, network = _open(case)
    arguments = case["arguments"]
    x = jnp.asarray(recipe.noise("x", arrays["velocity"].shape, case["seed"]))
    (times,), (labels, sample_labels) = _lists(case, "t"), _lists(case, "y")
    steps = arguments["num_steps"]
    draws = jnp.stack([recipe.noise(f"sde_{i}", x.shape, case["seed"]) for i in range(steps - 1)])
    guidance = {
        "guidance": arguments["cfg_scale"],
        "guidance_interval": (arguments["guidance_low"], arguments["guidance_high"]),
    }
    results = {"velocity": network(x, times, labels.astype(int)), "n_sde_noises": np.asarray(len(draws))}
    for name in arrays.keys() - results.keys():
        sampler = name.removesuffix("_cfg")
        results[name] = generator.sample(
            np.asarray(sample_labels, int),
            key=KEY,
            steps=steps,
            sampler=sampler,
            noise=x,
            step_noises=draws if sampler.startswith("sde") else None,
            **(guidance if name.endswith("_cfg") else {}),
        )
    return results


def run_dit(case, arrays):
    generator, network = _open(case)
    arguments, seed = case["arguments"], case["seed"]
    steps, batch = int(arguments["steps"]), arrays["output"].shape[0]
    x = jnp.asarray(recipe.noise("x", (batch, generator.config.num_tokens, generator.config.channels), seed))
    (times, loss_times), (labels, sample_labels, loss_labels) = _lists(case, "t"), _lists(case, "y")
    # The reference doubles its batch and draws noise for both halves; the first is the one it returns.
    doubled = (2 * batch, *x.shape[1:])
    draws = jnp.stack([recipe.noise(f"ddpm_{i}", doubled, seed)[:batch] for i in range(steps - 1)])
    schedule = make_schedule(arguments["schedule"])
    losses = objectives.denoising_loss(
        lambda x, t: network(x, t, loss_labels.astype(int)),
        x,
        jnp.asarray(recipe.noise("train", x.shape, seed)),
        loss_times.astype(int),
        schedule,
    )
    sampled = {"key": KEY, "steps": steps, "noise": x, "step_noises": draws}
    labels_of_samples = np.asarray(sample_labels, int)
    results = {
        "output": network(x, times, labels.astype(int)),
        "betas": schedule.betas,
        "loss_total": losses.total,
        "loss_mse": losses.mse,
        "loss_vb": losses.vb,
    }
    for name in arrays.keys() & {"ddpm", "ddpm_cfg"}:
        guidance = arguments["cfg_scale"] if name == "ddpm_cfg" else 1.0
        results[name] = generator.sample(labels_of_samples, guidance=guidance, **sampled)
    return results


def run_mar(case, arrays):
    generator, network = _open(case)
    config, batch, seed = generator.config, case["batch"], case["seed"]
    length, channels = config.num_tokens, config.channels
    x = jnp.asarray(recipe.noise("x", (batch, length, channels), seed))
    labels = jnp.asarray([int(label) for label in re.search(r"labels \[([^\]]*)\]", case["what"])[1].split(",")])
    order = np.argsort(recipe.noise("order", (batch, length), seed))
    mask = np.zeros((batch, length), bool)
    np.put_along_axis(mask, order[:, : case["masked"]], True, axis=1)
    mask = jnp.asarray(mask)

    encoded = network.encode(x, labels, mask, num_visible=length - case["masked"])
    z = network.decode(encoded, mask)
    tokens, conditions = x.reshape(-1, channels), z.reshape(batch * length, -1)
    t = (37 * jnp.arange(len(tokens)) + 1) % 999
    losses = objectives.denoising_loss(
        lambda x, t: network.head(x, t, conditions),
        tokens,
        jnp.asarray(recipe.noise("train", tokens.shape, seed)),
        t,
        make_schedule("cosine"),
    ).total
    return {
        "encoder_out_sub": encoded[:, ::5],
        "decoder_out_sub": z[:, ::7],
        "head_out": network.head(tokens, t, conditions),
        "loss_per_token": losses,
        "loss": jnp.mean(objectives.masked_mean(losses.reshape(mask.shape), mask)),
    }


KINDS = {"sit": run_sit, "dit": run_dit, "mar": run_mar}
