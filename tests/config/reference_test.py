"""The reference lists every field, with the value of the config."""

import subprocess
import sys

import pytest

from softvq_jax.config import load_config
from softvq_jax.config.reference import markdown_reference, text_reference
from softvq_jax.config.schemas import field_values

MODULES = ("softvq_jax.main", "softvq_jax.tools.aot_compile")


@pytest.mark.parametrize("name", ["tiny", "tiny_sit", "studies/temperature"])
def test_text_lists_every_field_once(name):
    config = load_config(name)
    lines = [line for line in text_reference(config).splitlines() if line.startswith("--config.")]
    assert len(lines) == len(dict(field_values(config)))
    for field, value in field_values(config):
        assert sum(line.split(" ")[0].startswith(f"--config.{field}=") for line in lines) == 1
        assert any(line.startswith(f"--config.{field}={value!r}") for line in lines)


def test_markdown_lists_fields_that_differ_from_the_first_config():
    page = markdown_reference(("l64", "tiny"))
    first, second = page.split("## `--config=tiny`")
    assert "| `temperature` | `0.07` |" in first and "### `config.model.encoder`" in first
    assert "| `image_size` | `64` | pixels |" in second and "`temperature`" not in second


def test_help_config_prints_the_reference_and_needs_no_workdir(tmp_path):
    command = [sys.executable, "-m", MODULES[0], "--config=tiny", "--help_config", "--config.model.latent_dim=8"]
    result = subprocess.run(command, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert "--config.model.latent_dim=8 channels" in result.stdout


@pytest.mark.parametrize(("flags", "message"), [
    (["--config=l46"], "error: --config=l46: no such file or config; the nearest name is 'l64'\n"),
    (["--config=l64", "--config.optim.beta2=2"],
     "error: config.optim.beta2=2.0: expected a number of at least 0 and below 1\n"),
    (["--config=tiny", "--config.train.num_steps=abc"],
     "error: config.train.num_steps='abc': expected an integer from 0 to 2,147,483,647\n"),
    (["--config=tiny", "--config.model.encoder.layer_scale=x"],
     "error: config.model.encoder.layer_scale='x': expected None or a number of at least 0\n"),
    (["--config=l64", "--workdir="], "error: --workdir is empty; expected a folder for this run\n"),
    (["--config=tiny", "--wrkdir=a"], "error: Unknown command line flag 'wrkdir'. Did you mean: workdir ?\n"),
    (["--start_timeout=1"], "error: --config is required\n"),
    (["--config=l64", "extra"], "error: unexpected argument 'extra'; flags start with --\n"),
    (["--config=l64", "--config.model.latent_dimm=2"],
     "error: the config has no field 'model.latent_dimm'; the nearest is --config.model.latent_dim\n"),
])  # fmt: skip
def test_errors_are_one_line(flags, message, tmp_path):
    command = [sys.executable, "-m", MODULES[0], f"--workdir={tmp_path}", *flags]
    result = subprocess.run(command, text=True, capture_output=True)
    assert (result.returncode, result.stderr) == (1, message)
