"""The public generator: files, samples and refusals; parity covers the numbers."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax import generator as generator_module
from softvq_jax.generator import CLASS_NAMES_FIELD, Generator, abstract_params
from softvq_jax.generators.family import family_of, read_config
from softvq_jax.generators.sit import SIT as SIT_FAMILY
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.models import layers
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.mar import MARConfig, StackConfig
from softvq_jax.weights import files, layout
from softvq_jax.weights.layout import WeightsError
from tests import small_tokenizers

SIT = DiTConfig(num_tokens=4, channels=3, width=32, depth=2, num_heads=4, num_classes=7)
DIT = DiTConfig(num_tokens=4, channels=3, width=32, depth=2, num_heads=4, num_classes=7, learn_sigma=True)
_STACK = StackConfig(width=32, depth=1, num_heads=4)
MAR = MARConfig(4, 3, encoder=_STACK, decoder=_STACK, head_width=16, head_depth=1, num_classes=7, buffer_size=2)
CONFIGS = {"sit": SIT, "dit": DIT, "mar": MAR}
STATISTICS = LatentStatistics(0.5, 2.0)
KEY = jax.random.key(0)
# The default run takes one family where all share the code.
ONE_FIRST = ["sit", *(pytest.param(family, marks=pytest.mark.slow) for family in ("dit", "mar"))]
FEW = {"sit": {"steps": 4}, "dit": {"steps": 3}, "mar": {"steps": 2, "head_steps": 3}}


def _params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(0.2 * rng.standard_normal(leaf.shape)), abstract_params(config))


@functools.cache
def _generator(family):
    return Generator(CONFIGS[family], _params(CONFIGS[family]), STATISTICS)


@pytest.mark.parametrize("family", CONFIGS)
def test_saved_and_opened_again(family, tmp_path):
    generator = _generator(family)
    generator.save_pretrained(tmp_path / "generator")  # as in a run's workdir
    again = Generator.from_pretrained(tmp_path)
    assert (again.config, again.process, again.statistics) == (generator.config, generator.process, STATISTICS)
    jax.tree.map(np.testing.assert_array_equal, again.params, generator.params)


@pytest.mark.parametrize("family", CONFIGS)
def test_published_files_are_saved_unchanged(family, tmp_path):
    """Key for key, bit for bit, with tensors that the network does not use; statistics from the tokenizer's config."""
    config = CONFIGS[family]
    tensors = layout.write(family_of(config).weight_rules(config), _params(config)) | {
        "projectors.0.weight": np.ones((2, 3), np.float16)
    }
    published = family_of(config).published_fields(config, "cosine") | {"tags": ["unknown to us"]}
    theirs, tokenizer, ours = (tmp_path / name for name in ("theirs", "tokenizer", "ours"))
    theirs.mkdir(), tokenizer.mkdir()
    files.write_safetensors(theirs / "model.safetensors", tensors)
    files.write_json(theirs / "config.json", published)
    files.write_json(tokenizer / "config.json", {"vq_mean": 0.25, "vq_std": 0.07, "codebook_size": 8192})

    generator = Generator.from_pretrained(theirs, statistics=tokenizer)
    assert generator.statistics == LatentStatistics(0.25, 0.07) and generator.process == "cosine"
    generator.save_pretrained(ours)
    back = files.read_tensors(ours / "model.safetensors")
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype and back[key].tobytes() == tensor.tobytes()
    assert files.read_json(ours / "config.json") == published | {"vq_mean": 0.25, "vq_std": 0.07}


@pytest.mark.parametrize("published", [{"model": "SiT-B/1"}, {}])
def test_presets_are_recognized_by_name_or_width(published):
    """Published configs may name the model without its number of heads."""
    config = SIT_FAMILY.preset("B", num_tokens=2, channels=3)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract_params(config))
    tensors = layout.write(SIT_FAMILY.weight_rules(config), zeros)
    assert read_config(tensors, published, dtype="float32", remat="none", source="file") == config


@pytest.mark.parametrize("family", ONE_FIRST)
def test_an_example_depends_only_on_its_index_and_label(family):
    """Not on the rest of the batch, and so not on the number of devices."""
    generator, few = _generator(family), FEW[family] | {"guidance": 2.0, "key": KEY}
    labels = np.array([3, 1, 6, 0])
    whole = generator.sample(labels, **few)
    assert whole.shape == (4, 4, 3) and np.isfinite(whole).all()
    half = generator.sample(labels[2:], indices=np.array([2, 3]), **few)
    np.testing.assert_allclose(half, whole[2:], rtol=1e-4, atol=1e-4)
    assert not np.allclose(generator.sample(labels[2:], **few), whole[2:], atol=1e-2)
    same_label = generator.sample(np.array([3, 3]), **few)
    assert not np.allclose(same_label[0], same_label[1], atol=1e-2)


