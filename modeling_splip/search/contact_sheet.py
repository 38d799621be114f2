"""A page of search results that needs no other file."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from ..common.files import write_text
from .result import Result

_STYLE = """
:root{color-scheme:light dark;font:15px/1.45 system-ui,sans-serif}
body{max-width:1200px;margin:0 auto;padding:1rem}
section{margin:0 0 2.5rem}
h2{font-size:1rem;font-weight:600;overflow-wrap:anywhere}
.query{height:160px;max-width:100%;background:#fff;border:1px solid #8886;border-radius:8px}
ol{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px}
li img{width:100%;height:150px;object-fit:contain;background:#8881;border-radius:8px}
figure{margin:0}
figcaption{font-size:.8rem;overflow-wrap:anywhere}
"""


def write_contact_sheet(
    queries: Sequence[tuple[str, Image.Image | None]], results: Sequence[Sequence[Result]], path: Path
) -> None:
    """Write queries with their photos as one HTML file that includes the pictures. All names are escaped.

    Args:
        queries: what was searched for, in words, and its sketch where there was one.
        results: for every query its photos, best first.
        path: of the file; missing folders are made.

    Raises:
        OSError: if it cannot be written; nothing is left behind then.
    """
    sections = [_section(*query, found) for query, found in zip(queries, results, strict=True)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Photos found by drawing</title><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    try:
        write_text(path, page.encode("utf-8", "replace").decode())  # a path may hold what is no text
    except OSError as error:
        raise OSError(f"'{path}' cannot be written ({error.strerror}): pass another file.") from error


def _section(name: str, sketch: Image.Image | None, found: Sequence[Result]) -> str:
    picture = f'<img class="query" alt="The sketch" src="{_png(sketch)}">' if sketch is not None else ""
    items = "".join(_item(rank, result) for rank, result in enumerate(found, 1))
    return f"<section><h2>{escape(name)}</h2>{picture}<ol>{items}</ol></section>"


def _item(rank: int, result: Result) -> str:
    alt = f"Photo {rank}: {result.label or Path(result.path).name}"
    data = base64.b64encode(result.thumbnail_bytes).decode()
    label = f"{escape(result.label)}<br>" if result.label else ""
    return (
        f'<li><figure><img loading="lazy" alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{rank}. {result.score:.3f} {label}{escape(result.path)}</figcaption></figure></li>"
    )


def _png(image: Image.Image) -> str:
    small, encoded = image.copy(), io.BytesIO()
    small.thumbnail((512, 512))
    small.save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
