"""Families of generators: sizes and config fields of the built-in ones, and a family that user code registers."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.config.fields import Field, integer, one_of
from softvq_jax.config.schemas import check_values
from softvq_jax.generator import Generator
from softvq_jax.generators.config import config_from_argument, generator_config
from softvq_jax.generators.family import FAMILIES, Family, Sampler, family_of, register_family
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models.functional import functional
from softvq_jax.weights.layout import Rule
from tests import small_generators


@pytest.mark.parametrize(
    ("family", "size", "tokens", "channels", "millions"),
    [
        ("dit", "S", 64, 32, 33),
        ("dit", "B", 64, 32, 130),
        ("dit", "L", 64, 32, 458),
        ("dit", "XL", 64, 32, 675),
        ("mar", "B", 256, 16, 208),
        ("mar", "L", 256, 16, 479),
        ("mar", "H", 256, 16, 943),
    ],
)
def test_published_sizes(family, size, tokens, channels, millions):
    """DiT, table 1; MAR, table 4 (its 256 tokens of 16 channels)."""
    shape = FAMILIES[family].preset(size, num_tokens=tokens, channels=channels)
    count = sum(leaf.size for leaf in jax.tree.leaves(FAMILIES[family].network(shape).shapes))
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    ("tokens", "channels", "giga"), [(32, 64, 14.6), (64, 32, 29.0), (256, 16, 118.6), (1024, 16, 524.5)]
)
def test_multiply_adds(tokens, channels, giga):
    """SiT-XL on 1-D latents, and on the usual 2-D ones of 256 and 512 px at patch 2."""
    config = FAMILIES["sit"].preset("XL", num_tokens=tokens, channels=channels)
    assert config.multiply_adds / 1e9 == pytest.approx(giga, abs=0.06)


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match="size of a sit is 'M'; expected one of S, B, L, XL"):
        FAMILIES["sit"].preset("M", num_tokens=1, channels=1)
    with pytest.raises(ValueError, match="size of a mar is 'XL'; expected one of B, L, H"):
        generator_config("mar", "XL")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_networks_config_belongs_to_one_family(family):
    sizes = dict(codebook_size=16) if FAMILIES[family].discrete else dict(channels=3)
    shape = FAMILIES[family].preset("B", num_tokens=4, **sizes)
    assert (
        [name for name, other in FAMILIES.items() if other.matches_config(shape)] == [family] == [family_of(shape).name]
    )


# A whole family: a linear map per class that predicts the data itself, sampled in one step.


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    num_tokens: int
    channels: int
    gain: int
    num_classes: int = 1000
    dtype: str = "float32"
    remat: str = "none"


class ToyNetwork(nnx.Module):
    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.table = nnx.Param(jnp.zeros((config.num_classes + 1, config.channels)))

    def __call__(self, labels):
        return jnp.repeat(self.config.gain * self.table[...][labels][:, None], self.config.num_tokens, axis=1)


def toy_losses(objective):
    return lambda network, x, labels, key, training: {"loss": jnp.mean((network(labels) - x) ** 2, axis=(1, 2))}


def toy_draw(network, labels, keys, guidance, *, settings, process, temperature=1.0):
    noise = jax.vmap(lambda key: jax.random.normal(key, (network.config.num_tokens, network.config.channels)))(keys)
    return network(labels) + temperature * noise


def toy_read(tensors, published, *, dtype, remat):
    if "toy.table" not in tensors:
        return None
    classes, channels = tensors["toy.table"].shape
    return ToyConfig(published["num_tokens"], channels, published["gain"], classes - 1, dtype, remat)


TOY = Family(
    name="toy",
    presets={"one": {"gain": 1}, "two": {"gain": 2}},
    fields={
        "model": {"gain": Field(1, "Factor on the output.", integer(1))},
        "objective": {"process": Field("none", "Not used.", one_of("none"))},
        "sampling": {"temperature": Field(0.0, "Factor on the noise.", one_of(0.0, 1.0))},
    },
    make_config=lambda fields: ToyConfig(**fields),
    matches_config=lambda config: isinstance(config, ToyConfig),
    network=partial(functional, ToyNetwork),
    losses=toy_losses,
    samplers={"direct": Sampler(toy_draw, frozenset({"temperature"}), steps=1)},
    weight_rules=lambda config: [Rule("table", "toy.table")],
    read_config=toy_read,
    published_fields=lambda config, process: {"num_tokens": config.num_tokens, "gain": config.gain},
    process_field="process",
    optimizer_defaults=dict(schedule="constant", warmup_epochs=0.0, beta2=0.9, weight_decay=0.0),
    train_defaults={},
)


@pytest.fixture
def toy():
    register_family(TOY)
    yield TOY
    del FAMILIES["toy"]


def test_a_family_of_user_code_trains_samples_and_comes_back_from_its_files(toy, tmp_path):
    config = generator_config("toy", "two")
    config.model.update(num_tokens=8, channels=6, num_classes=8, dtype="float32")
    config.tokenizer = ""
    config.optim.learning_rate = 0.5
    config.train.update(batch_size=8, num_steps=2)
    state, logs = small_generators.take_steps(config, 2)
    assert int(state.step) == 2 and logs[1]["loss"] < logs[0]["loss"]

    task = small_generators.abstract_task(config)
    generator = task.export(state.ema)
    generator.save_pretrained(tmp_path)
    again = Generator.from_pretrained(tmp_path)
    assert again.family == "toy" and again.config == generator.config
    drawn = again.sample([3, 4], key=jax.random.key(0), temperature=0.0)
    expected = 2 * state.ema["table"][[3, 4]][:, None]
    np.testing.assert_allclose(drawn, np.repeat(expected, 8, axis=1), rtol=1e-6)
    with pytest.raises(ValueError, match="noise was given, but sampler direct of a toy does not take it"):
        again.sample([3], key=jax.random.key(0), noise=np.zeros((1, 8, 6)))


def test_a_name_can_be_registered_only_once(toy):
    register_family(toy)  # the same family again
    with pytest.raises(ValueError, match="'toy' is registered already; choose another name"):
        register_family(dataclasses.replace(toy, presets={}))


def test_configs_of_unregistered_families_are_refused():
    with pytest.raises(ValueError, match="ToyConfig belongs to none of the generator families sit, dit, mar"):
        Generator(ToyConfig(1, 1, 1), {}, LatentStatistics(0.0, 1.0))
    config = generator_config("sit", "B")
    config.model.family = "toy"
    with pytest.raises(ValueError, match=r"config\.model\.family is 'toy'; expected one of sit, dit, mar"):
        check_values(config)


def test_arguments_of_config_files():
    assert config_from_argument("mar", "h_l32") == generator_config("mar", "H", "l32")
    with pytest.raises(
        ValueError, match="--config=mar:xl_l64: expected mar:SIZE_LATENTS, one of b_l64, b_l32, l_l64, l_l32"
    ):
        config_from_argument("mar", "xl_l64")


@pytest.mark.parametrize("family", ["sit", "dit", "mar"])
def test_every_preset_has_only_allowed_values(family):
    for size in FAMILIES[family].presets:
        for latents in ("l32", "l64"):
            check_values(generator_config(family, size, latents))
