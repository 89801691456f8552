"""Settings of the cache of compiled programs, and processes that share it."""

import json
import os
import platform

import jax
import pytest
from absl import logging

from softvq_jax.parallel import compilation_cache
from tests import programs

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The default folder; JAX is set as in a new process of a user without settings of their own."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name in SETTINGS:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache" / "softvq_jax" / "programs"
    for name, value in before.items():
        jax.config.update(name, value)


def used():
    return jax.config.jax_compilation_cache_dir


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: found.append(text % args))
    return found


def test_default_folder(folder, warnings):
    compilation_cache.set_up()
    assert used() == str(folder) and folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_max_size == compilation_cache.MAX_BYTES
    assert jax.config.jax_persistent_cache_min_compile_time_secs == compilation_cache.MIN_COMPILE_SECONDS
    assert not warnings


def test_settings_of_jax_win(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    jax.config.update("jax_compilation_cache_max_size", 1000)
    compilation_cache.set_up()
    assert jax.config.jax_compilation_cache_max_size == 1000
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.set_up()
    assert used() == str(tmp_path)


def test_cache_that_is_turned_off(folder):
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.set_up()
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.set_up("")
    assert used() is None and not folder.exists()


def test_not_with_several_processes(folder, monkeypatch):
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    compilation_cache.set_up()
    assert used() is None and not folder.exists()


@pytest.mark.parametrize("fault", ["file", "writable by others", "no home"])
def test_folder_that_cannot_be_used_gives_one_warning(folder, warnings, monkeypatch, fault):
    if fault == "file":
        folder.parent.mkdir(parents=True)
        folder.touch()
    elif fault == "writable by others":
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    compilation_cache.set_up()
    assert used() is None and len(warnings) == 1, warnings


def test_incomplete_programs_are_removed(folder):
    folder.mkdir(parents=True, mode=0o700)
    for name in ("whole-cache", "whole-atime", "torn-cache"):
        (folder / name).write_bytes(b"12345678")
    compilation_cache.set_up()
    assert {path.name for path in folder.glob("*-*")} == {"whole-cache", "whole-atime"}


def test_given_folder(folder, tmp_path):
    compilation_cache.set_up(str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir() and used() == str(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        compilation_cache.set_up(str(tmp_path / "file"))


@pytest.mark.slow
def test_processes_share_the_cache(folder, monkeypatch):
    """A full disk does no harm, later starts load the program and get the same bits, and another CPU does not load it."""

    def run(*args, **environment):
        [output] = programs.run("cached_program", *args, env=environment)
        assert len(output.splitlines()) == 1, output  # no warning
        return json.loads(output)

    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    full = run(1000)
    torn = {path.name for path in folder.glob("*-cache")}
    assert torn
    cold = run()
    warm = [json.loads(process.communicate()[0]) for process in programs.start("cached_program", processes=2)]
    assert full["hits"] == cold["hits"] == 0 < warm[0]["hits"] == warm[1]["hits"]
    assert {found["result"] for found in (full, cold, *warm)} == {cold["result"]}
    if platform.machine() == "x86_64":
        other = run(XLA_FLAGS="--xla_cpu_max_isa=AVX")
        assert other["hits"] == 0 and other["cpu"] != cold["cpu"] == warm[0]["cpu"]
