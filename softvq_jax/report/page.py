"""Self-contained HTML pages: jinja2 templates, and images embedded in the page."""

import base64
import dataclasses
import functools
import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import jinja2

EMBEDDED_BYTES = 300_000  # larger images are recompressed
WIDEST = 1800  # pixels; wider images are shrunk
SHARP_BELOW = 720  # pixels; narrower images are enlarged without smoothing


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
    """An image embedded in the page.

    Attributes:
      source: a `data:` URI.
      caption: caption above the image.
      alt: alt text for screen readers.
    """

    source: str
    width: int
    height: int
    caption: str
    alt: str

    @property
    def small(self) -> bool:
        """True if the page enlarges the image without smoothing, so that its pixels can be seen."""
        return self.width < SHARP_BELOW


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first column contains the names of the rows.

    Attributes:
      caption: name of the table for screen readers.
      quote: name of the row to quote in a paper; "" for none.
    """

    caption: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    quote: str = ""


def render(template: str, **values: Any) -> str:
    """Renders one of the package's templates."""
    return _environment().get_template(template).render(values)


def embed(path: pathlib.Path, caption: str, alt: str) -> EmbeddedImage:
    """Embeds a PNG file; large files are recompressed as WebP."""
    return _embed(path.read_bytes(), caption, alt)


def embed_array(image: np.ndarray, caption: str, alt: str) -> EmbeddedImage:
    """Embeds an image `[H, W, 3]` uint8, as `embed` does."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return _embed(buffer.getvalue(), caption, alt)


def _embed(content: bytes, caption: str, alt: str) -> EmbeddedImage:
    kind = "png"
    with Image.open(io.BytesIO(content)) as image:
        size = image.size
        if len(content) > EMBEDDED_BYTES or image.width > WIDEST:
            shrunk = image.convert("RGB")
            shrunk.thumbnail((WIDEST, WIDEST * 4), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            shrunk.save(buffer, "webp", quality=90)
            content, kind, size = buffer.getvalue(), "webp", shrunk.size
    data = base64.b64encode(content).decode()
    return EmbeddedImage(f"data:image/{kind};base64,{data}", *size, caption, alt)


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("softvq_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["numeric"] = _is_number
    return environment


def _is_number(text: str) -> bool:
    if text == "infinite":
        return True
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
