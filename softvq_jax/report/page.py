"""Pieces of a self-contained HTML page: its frame and style, tables, pictures as data."""

import base64
import html
import io
import pathlib
from collections.abc import Iterable, Sequence

from PIL import Image

EMBEDDED_BYTES = 300_000  # larger pictures are recompressed
WIDEST = 1800  # pixels

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1c2024; --soft: #5b6470; --rule: #dfe2e6;
  --s0: #1f6fb4; --s1: #c2541d; --s2: #2b8056; --s3: #8a4fb0; --warn: #8a5a00; --warn-page: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1d2125; --ink: #e8eaed; --soft: #a3adb8;
  --rule: #363c43; --s0: #6db3f2; --s1: #f2995c; --s2: #6fcf9a; --s3: #c79be8; --warn: #ffd479;
  --warn-page: #3a2f14; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main, header { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; } h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 20px 0 8px; } p { margin: 4px 0 12px; max-width: 75ch; } .soft { color: var(--soft); }
a { color: var(--s0); } nav { margin-bottom: 20px; } nav a { margin-right: 16px; }
.cards, .charts { display: grid; gap: 14px; } .cards { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.charts { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.card, .chart { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px;
  margin: 0; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; } .card span { color: var(--soft); }
.chart figcaption { font-weight: 600; font-size: 14px; display: flex; justify-content: space-between; gap: 8px; }
.chart .last { font-variant-numeric: tabular-nums; color: var(--soft); font-weight: 400; }
.legend { font-weight: 400; } .key { margin-left: 10px; } .key::before { content: "\\25CF\\00A0"; }
svg { display: block; width: 100%; height: auto; } svg text { font: 10.5px system-ui, sans-serif; fill: var(--soft); }
.rule { stroke: var(--rule); } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.s0 { stroke: var(--s0); color: var(--s0); } .s1 { stroke: var(--s1); color: var(--s1); }
.s2 { stroke: var(--s2); color: var(--s2); } .s3 { stroke: var(--s3); color: var(--s3); }
.dot { fill: currentColor; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
td.number { text-align: right; } thead th { color: var(--soft); font-weight: 500; } tbody th { font-weight: 400; }
td { overflow-wrap: anywhere; }
.picture { margin: 0 0 16px; } .picture img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.picture.small img { image-rendering: pixelated; width: min(100%, 720px); }
.picture figcaption { color: var(--soft); margin-bottom: 6px; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--s0); }
.warning { background: var(--warn-page); color: var(--warn); border-radius: 6px; padding: 8px 12px; margin: 0 0 8px; }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document that refers to nothing outside itself."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page under a heading that links reach as `#name`; nothing where there are no parts."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{name}"><h2>{html.escape(title)}</h2>\n{content}\n</section>' if content else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table whose first column names the rows; columns of numbers, as written, are aligned to the right."""
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{_row(row)}</tr>" for row in rows)
    label = html.escape(caption, quote=True)
    return (
        f'<div class="scroll"><table aria-label="{label}">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells):
    first, *rest = cells
    return f'<th scope="row">{html.escape(first)}</th>' + "".join(
        f"<td{' class=number' if _is_number(cell) else ''}>{html.escape(cell)}</td>" for cell in rest
    )


def _is_number(text):
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def picture(path: pathlib.Path, caption: str, description: str) -> str:
    """A picture embedded in the page.

    Args:
      caption: shown above it.
      description: said instead of it to who cannot see it.
    """
    kind, content, (width, height) = _encoded(path)
    data = base64.b64encode(content).decode()
    small = " small" if width < 720 else ""
    return (
        f'<figure class="picture{small}"><figcaption>{html.escape(caption)}</figcaption>'
        f'<img src="data:image/{kind};base64,{data}" width="{width}" height="{height}" '
        f'alt="{html.escape(description, quote=True)}"></figure>'
    )


def _encoded(path):
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if len(content) <= EMBEDDED_BYTES and image.width <= WIDEST:
            return "png", content, image.size
        shrunk = image.convert("RGB")
        shrunk.thumbnail((WIDEST, WIDEST * 4), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shrunk.save(buffer, "webp", quality=90)
    return "webp", buffer.getvalue(), shrunk.size


def disclosure(summary: str, *parts: str) -> str:
    """Parts that are folded away at first; nothing where there are none."""
    content = "\n".join(part for part in parts if part)
    return f"<details><summary>{html.escape(summary)}</summary>\n{content}\n</details>" if content else ""
