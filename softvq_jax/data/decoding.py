"""Decodes image files: the one place that opens images, for training and for every command.

Only `FORMATS` are opened, whatever the ending of a file: Pillow would start Ghostscript for an EPS file named `a.jpg`.
"""

import contextlib
import dataclasses
import io
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from softvq_jax.config.data import BACKGROUND

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Endings of the files that are images, in upper or lower case."""
MAX_PIXELS = 300_000_000  # more than any camera's; such an image takes 1.2 GB as RGB

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """An image cannot be read.

    Attributes:
      where: the file, record or example.
      reason: the error.
    """

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self):
        return f"{self.where}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How image files become 8-bit RGB.

    Attributes:
      exif: "apply" turns images upright as their EXIF orientation says; "ignore" leaves the pixels as they are stored.
      background: color under transparent pixels, a name or "#rrggbb"; "ignore" drops the alpha channel, as ADM does.
      max_pixels: larger images are unreadable.

    Raises:
      ValueError: `exif` or `background` is none of these.
    """

    exif: str = "apply"
    background: str = "white"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self):
        if self.exif not in ("apply", "ignore"):
            raise ValueError(f"data.exif={self.exif!r}: expected 'apply' or 'ignore'")
        if not BACKGROUND.check(self.background):
            raise ValueError(f"data.background={self.background!r}: expected {BACKGROUND.text}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Decoding":
        """The fields of a `data` section; those that it lacks have their defaults."""
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls) if field.name in config})

    def describe(self) -> str:
        """The settings that change pixels and are not the defaults, in words; "" if there are none."""
        words = ["EXIF orientation ignored"] if self.exif == "ignore" else []
        words += [f"background {self.background}"] if self.background != DEFAULT.background else []
        return ", ".join(words)


DEFAULT = Decoding()


def decode(encoded: bytes, where: str, decoding: Decoding = DEFAULT) -> Image.Image:
    """Decodes the bytes of an image file completely: upright, 8-bit RGB.

    Raises:
      UnreadableImage: it is damaged, too large, or not of one of `FORMATS`; names `where`.
    """
    with _unreadable(where):
        return to_rgb(_open(encoded, decoding), decoding)


def decode_as_stored(encoded: bytes, where: str, decoding: Decoding = DEFAULT) -> Image.Image:
    """Decodes as `decode` does, but keeps the image's own mode."""
    with _unreadable(where):
        return _open(encoded, decoding)


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says; without one, the same object."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data, which raise a dozen types, do not matter to the pixels
        return image
    transpose = _TRANSPOSES.get(orientation)  # type: ignore[arg-type]
    if transpose is None:
        return image
    turned = image.transpose(transpose)
    turned.info.pop("exif", None)  # what is written from it must not be turned again
    return turned


def to_rgb(image: Image.Image, decoding: Decoding = DEFAULT) -> Image.Image:
    """Returns the image in mode RGB, without turning it.

    Transparent pixels are blended on `decoding.background`. Gray is repeated, CMYK and palettes are converted by Pillow.
    Of 16-bit gray the high byte is kept, which Pillow would clip to white.

    Raises:
      ValueError: the pixels are floating-point numbers of unknown range.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known: convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    if decoding.background != "ignore" and image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, ImageColor.getcolor(decoding.background, "RGB"))
        canvas.paste(image, mask=image)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _open(encoded: bytes, decoding: Decoding) -> Image.Image:
    with _without_pillow_limit():
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > decoding.max_pixels:
            raise ValueError(
                f"{image.width:,} x {image.height:,} pixels are more than data.max_pixels={decoding.max_pixels}"
            )
        if image.format == "PNG":
            check_png(encoded)
        image.load()  # exact: `draft`, which shrinks a JPEG while decoding, would change the crops
    return upright(image) if decoding.exif == "apply" else image


def check_png(encoded: bytes) -> None:
    """Checks the checksums of a PNG file's pixel data, which Pillow does not; raises ValueError where they differ.

    It takes 2 % of the time of decoding.
    """
    content, start = memoryview(encoded), len(PNG_SIGNATURE)
    while start + 12 <= len(content):
        size, kind = int.from_bytes(content[start : start + 4]), bytes(content[start + 4 : start + 8])
        end = start + 8 + size
        if kind == b"IEND":
            return
        if (
            kind == b"IDAT"
            and end + 4 <= len(content)
            and zlib.crc32(content[start + 4 : end]) != int.from_bytes(content[end : end + 4])
        ):
            raise ValueError("the checksum of its pixels does not match them")
        start = end + 4


@contextlib.contextmanager
def _unreadable(where: str) -> Iterator[None]:
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow raises a dozen types on broken files; MemoryError is among them
        reason = str(error)
        if isinstance(error, Image.UnidentifiedImageError):
            reason = f"not an image of the formats {', '.join(FORMATS)}"
        raise UnreadableImage(where, f"{type(error).__name__}: {reason}") from None


_limit_lock, _limit_users, _pillow_limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Disables Pillow's own pixel limit, which is global, while any thread is inside; `max_pixels` replaces it."""
    global _limit_users, _pillow_limit
    with _limit_lock:
        if not _limit_users:
            _pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if not _limit_users:
                Image.MAX_IMAGE_PIXELS = _pillow_limit