@pytest.mark.parametrize("family", ONE_FIRST)
def test_label_and_guidance_change_the_samples(family):
    generator, few = _generator(family), FEW[family] | {"key": KEY}
    plain, other = generator.sample([1], **few), generator.sample([2], **few)
    guided = generator.sample([1], guidance=3.0, **few)
    assert not np.allclose(plain, other, atol=1e-3) and not np.allclose(plain, guided, atol=1e-3)


@pytest.mark.parametrize("family", ONE_FIRST)
def test_unstacked_blocks_give_the_same_samples(family, monkeypatch):
    """On CPUs, blocks are unstacked for many steps on few tokens, and scanned else."""
    stacked = _generator(family).sample([3], key=KEY, guidance=3.0, **FEW[family])
    unstacked, unstack = [], layers.unstack
    monkeypatch.setattr(layers, "MANY_STEPS", 2)
    monkeypatch.setattr(layers, "unstack", lambda network: unstacked.append(unstack(network)))
    for tokens in (3, 4):
        monkeypatch.setattr(layers, "FEW_TOKENS", tokens)
        generator_module._program.cache_clear()
        again = _generator(family).sample([3], key=KEY, guidance=3.0, **FEW[family])
        assert len(unstacked) == tokens - 3
        np.testing.assert_allclose(again, stacked, atol=1e-4)
    generator_module._program.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_denoising_ends_with_the_samples(family):
    """Also where guidance, which is on in some of the steps, makes several loops of them."""
    generator, few = _generator(family), FEW[family] | {"key": KEY}
    few |= {} if family == "mar" else {"guidance": 2.0, "guidance_interval": (0.3, 0.7)}
    states = generator.denoise([1, 2], **few)
    assert states.shape == (few["steps"], 2, 4, 3)
    np.testing.assert_allclose(states[-1], generator.sample([1, 2], **few), rtol=1e-4, atol=1e-4)
    if family == "mar":  # tokens are filled in each step, and then stay
        filled = np.any(np.asarray(states) != STATISTICS.mean, axis=-1)
        assert filled[-1].all() and not filled[0].all() and filled[0].any()
        np.testing.assert_array_equal(states[0][filled[0]], states[-1][filled[0]])


def test_steps_of_denoising_are_those_of_eulers_method():
    generator = _generator("sit")
    few = dict(steps=4, sampler="ode_euler")
    states = (generator.denoise([1, 2], key=KEY, **few) - STATISTICS.mean) / STATISTICS.std
    velocities = 4 * (states[:-1] - states[1:])
    for i, velocity in enumerate(velocities):
        expected = generator.network(states[i], jnp.full(2, 0.75 - 0.25 * i), jnp.array([1, 2]))
        np.testing.assert_allclose(velocity, expected, rtol=1e-3, atol=1e-3)


def test_class_names_are_those_of_the_training_data_or_numbers():
    assert _generator("sit").class_names == tuple("0123456")
    named = Generator(SIT, _params(SIT), STATISTICS, published={CLASS_NAMES_FIELD: ["ant", "bee"]})
    assert named.class_names == ("ant", "bee", "2", "3", "4", "5", "6")


def test_samples_are_denormalized():
    unit = copy.copy(_generator("sit"))
    unit.statistics = LatentStatistics(0.0, 1.0)
    samples = [generator.sample([1, 2], key=KEY, **FEW["sit"]) for generator in (unit, _generator("sit"))]
    np.testing.assert_allclose(samples[1], samples[0] * 2.0 + 0.5, rtol=1e-6)


def test_statistics_of_channels_are_saved_and_invert_the_normalization(tmp_path):
    statistics = LatentStatistics((0.5, -1.0, 2.0), (2.0, 0.5, 3.0))
    of_channels = Generator(SIT, _params(SIT), statistics)
    of_channels.save_pretrained(tmp_path)
    again = Generator.from_pretrained(tmp_path)
    assert again.statistics == statistics
    unit = Generator(SIT, _params(SIT), LatentStatistics(0.0, 1.0)).sample([1, 2], key=KEY, **FEW["sit"])
    expected = unit * np.array(statistics.std) + np.array(statistics.mean)
    np.testing.assert_allclose(again.sample([1, 2], key=KEY, **FEW["sit"]), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="statistics are for 2 channels, the generator has 3"):
        Generator(SIT, _params(SIT), LatentStatistics((0.0, 0.0), (1.0, 1.0)))


