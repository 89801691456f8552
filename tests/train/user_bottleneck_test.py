"""A bottleneck of user code: registered, trained, saved and opened again, with no change to the package."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.bottleneck import Bottleneck, Bottlenecked
from softvq_jax.models.quantizers import BOTTLENECKS, KL, register_bottleneck
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights.tokenizer_files import OWN_CONFIG
from tests import small_tokenizers as small
from tests.train.tokenizer_step_test import take_steps


class Noise(Bottleneck):
    """Scales by learned gains and adds noise that grows with the steps."""

    loss_weights = {"energy": 0.5}  # noqa: RUF012

    def __init__(self, dim, *, sigma, rngs):
        self.input_dim, self.sigma, self.gain = dim, sigma, nnx.Param(jnp.ones(dim))

    def __call__(self, z, *, step=None, key=None):
        noise = 0.0 if key is None else self.sigma * step * jax.random.normal(key, z.shape)
        return Bottlenecked(self.encode(z) + noise, {"energy": jnp.mean(z**2)}, stats={"sigma": self.sigma * step})

    def encode(self, z):
        return z * self.gain[...]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr("softvq_jax.models.quantizers.BOTTLENECKS", dict(BOTTLENECKS))
    monkeypatch.setattr("softvq_jax.weights.tokenizer.BOTTLENECKS", dict(BOTTLENECKS))
    register_bottleneck("noise", Noise)


@pytest.mark.usefixtures("registered")
def test_a_user_bottleneck_trains_and_opens_again(tiny_config, tmp_path):
    tiny_config.model.update(bottleneck="noise", bottleneck_args=dict(sigma=0.25))
    tiny_config.gan.discriminator = "none"
    task, state, logs = take_steps(tiny_config, 2)
    assert [log["sigma"] for log in logs] == [0.0, 0.25]  # annealed: the step reaches it
    pixels, energy = logs[1]["reconstruction"], logs[1]["energy"]
    np.testing.assert_allclose(logs[1]["generator_total"], pixels + 0.5 * energy, rtol=1e-6)  # the default weight
    gain = state.tokenizer.params["model"]["bottleneck"]["gain"]
    assert np.all(gain != 1)

    ours = task.export(state.tokenizer.params)
    ours.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.config.bottleneck_args == (("sigma", 0.25),) and hash(again.config)
    np.testing.assert_array_equal(again.params["bottleneck"]["gain"], gain)
    images = np.zeros((1, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(again.encode(images), ours.encode(images))


def test_a_bottleneck_by_its_import_path(tmp_path):
    config = small.config(f"{__name__}:Noise", bottleneck_args={"sigma": 0.1})
    Tokenizer(config, small.params(config)).save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).config == config


def test_configs_without_bottleneck_args_can_be_opened(tmp_path):
    """`softvq_jax.json` has the field only if it is used."""
    small.tokenizer(small.config("kl")).save_pretrained(tmp_path)
    assert "bottleneck_args" not in (tmp_path / OWN_CONFIG).read_text()
    assert Tokenizer.from_pretrained(tmp_path).config == small.config("kl")


def test_arguments_are_hashable_in_any_order():
    a = small.config("ae", bottleneck_args={"levels": [8, [5]], "a": 1})
    assert a == small.config("ae", bottleneck_args={"a": 1, "levels": (8, (5,))})
    assert isinstance(hash(a), int) and isinstance(a, TokenizerConfig)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfq", "bottleneck is 'lfq'; expected one of softvq, .*, or package.module:Class"),
        ("no_such_package:FSQ", "bottleneck 'no_such_package:FSQ' cannot be imported: No module named"),
        ("json:dumps", "bottleneck 'json:dumps' is <function dumps.*; expected a subclass of Bottleneck"),
    ],
)
def test_unknown_bottlenecks_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        small.config(name)


@pytest.mark.usefixtures("registered")
def test_a_name_is_registered_once():
    register_bottleneck("noise", Noise)
    with pytest.raises(ValueError, match="'noise' is already registered, as Noise"):
        register_bottleneck("noise", KL)
