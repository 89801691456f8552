"""`launch/mini_photographs.py` on packages that are made here; apt-get and dpkg-deb are replaced by scripts."""

import importlib.util
import json
import os
import pathlib
import struct
import sys

import numpy as np
import pytest
from PIL import Image

SCRIPT = pathlib.Path(__file__).parents[1] / "launch" / "mini_photographs.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("mini_photographs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def qt_resources(folder: str, contents: dict[str, bytes]) -> bytes:
    """A Qt resource file of version 1 with one folder of uncompressed files."""
    names, offsets = b"", {}
    for name in (folder, *contents):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    tree = struct.pack(">IHII", 0, 2, 1, 1)  # the root
    tree += struct.pack(">IHII", offsets[folder], 2, len(contents), 2)
    data = b""
    for name, content in contents.items():
        tree += struct.pack(">IHHHI", offsets[name], 0, 0, 0, len(data))
        data += struct.pack(">I", len(content)) + content
    start = 20
    return (
        struct.pack(">4s4I", b"qres", 1, start, start + len(tree), start + len(tree) + len(data)) + tree + data + names
    )


def picture(path: pathlib.Path, width: int, height: int, seed: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    Image.fromarray(colors).resize((width, height)).save(path)
    return path.read_bytes()


def test_photographs_are_cut_and_every_eighth_is_held_out(script, tmp_path, monkeypatch, capsys):
    share = tmp_path / "package" / "usr" / "share"
    for i in range(8):
        picture(share / "photographs" / f"{i}.jpg", 900, 600, i)
    picture(share / "photographs" / "umang_by_me.jpg", 900, 600, 8)  # a drawing
    inside = {f"{name}.webp": picture(tmp_path / f"{name}.webp", w, 500, w) for name, w in (("b", 700), ("a", 500))}
    inside["sprite.webp"] = picture(tmp_path / "sprite.webp", 60, 50, 1)
    (share / "animals.rcc").write_bytes(qt_resources("resource", inside))
    monkeypatch.setattr(
        script, "PHOTOGRAPHS", {"nice": ("CC0-1.0", "1.0", ["photographs/*.jpg", "animals.rcc:*.webp"])}
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    dpkg = f'[ "$1" = --field ] && echo 2.0 || cp -r {tmp_path}/package "$3"'
    for name, body in (("apt-get", 'touch "$3.deb"'), ("dpkg-deb", dpkg)):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["mini_photographs.py", f"--out={tmp_path / 'out'}"])
    script.main()
    out = capsys.readouterr().out
    assert (
        "nice is version 2.0; softvq-mini was trained with 1.0" in out and "10 photographs, 2 of them held out" in out
    )

    held_out = sorted(path.name for path in (tmp_path / "out" / "held_out").iterdir())
    assert held_out == ["000_0.png", "008_a.png"]
    trained = sorted(path.name for path in (tmp_path / "out" / "train").iterdir())
    assert trained == sorted(
        f"{i:03d}_{n}_{side}.jpg" for i, n in [*((i, i) for i in range(1, 8)), (9, "b")] for side in (256, 512)
    )
    assert Image.open(tmp_path / "out" / "train" / "003_3_512.jpg").size == (768, 512)
    assert Image.open(tmp_path / "out" / "held_out" / "008_a.png").size == (256, 256)
    sources = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert sources["009_b"] == {
        "package": "nice 2.0", "file": "animals.rcc:resource/b.webp", "license": "CC0-1.0", "held_out": False,
    }  # fmt: skip
    with pytest.raises(SystemExit):  # the folder is not empty
        script.main()


def test_other_files_are_no_resources(script):
    with pytest.raises(ValueError, match="not a Qt resource file"):
        list(script.resources(b"PNG!" + bytes(16)))
