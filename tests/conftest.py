"""What all tests share: compiled programs, so that no two tests compile the same one; and the order of the files."""

import jax
import pytest

# Minutes each. With one file to a worker, what begins last should be short.
LONGEST = (
    "parity_test.py",
    "gan_steps_test.py",
    "survival_test.py",
    "configs_test.py",
    "fid_in_training_test.py",
    "step_test.py",
    "loop_test.py",
)


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist's own order: files of many tests first
        config.option.loadscopereorder = False
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_collection_modifyitems(items):
    def place(item):
        slow = item.get_closest_marker("slow") is not None
        return LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST) + (not slow)

    first = {}
    for item in items:
        first[item.path] = min(first.get(item.path, len(LONGEST) + 1), place(item))
    items.sort(key=lambda item: first[item.path])


@pytest.fixture
def quick_compilation():
    """For tests that compile large programs and run them a few times. Programs with long loops become slower than the
    compilation was."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
