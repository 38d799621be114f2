"""One photo that a search found."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..image_files import open_image, upright_rgb

# Our thumbnails have fewer pixels. A larger one, in a gallery from elsewhere, is refused before it is decoded.
_THUMBNAIL_PIXELS = 1 << 20


@dataclass(frozen=True)
class Result:
    """One photo found.

    Attributes:
        path: the photo's file, absolute where the gallery was built from a folder; in a dataset `split/number`.
        score: in [-1, 1], higher is better: the cosine of query and photo; with words as `Gallery.search` says.
        label: its class, "" where unknown.
        row: its number in the gallery.
        metadata: the other columns.
    """

    path: str
    score: float
    label: str
    row: int
    metadata: dict[str, Any] = field(repr=False)
    _thumbnail: Callable[[], bytes] = field(repr=False, compare=False)

    @property
    def thumbnail(self) -> Image.Image:
        """The photo at 256 pixels, from the gallery: the original file is not needed."""
        return upright_rgb(open_image(self.thumbnail_bytes, _THUMBNAIL_PIXELS))

    @property
    def thumbnail_bytes(self) -> bytes:
        """The thumbnail as JPEG."""
        return self._thumbnail()

    def as_dict(self) -> dict[str, Any]:
        """Return path, score, label and metadata as JSON values; metadata named like one of the others is left out."""
        own = {"path": self.path, "score": json_value(round(self.score, 6)), "label": self.label}
        return own | {name: json_value(value) for name, value in self.metadata.items() if name not in own}

    def as_public_dict(self) -> dict[str, Any]:
        """Return row, score, label and the file's name as JSON values: the folders above it are the server's own."""
        score = json_value(round(self.score, 6))
        return {"row": self.row, "score": score, "label": self.label, "name": Path(self.path).name}


def json_value(value: Any) -> Any:
    """Return a column's value as JSON holds it: NaN and infinity as null, dates and the like as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