def test_given_noise_is_used():
    generator = _generator("sit")
    noise, draws = jax.random.normal(KEY, (2, 4, 3)), jax.random.normal(KEY, (3, 2, 4, 3))
    given = {"noise": noise, "step_noises": draws, **FEW["sit"]}
    first, second = (generator.sample([1, 2], key=jax.random.key(seed), **given) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    changed = generator.sample([1, 2], key=KEY, **(given | {"step_noises": 2 * draws}))
    assert not np.allclose(changed, first, atol=1e-3)


def test_guidance_outside_its_interval_changes_nothing():
    generator = _generator("sit")
    sample = functools.partial(generator.sample, [1], key=KEY, steps=4, sampler="ode_euler")
    np.testing.assert_allclose(sample(guidance=5.0, guidance_interval=(0.8, 0.9)), sample(), rtol=1e-5, atol=1e-5)
    assert not np.allclose(sample(guidance=5.0, guidance_interval=(0.8, 1.0)), sample(), atol=1e-3)


def test_temperature_reaches_the_head_of_a_mar():
    sample = functools.partial(_generator("mar").sample, [1, 2], key=KEY, **FEW["mar"])
    np.testing.assert_array_equal(sample(temperature=1.0), sample())
    assert (sample(temperature=0.0) != sample()).any()


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("sit", {"labels": [0, 7]}, "labels range from 0 to 7; this generator has classes 0 to 6"),
        ("sit", {"labels": [-1]}, "labels range from -1 to -1"),
        ("sit", {"labels": [0.5]}, "type float64; expected"),
        (
            "sit",
            {"guidance_interval": (0.7, 0.1)},
            r"is \(0.7, 0.1\); expected \(low, high\) with 0 <= low <= high <= 1",
        ),
        ("sit", {"sampler": "ddpm"}, "sampler is 'ddpm'; a sit has sde_euler_maruyama, ode_euler, ode_heun"),
        ("dit", {"sampler": "ode_euler"}, "'ode_euler'; a dit has ddpm"),
        ("sit", {"steps": 1}, "steps is 1; expected at least 2 for sampler sde_euler_maruyama"),
        ("dit", {"steps": 1001}, "steps is 1001; expected 1 to 1000"),
        ("mar", {"steps": 5}, "steps is 5; expected 1 to 4 for sampler masked of this mar"),
        ("sit", {"noise": np.zeros((1, 3, 4))}, r"noise has shape \(1, 3, 4\); expected \(1, 4, 3\)"),
        (
            "sit",
            {"sampler": "ode_euler", "step_noises": np.zeros((9, 1, 4, 3))},
            "step_noises was given, but sampler ode_euler of a sit does not take it",
        ),
        (
            "dit",
            {"step_noises": np.zeros((9, 1, 4, 3)), "steps": 9},
            r"step_noises has shape .*expected \(8, 1, 4, 3\)",
        ),
        ("mar", {"noise": np.zeros((1, 4, 3))}, "noise was given, but sampler masked of a mar does not take it"),
        ("mar", {"guidance_interval": (0.1, 0.7)}, "guidance_interval was given, but sampler masked of a mar does not"),
        ("sit", {"noise": "cat"}, "noise are 'cat'; expected an array of numbers"),
        ("sit", {"guidance": "2"}, "guidance is '2'; expected a number"),
        ("mar", {"temperature": [1.0, [2.0]]}, r"temperature is \[1\.0, \[2\.0\]\]; expected a number"),
        ("sit", {"temperature": 0.9}, "temperature was given, but sampler sde_euler_maruyama of a sit"),
    ],
)
def test_refusals(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        _generator(family).sample(**({"labels": [0], "key": KEY} | arguments))


def test_missing_statistics(tmp_path):
    _generator("sit").save_pretrained(tmp_path)
    fields = files.read_json(tmp_path / "config.json")
    files.write_json(tmp_path / "config.json", {k: v for k, v in fields.items() if not k.startswith("vq_")})
    with pytest.raises(ValueError, match=r"does not carry the statistics of its latents.*SoftVQVAE/softvq-l-64"):
        Generator.from_pretrained(tmp_path)
    assert Generator.from_pretrained(tmp_path, statistics=STATISTICS).statistics == STATISTICS


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Generator.from_pretrained(tmp_path)
    files.write_json(tmp_path / "config.json", STATISTICS.to_fields())
    files.write_safetensors(tmp_path / "model.safetensors", {"something": np.zeros(3, np.float32)})
    with pytest.raises(
        WeightsError,
        match=r"1 tensors \(something, \.\.\.\) that fit none of the generator families sit, dit, mar, maskgit",
    ):
        Generator.from_pretrained(tmp_path)


def test_unknown_process():
    with pytest.raises(ValueError, match="process of a sit is 'vp'; expected one of 'linear', 'cosine'"):
        Generator(SIT, _params(SIT), STATISTICS, process="vp")


def test_another_tokenizer():
    _generator("sit").check_fits(small_tokenizers.config(num_latent_tokens=4, latent_dim=3))
    with pytest.raises(ValueError, match="4 tokens of 3 channels, the tokenizer takes 8 of 6"):
        _generator("sit").check_fits(small_tokenizers.config())


def test_one_compilation_per_setting():
    """The scale of guidance and the labels are arguments; only settings that change the program compile anew."""
    generator = Generator(SIT, _params(SIT), STATISTICS, process="cosine")
    before = generator._program._cache_size()
    for labels, scale in (([1, 2], 2.0), ([3, 4], 5.0)):
        generator.sample(labels, key=KEY, guidance=scale, **FEW["sit"])
    assert generator._program._cache_size() == before + 1
    assert jnp.isfinite(generator.sample([1, 2], key=KEY, **FEW["sit"])).all()
    assert generator._program._cache_size() == before + 2


def _published(config, family, process="linear"):
    """The tensors and the config.json of a generator."""
    tensors = layout.write(family_of(config).weight_rules(config), _params(config))
    return tensors, family_of(config).published_fields(config, process)


def _save(folder, tensors, fields):
    folder.mkdir(exist_ok=True)
    files.write_safetensors(folder / "model.safetensors", tensors)
    files.write_json(folder / "config.json", fields | STATISTICS.to_fields())
    return folder


def test_a_sit_with_learned_sigma_uses_the_first_half(tmp_path):
    tensors, fields = _published(SIT, "sit")
    doubled = dict(tensors)
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        doubled[name] = np.concatenate([tensors[name], 7 + tensors[name]])
    theirs = _save(tmp_path / "theirs", doubled, fields | {"learn_sigma": True})
    opened = Generator.from_pretrained(theirs)
    assert (opened.family, opened.config) == ("sit", SIT)
    labels = [1, 2]
    expected = _generator("sit").sample(labels, key=KEY, **FEW["sit"])
    np.testing.assert_array_equal(opened.sample(labels, key=KEY, **FEW["sit"]), expected)
    opened.save_pretrained(tmp_path / "ours")
    back = files.read_tensors(tmp_path / "ours" / "model.safetensors")
    assert all(back[key].tobytes() == tensor.tobytes() for key, tensor in doubled.items())
    # A DiT with the same tensors is still a DiT.
    dit = _save(tmp_path / "dit", doubled, _published(DIT, "dit")[1])
    assert Generator.from_pretrained(dit).family == "dit"


@pytest.mark.parametrize("family", CONFIGS)
def test_null_in_a_published_config_is_the_default(family, tmp_path):
    tensors, fields = _published(CONFIGS[family], family)
    heads = [name for name in fields if "num_heads" in name]  # needed: no preset has these widths
    nulls = {name: None for name in fields if name not in (*heads, "model", "path_type")}
    opened = Generator.from_pretrained(_save(tmp_path / "nulls", tensors, fields | nulls))
    assert opened.config == CONFIGS[family]


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("sit", {"num_heads": "many"}, "num_heads is 'many'; expected an integer of at least 1, or null"),
        ("mar", {"attn_dropout": 2}, "attn_dropout is 2; expected a number of at least 0 and below 1, or null"),
        ("sit", {"vq_mean": "abc"}, "vq_mean is 'abc'; expected a number, or a list of them for the channels, or null"),
        ("sit", {"vq_std": -1}, "vq_std is -1; expected a number above 0, or a list of them for the channels, or null"),
        ("sit", {"model": 3}, "model is 3; expected a string"),
    ],
)
def test_wrong_values_in_a_published_config(family, fields, message, tmp_path):
    tensors, published = _published(CONFIGS[family], family)
    folder = _save(tmp_path / "theirs", tensors, published)
    files.write_json(folder / "config.json", files.read_json(folder / "config.json") | fields)
    with pytest.raises(WeightsError, match=rf"the config\.json of .*theirs.*: {message}"):
        Generator.from_pretrained(folder)


@pytest.mark.parametrize("family", CONFIGS)
def test_every_missing_tensor_is_named(family):
    tensors, fields = _published(CONFIGS[family], family)
    for key in set(tensors) - set(family_of(CONFIGS[family]).anchors):  # without these, it is another network
        others = {name: tensor for name, tensor in tensors.items() if name != key}
        with pytest.raises(WeightsError, match=r"^file.*no tensor '"):
            Generator.from_tensors(others, fields, STATISTICS, source="file")
