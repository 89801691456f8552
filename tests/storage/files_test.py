"""Atomic writes: complete, synced in order, with the umask's permissions; no files are left after an error."""

import os
import pathlib

import pytest

from softvq_jax.storage import files


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_files_are_replaced_with_the_permissions_of_the_umask(tmp_path, umask):
    path = tmp_path / "a.json"
    path.write_text("old")
    with files.replacing(path) as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT, 0o600))  # a library that makes private files
        assert path.read_text() == "old" and partial.parent == path.parent
    assert path.read_text() == "" and path.stat().st_mode & 0o777 == 0o640
    files.write_json(path, {"a": (1, "ö")})
    assert files.read_json(path) == {"a": [1, "ö"]} and [*tmp_path.iterdir()] == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    with pytest.raises(FileNotFoundError), files.replacing(path) as partial:
        partial.unlink()  # the writer wrote nothing
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_content_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    name = lambda descriptor: pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}")).name  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(("fsync", name(fd).split(".")[-1])), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(("rename", paths[1].name)), replace(*paths)))
    files.write_bytes(tmp_path / "a", b"x")
    assert calls == [("fsync", "partial"), ("rename", "a"), ("fsync", tmp_path.name)]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"5", "a JSON int"), (b"[" * 100_000, "not valid JSON")],
)
def test_damaged_json_is_named_in_one_line(content, says, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        files.read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value) and "\n" not in str(caught.value)
