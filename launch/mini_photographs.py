#!/usr/bin/env python3
"""Builds the folder of photographs that `configs/mini.py` trains on, from packages of Debian 12.

    python launch/mini_photographs.py --out=photographs

It needs `apt-get` and `dpkg-deb`, on Debian 12 or in its container image, and Pillow; nothing is installed. The packages
hold 160 photographs under free licenses (`PHOTOGRAPHS` below); drawings and rendered pictures in them are left out, as
well as photographs under the GNU FDL. Every eighth photograph is held out. The script writes

    train/NAME_512.jpg, train/NAME_256.jpg   each training photograph with a smaller side of 512 and of 256 pixels
    held_out/NAME.png                        held-out photographs, with a smaller side of 256 pixels
    sources.json                             package and version, file and license of each photograph
"""

import argparse
import fnmatch
import io
import json
import pathlib
import re
import struct
import subprocess
import tempfile

from PIL import Image

PHOTOGRAPHS = {  # package: (license, version that was used, patterns of files below usr/share)
    "gcompris-qt-data": (
        "GPL-3+; some files CC-BY, CC-BY-SA or public domain (see its copyright file)",
        "3.1-2",
        [
            f"gcompris-qt/rcc/{activity}.rcc:*.webp"
            for activity in (
                "erase",
                "explore_monuments",
                "explore_world_animals",
                "explore_farm_animals",
                "explore_world_music",
                "clickgame",
            )
        ],
    ),
    "lomiri-wallpapers-16.04": (
        "CC-BY-4.0, CC-BY-SA-4.0 or CC0-1.0 (see its copyright file)",
        "20.04.0-2",
        ["backgrounds/*.jpg"],
    ),
    "lomiri-wallpapers-20.04": ("CC-BY-SA-3.0", "20.04.0-2", ["backgrounds/Kleiber_*.jpg"]),
    "mate-backgrounds": ("GPL-2+", "1.26.0-1", ["backgrounds/mate/nature/*.jpg"]),
    "palapeli-data": (
        "public domain",
        "4:22.12.3-1",
        [f"palapeli/collection/{name}.jpg" for name in ("cincinnati-bridge", "citrus-fruits", "european-honey-bee")],
    ),
    "plasma-workspace-wallpapers": (
        "LGPL-3 (the package: GPL-2+)",
        "4:5.27.5-2",
        [
            f"wallpapers/{name}/contents/images/2560x1600.jpg"
            for name in (
                "BytheWater",
                "ColdRipple",
                "ColorfulCups",
                "DarkestHour",
                "EveningGlow",
                "FallenLeaf",
                "Grey",
                "Kite",
                "OneStandsOut",
                "Path",
                "summer_1am",
            )
        ],
    ),
    "puzzle-jigsaw": ("CC0-1.0", "1.0.2+git20201007.527c529+dfsg-4+b1", ["puzzle-jigsaw/samples/*.jp*g"]),
}
LEFT_OUT = ("*/analogpattern_*", "*/umang_*", "*/kangaroo.webp")  # two that are no photographs; one under the GNU FDL
MIN_SIDE = 450  # pixels; smaller pictures are sprites and thumbnails
HELD_OUT_EVERY = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write, new or empty")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()):
        parser.error(f"--out={out} exists and is not empty: choose another folder, or remove it")
    for subfolder in ("train", "held_out"):
        (out / subfolder).mkdir(parents=True)
    sources, number = {}, 0
    for package, (license_name, used, patterns) in PHOTOGRAPHS.items():
        with tempfile.TemporaryDirectory() as temporary:
            root, version = unpack(package, pathlib.Path(temporary))
            if version != used:
                print(f"{package} is version {version}; softvq-mini was trained with {used}")
            for name, content in photographs(root, patterns):
                image = Image.open(io.BytesIO(content))
                if min(image.size) < MIN_SIDE:
                    continue
                held_out = number % HELD_OUT_EVERY == 0
                stem = f"{number:03d}_{re.sub('[^A-Za-z0-9]+', '_', pathlib.PurePath(name).with_suffix('').name)}"
                if name.startswith("wallpapers/"):  # all files there have the same name
                    stem = f"{number:03d}_{name.split('/')[1]}"
                image = image.convert("RGB")
                if held_out:
                    scaled(image, 256).save(out / "held_out" / f"{stem}.png")
                else:
                    scaled(image, 512).save(out / "train" / f"{stem}_512.jpg", quality=95)
                    scaled(image, 256).save(out / "train" / f"{stem}_256.jpg", quality=95)
                sources[stem] = {
                    "package": f"{package} {version}",
                    "file": name,
                    "license": license_name,
                    "held_out": held_out,
                }
                number += 1
    (out / "sources.json").write_text(json.dumps(sources, indent=1) + "\n")
    print(f"{out}: {number} photographs, {sum(source['held_out'] for source in sources.values())} of them held out")


def unpack(package: str, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Downloads a package and unpacks it below `folder`; returns its `usr/share` and its version."""
    subprocess.run(["apt-get", "download", "--quiet", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    [archive] = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", archive, folder / "files"], check=True)
    field = ["dpkg-deb", "--field", archive, "Version"]
    version = subprocess.run(field, check=True, text=True, capture_output=True).stdout.strip()
    return folder / "files" / "usr" / "share", version


def photographs(share: pathlib.Path, patterns: list[str]):
    """Yields name and content of the files that match, sorted by name; "ARCHIVE:PATTERN" looks into a Qt resource file."""
    for pattern in patterns:
        file_pattern, _, inside = pattern.partition(":")
        for path in sorted(share.glob(file_pattern)):
            name = str(path.relative_to(share))
            if inside:
                found = [(f"{name}:{member}", content) for member, content in resources(path.read_bytes())]
                found = sorted(item for item in found if fnmatch.fnmatch(item[0], f"*:{inside}"))
            else:
                found = [(name, path.read_bytes())]
            yield from (item for item in found if not any(fnmatch.fnmatch(item[0], left) for left in LEFT_OUT))


def resources(data: bytes):
    """Yields path and content of the uncompressed files in a Qt resource file (`rcc --binary`)."""
    magic, version, tree, contents, names = struct.unpack_from(">4s4I", data)
    if magic != b"qres":
        raise ValueError(f"not a Qt resource file: it begins with {magic!r}")
    node_size = 22 if version >= 2 else 14

    def walk(node, parents):
        at = tree + node * node_size
        name_offset, flags = struct.unpack_from(">IH", data, at)
        path = parents
        if node:  # the root has no name
            (length,) = struct.unpack_from(">H", data, names + name_offset)
            start = names + name_offset + 6
            path = [*parents, data[start : start + 2 * length].decode("utf-16-be")]
        if flags & 2:  # a folder
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & 5:  # 1: zlib, 4: zstd
            (offset,) = struct.unpack_from(">I", data, at + 10)
            (length,) = struct.unpack_from(">I", data, contents + offset)
            start = contents + offset + 4
            yield "/".join(path), data[start : start + length]

    yield from walk(0, [])


def scaled(image: Image.Image, side: int) -> Image.Image:
    """Returns the image with a smaller side of `side` pixels."""
    factor = side / min(image.size)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
