"""A command line before its flags are parsed: config names, current names of fields, and unknown fields."""

import pytest

from softvq_jax.config import load_config
from softvq_jax.config.arguments import resolve_arguments
from softvq_jax.config.flag_values import set_optional, take_optional
from softvq_jax.config.names import configs_folder

OLD_SECTIONS = """
from ml_collections import ConfigDict
def get_config():
    held_out, fid = dict(every_steps=500, num_images=10), dict(every_steps=0)
    evals = dict(held_out=held_out, fid=fid, nearest_class=dict(every_steps=0))
    return ConfigDict(dict(evals=evals, base=dict(evals=evals), log=dict(writers="")))
"""


def test_config_becomes_a_path():
    path = configs_folder() / "l64.py"
    assert resolve_arguments(["main", "--config=l64", "--workdir=a"]) == ["main", f"--config={path}", "--workdir=a"]
    assert resolve_arguments(["main", "--config", "l64", "--x=1"]) == ["main", f"--config={path}", "--x=1"]


@pytest.mark.parametrize("argv", [["main"], ["main", "--workdir=a", "--helpshort"], ["main", "--config"]])
def test_without_a_config_nothing_changes(argv):
    assert resolve_arguments(argv) == argv


@pytest.mark.parametrize(("old", "new"), [
    ("fid.every_steps=5", "evals.fid.every_steps=5"),
    ("eval.num_images=5", "evals.held_out.num_images=5"),
    ("eval.num_images", "evals.held_out.num_images"),
    ("base.fid.every_steps=5", "base.evals.fid.every_steps=5"),
    ("eval.nearest_class=true", "evals.nearest_class.every_steps=500"),
    ("eval.nearest_class=false", "evals.nearest_class.every_steps=0"),
    ("evals.fid.every_steps=5", "evals.fid.every_steps=5"),
    ("log.tensorboard=True", "log.writers=tensorboard"),
    ("log.tensorboard", "log.writers=tensorboard"),
    ("log.tensorboard=False", "log.writers="),
])  # fmt: skip
def test_fields_of_older_versions(old, new, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(OLD_SECTIONS)
    assert resolve_arguments(["main", f"--config={path}", f"--config.{old}"])[2] == f"--config.{new}"


@pytest.mark.parametrize(("field", "nearest"), [
    ("mesh.fsdpp=2", "mesh.fsdp"), ("num_latent_tokens", "model.num_latent_tokens"), ("optim.lr=1", "optim."),
])  # fmt: skip
def test_unknown_field_names_the_nearest(field, nearest):
    with pytest.raises(
        ValueError, match=f"the config has no field '{field.split('=')[0]}'; the nearest is --config.{nearest}"
    ):
        resolve_arguments(["main", "--config=l64", f"--config.{field}"])


def test_sections_and_elements_of_tuples_are_fields(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict(dict(a=(1, 2), b={}))\n"
    )
    argv = ["main", f"--config={path}", "--config.a[0]=3", "--config.b={'c': 1}"]
    assert resolve_arguments(argv) == argv


@pytest.mark.parametrize(
    ("config", "field", "text", "value"),
    [
        ("l64", "model.encoder.layer_scale", "None", None),
        ("titok_bl64_vq8k", "model.decoder.layer_scale", "0.01", 0.01),
        ("maetok_b128", "model.encoder.rope_theta", "none", None),
    ],
)
def test_fields_are_set_to_none_and_from_none(config, field, text, value):
    for words in ([f"--config.{field}={text}"], [f"--config.{field}", text]):
        argv = ["main", f"--config={configs_folder()}/{config}.py", "--config.seed=1", *words, "--workdir=a"]
        rest, taken = take_optional(argv)
        assert rest == [*argv[:3], "--workdir=a"] and taken == {field: text}
    loaded = load_config(config)
    set_optional(loaded, taken)
    section, _, last = field.rpartition(".")
    assert loaded.model[section.removeprefix("model.")][last] == value
