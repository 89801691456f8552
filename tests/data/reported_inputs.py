"""Small inputs of the kinds that people report as read wrongly, made by Pillow and the standard library."""

import io
import json
import os
import pathlib
import tarfile

import numpy as np
from PIL import Image

JPEG_ENDINGS = ("jpg", "JPEG", "jfif", "jpe")
OTHER_ENDINGS = ("tif", "tiff", "gif", "ppm", "webp")


def picture(seed: int = 0, width: int = 96, height: int = 64) -> Image.Image:
    """Smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Writes a picture for each name; returns the folder."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if path.suffix[1:] in JPEG_ENDINGS else None
        picture(seed).save(path, format=kind)
    return folder


def exif(folder: pathlib.Path) -> pathlib.Path:
    """All eight orientations of a picture that is red above blue when upright, and darker at its left."""
    folder.mkdir(parents=True)
    shown = Image.new("RGB", (60, 80), (0, 0, 255))
    shown.paste((255, 0, 0), (0, 0, 60, 40))
    shown.paste((100, 0, 100), (0, 0, 20, 80))
    stored_by = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose that undoes each orientation
    for orientation in range(1, 9):
        tag = Image.Exif()
        tag[0x112] = orientation
        turned = shown if orientation == 1 else shown.transpose(Image.Transpose(stored_by[orientation]))
        turned.save(folder / f"{orientation}.jpg", quality=95, subsampling=0, exif=tag)
    shown.save(folder.parent / "upright.png")
    return folder


def transparent() -> dict[str, bytes]:
    """A green square on nothing, with other colors hidden under the nothing, in every form that has transparency."""
    found = {}
    for name, hidden in (("magenta", (255, 0, 255)), ("black", (0, 0, 0))):
        pixels = np.zeros((64, 64, 4), np.uint8)
        pixels[..., :3] = hidden
        pixels[20:44, 20:44] = (0, 200, 0, 255)
        image = Image.fromarray(pixels)
        found[f"{name}.png"] = encoded(image)
        found[f"{name}.webp"] = encoded(image, "WEBP", lossless=True, exact=True)
        found[f"{name}.tif"] = encoded(image, "TIFF")
        flat = image.convert("RGB")
        found[f"{name}_key.png"] = encoded(flat, transparency=hidden)
        palette = flat.quantize(4, dither=Image.Dither.NONE)
        index = palette.getpixel((0, 0))
        found[f"{name}_palette.png"] = encoded(palette, transparency=index)
        found[f"{name}_palette.gif"] = encoded(palette, "GIF", transparency=index)
    return found


def junk(folder: pathlib.Path) -> pathlib.Path:
    """Two classes of six pictures, and what systems and archivers leave."""
    write(folder, *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(6)))
    write(folder, "cat/.ipynb_checkpoints/0-checkpoint.jpg", ".trash/0.jpg")
    for name in ("cat", "dog"):
        for path in (folder / name / "._0.jpg", folder / "__MACOSX" / name / "0.jpg", folder / name / "Thumbs.db"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    (folder / "empty").mkdir()
    return folder


def links(folder: pathlib.Path) -> pathlib.Path:
    """Three classes: six pictures; a link to six; a picture and a link to the same six."""
    store = write(folder.parent / "store" / "wolf", *(f"{i}.jpg" for i in range(6)))
    write(folder, *(f"ape/{i}.jpg" for i in range(6)), "zoo/z.jpg")
    os.symlink(store, folder / "wolf")
    os.symlink(store, folder / "zoo" / "pack")
    return folder


def tar(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    """Writes a tar of files by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def webdataset(label: str) -> dict[str, bytes]:
    """Eight samples of four classes: labels in `json`, or in `cls` with dots in the images' names."""
    files = {}
    for i in range(8):
        files[f"{i:05}.jpg" if label == "json" else f"{i:05}.input.jpg"] = encoded(picture(i), "JPEG")
        files[f"{i:05}.{label}"] = json.dumps({"label": i % 4}).encode() if label == "json" else b"%d" % (i % 4)
    return files
