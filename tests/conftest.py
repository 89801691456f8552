"""A cache of compiled programs for all tests, so that each is compiled once; and the order of the test files."""

import gc
import os

import jax
import pytest
from jaxlib import xla_client

from tests.programs import QUICK_COMPILATION

pytest_plugins = ["tests.bucket_fixtures", "tests.shared_programs"]

# Files that take the longest. With one file to a worker, they start first.
LONGEST = (
    "parity_test.py",
    "gan_steps_test.py",
    "generator_step_test.py",
    "tokenizer_step_test.py",
    "examples_test.py",
    "kinds_training_test.py",
    "survival_test.py",
    "faults_test.py",
    "configs_test.py",
    "fid_in_training_test.py",
    "step_test.py",
    "loop_test.py",
    "jax_use_test.py",
    "generator_test.py",
)


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # the order of pytest-xdist: files with many tests first
        config.option.loadscopereorder = False
    with pytest.MonkeyPatch.context() as patch:  # libtpu, which some tests load, does not know these flags
        patch.setenv("XLA_FLAGS", QUICK_COMPILATION["XLA_FLAGS"], prepend=" ")
        _ = xla_client.CompileOptions().executable_build_options.debug_options  # reads them
    settings = {"jax_compilation_cache_dir": str(config.cache.mkdir("jax"))}
    settings["jax_persistent_cache_min_compile_time_secs"] = 0.3
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for the processes that tests start, which else use the user's cache


def pytest_collection_finish(session):
    """Takes what the test modules imported out of garbage collections, which tracing causes many of."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items):
    def place(item):
        slow = item.get_closest_marker("slow") is not None
        return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST) + (not slow)

    first = {}
    for item in items:
        first[item.path] = min(first.get(item.path, len(LONGEST) + 1), place(item))
    items.sort(key=lambda item: first[item.path])


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(request):
    """Disables most compiler optimizations, because tests compile much and run little: a third less time in all.

    Modules with `OPTIMIZED = True` keep them: those that examine what the compiler makes, and those with long loops. So do
    the processes that tests start, except those of `programs.start` and with `programs.QUICK_COMPILATION`.
    """
    optimized = getattr(request.module, "OPTIMIZED", False)
    jax.config.update("jax_disable_most_optimizations", not optimized)
    if optimized:  # compiled programs do not depend on the setting: forget the quick ones
        jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", False)
