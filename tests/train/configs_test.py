"""Every tokenizer config, shrunk to a run of seconds: the same recipe with narrower and fewer blocks."""

import functools
import json
import pathlib
import runpy

import numpy as np
import pytest

from softvq_jax import Tokenizer
from softvq_jax.train import loop
from softvq_jax.train.tasks import TASKS

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
SMALL = ("tiny", "mini")  # configs that are small already
TOKENIZERS = {
    path.stem: runpy.run_path(str(path))["get_config"]
    for path in sorted(CONFIGS.glob("*.py"))
    if "tokenizer_config" in (text := path.read_text()) and "kind=" not in text and not path.stem.startswith(SMALL)
}
TOKENIZERS["fsq_b64"] = functools.partial(TOKENIZERS["fsq_b64"], "240")
BOTTLENECK_LOSSES = {"softvq": {"entropy"}, "gumbel": {"prior"}, "token_flow": {"codebook", "commitment"}, "fsq": set()}
PUBLISHED = {f"{size}{tokens}" for size in ("b", "bl", "l", "s") for tokens in (32, 64)}


def shrunk(config, weights, images):
    """The config's own recipe on `image_size / 4` pixels with transformers of 2 blocks, 64 wide."""
    for vit in (config.model.encoder, config.model.decoder):
        vit.update(width=64, depth=2, num_heads=1, patch_size=8)
    config.model.image_size //= 4
    if config.model.bottleneck != "fsq":  # whose codes follow from its levels
        config.model.codebook_size = 32
    config.weights.update(weights)
    config.alignment.hidden = 32
    config.gan.start_step = 2
    config.train.update(batch_size=4, num_steps=3)
    config.data.update(path=str(images), eval_path=str(images), num_workers=0)
    config.log.every_steps = 1
    config.evals.held_out.update(num_images=4, num_pictures=2)
    return config


def test_every_published_tokenizer_has_its_config():
    others = {"l64_adaptive", "gumbel_b64", "token_flow_b64", "fsq_b64"}
    assert PUBLISHED | {"bl64_512", "l32_512"} | others == TOKENIZERS.keys()


@pytest.mark.heavy  # a minute for each; `loop_test` and `gan_steps_test` train with the same parts
@pytest.mark.parametrize("name", TOKENIZERS)
def test_config_takes_real_steps(name, frozen_weights, photographs, tmp_path):
    config = shrunk(TOKENIZERS[name](), frozen_weights, photographs)
    results = loop.Run(config, tmp_path / "run", TASKS["tokenizer"]).train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "generator_total" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    losses = {"perceptual", "alignment", "consistency", "lecam"} | BOTTLENECK_LOSSES[config.model.bottleneck]
    assert losses <= steps[0].keys()
    assert ("adaptive_weight" in steps[0]) == config.gan.adaptive
    assert steps[0]["discriminator_grad_norm"] == 0 < steps[1]["discriminator_grad_norm"]
    assert np.isfinite(results["eval_psnr"])

    tokenizer = Tokenizer.from_pretrained(tmp_path / "run")
    side = config.model.image_size
    latents = tokenizer.encode(np.zeros((1, side, side, 3), np.float32))
    assert latents.shape == (1, config.model.num_latent_tokens, config.model.latent_dim)
