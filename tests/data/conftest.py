import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keeps tests from writing to the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
