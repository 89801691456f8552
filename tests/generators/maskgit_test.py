"""MaskGIT as a family: published files, sampling, the loss, and the tokenizers that fit it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.config.schemas import check_values
from softvq_jax.generator import Generator
from softvq_jax.generators.config import generator_config
from softvq_jax.generators.family import FAMILIES
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights.layout import WeightsError
from tests import small_generators, small_titok
from tests import small_tokenizers as small
from tests.weights.tokenizer_test import assert_same_files

KEY = jax.random.key(0)
FEW = dict(steps=3, temperature=2.0)


@functools.cache
def generator(network="bert", **changes) -> Generator:
    """A generator of 6 codes out of 16, of 5 classes."""
    config = small_titok.generator_config(network, **changes)
    return Generator(config, small_titok.params(small_titok.functional(config)), None)


@pytest.mark.parametrize("network", ["bert", "uvit"])
def test_published_files_round_trip(network, tmp_path):
    theirs = small.save_published(tmp_path / "theirs", *small_titok.published(f"maskgit_{network}"))
    opened = Generator.from_pretrained(theirs, statistics="nowhere")  # not needed
    assert (opened.family, opened.discrete, opened.statistics) == ("maskgit", True, None)
    assert "codes" in repr(opened)
    opened.save_pretrained(tmp_path / "ours")
    assert_same_files(tmp_path / "ours", theirs)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("bert", dict(steps=8, guidance=46.0, guidance_schedule="linear", temperature=9.5, anneal_softmax=False)),
        ("uvit", dict(steps=16, guidance=6.9, guidance_schedule="power-cosine", temperature=2.8, anneal_softmax=False)),
    ],
)
def test_defaults_are_those_of_the_files(network, expected):
    """The release's scale 45 of "linear" is added to the logits with a class: 46 in `u + s (c - u)`."""
    _, fields = small_titok.published(f"maskgit_{network}")
    assert FAMILIES["maskgit"].sampling_defaults(fields) == expected


@pytest.mark.slow
def test_an_example_depends_only_on_its_index_and_label():
    """Not on the rest of the batch, and so not on the number of devices."""
    labels, few = np.array([3, 1, 4, 0]), FEW | {"guidance": 3.0, "key": KEY}
    whole = generator().sample(labels, **few)
    assert whole.shape == (4, 1, small_titok.NUM_TOKENS) and whole.dtype == jnp.int32
    assert int(whole.min()) >= 0 and int(whole.max()) < 16 and len(np.unique(whole)) > 4
    np.testing.assert_array_equal(generator().sample(labels[2:], indices=np.array([2, 3]), **few), whole[2:])
    assert not np.array_equal(generator().sample(labels[2:], **few), whole[2:])
    two = generator(num_codebooks=2).sample(labels, **few)  # another shape of the same codes
    np.testing.assert_array_equal(two, whole.reshape(4, 2, 3))


@pytest.mark.slow
def test_options_change_the_samples():
    sample = functools.partial(generator().sample, np.arange(5), key=KEY, **FEW)
    plain = sample(guidance=1.0)
    for options in (
        {"guidance": 1000.0},
        {"guidance": 1000.0, "guidance_schedule": "constant"},
        {"guidance": 1.0, "temperature": 30.0},
        {"guidance": 1.0, "anneal_softmax": True, "temperature": 30.0},
    ):
        assert not np.array_equal(sample(**options), plain), options


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_codes():
    network = small_titok.functional(small_titok.generator_config("bert"))
    params = small_titok.params(network)
    params["to_logits"] = jax.tree.map(jnp.zeros_like, params["to_logits"])
    objective = generator_config("maskgit", "B").objective
    losses = FAMILIES["maskgit"].losses(objective)
    codes = np.zeros((4, 6), np.int32)  # the most probable of equal ones is the first
    values = losses(network(params), jnp.asarray(codes), jnp.arange(4), KEY, False)
    assert float(jnp.mean(values["loss"])) == pytest.approx(np.log(16), rel=1e-6)
    assert float(jnp.mean(values["accuracy"])) == pytest.approx(1.0)
    values = losses(network(params), jnp.asarray(codes + 1), jnp.arange(4), KEY, False)
    assert float(jnp.mean(values["accuracy"])) == 0.0


def test_tokenizers_that_fit():
    config = small_titok.config("vq")  # 6 tokens, 16 codes
    generator().check_fits(config)
    for other, message in (
        (small_titok.config("vq", codebook_size=32), "16 codes, the tokenizer takes .* 32 codes: use the tokenizer"),
        (small.config("vq"), "6 indices into 1 codebook of 16 codes, the tokenizer takes 8 indices into 2 codebooks"),
        (small_titok.config("vae"), "the kl bottleneck of the tokenizer has continuous latents"),
    ):
        with pytest.raises(ValueError, match=message):
            generator().check_fits(other)


def test_samples_are_decoded_by_the_tokenizer():
    tokenizer = Tokenizer(small_titok.config("vq"), small.params(small_titok.config("vq")))
    images = tokenizer.decode_indices(generator().sample([0, 1], key=KEY, guidance=1.0, **FEW))
    assert images.shape == (2, 32, 32, 3) and np.isfinite(images).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": np.zeros((1, 6, 1))}, "noise was given, but sampler maskgit of a maskgit does not take it"),
        ({"head_steps": 3}, "head_steps was given, but sampler maskgit of a maskgit does not take it"),
        ({"guidance_interval": (0.0, 0.5)}, "guidance_interval was given, but sampler maskgit"),
        (
            {"guidance_schedule": "cosine"},
            "guidance_schedule is 'cosine'; expected one of linear, power-cosine, constant",
        ),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"steps": 2.5}, r"steps is 2\.5; expected an integer"),
        ({"guidance": float("nan")}, "guidance is nan; expected a finite number"),
        ({"temperature": -1.0}, r"temperature is -1\.0; expected at least 0"),
        ({"temperature": float("inf")}, "temperature is inf; expected a finite number"),
        ({"sampler": "ode_euler"}, "sampler is 'ode_euler'; a maskgit has maskgit"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        generator().sample([0], key=KEY, **options)


def test_statistics_belong_to_latents():
    config = small_titok.generator_config("bert")
    with pytest.raises(
        ValueError, match=r"statistics of a maskgit are .*; expected None, because its data are indices"
    ):
        Generator(config, generator().params, LatentStatistics(0.0, 1.0))


def test_wrong_values_in_a_published_config():
    tensors, fields = small_titok.published("maskgit_bert")
    for section, message in (
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'; expected an integer of at least 1"),
        ({"num_attention_heads": 4, "dropout": 2}, "dropout is 2; expected a number of at least 0 and below 1"),
    ):
        with pytest.raises(WeightsError, match=message):
            Generator.from_tensors(tensors, fields | {"model": {"generator": section}}, None, source="file")


def test_presets():
    for size in ("B", "U"):
        for codes in ("vq32", "vq64", "vq128"):
            check_values(generator_config("maskgit", size, codes))


@pytest.mark.slow
def test_training_learns_one_batch():
    config = small_generators.config("maskgit")
    config.model.dropout = config.model.attention_dropout = 0.0
    _, logs = small_generators.take_steps(config, 3)
    assert logs[0]["loss"] == pytest.approx(np.log(16), rel=0.05)  # fresh logits are nearly equal
    assert logs[2]["loss"] < logs[0]["loss"]
