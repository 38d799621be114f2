"""What a server of galleries needs: search by name, an address to listen on, and a clean stop."""

import logging
import math
import os
import signal
import socket
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..loading import load_retriever
from .base import check_range
from .explain import Matches
from .gallery import Gallery
from .own_photos import OwnPhotos
from .photos import photo_in_work
from .result import Result

OWN_PHOTOS = "My own photos"
MAX_OWN_PHOTOS = 200
MAX_RESULTS = 50
MAX_WORDS = 200
SKETCH_PIXELS = 4_000_000
_DEMO_GALLERY = "runs/demo/gallery"


class Finder:
    """Searches galleries by name. It keeps nothing of a visitor, whose own photos are passed in at every call.

    Args:
        galleries: by the name shown; the first is the default.
    """

    def __init__(self, galleries: dict[str, Gallery]):
        self.galleries = galleries

    @classmethod
    def open(cls, folders: Sequence[str], model: str | None = None) -> "Finder":
        """Open galleries by folder or Hub id, and their models; a model that several were built with is loaded once.

        Args:
            folders: at least one.
            model: name of the model; default: of each gallery the one that it was built with.

        Raises:
            FileNotFoundError, ValueError, OSError: in one sentence, as `Gallery.open`.
        """
        pair = load_retriever(model) if model else None
        opened: dict[str, Gallery] = {}
        loaded: dict[str, tuple[Any, Any]] = {}
        for folder in folders:
            gallery = Gallery.open(folder, pair)
            fingerprint = gallery.manifest["fingerprint"]
            if fingerprint in loaded:
                gallery.use(loaded[fingerprint])
            loaded[fingerprint] = gallery.model, gallery.processor
            name = Path(folder).resolve().name if os.path.isdir(folder) else folder
            opened[str(folder) if name in opened else name] = gallery
        return cls(opened)

    def titles(self) -> list[tuple[str, str]]:
        """Return two texts for each gallery: its name, size and model for a visitor to read, and its name alone."""
        galleries = self.galleries.items()
        return [(f"{name} ({len(it)} photos, {Path(it.manifest['model']).name})", name) for name, it in galleries]

    def choose(self, name: str | None, own: OwnPhotos | None) -> Gallery:
        """Return a gallery by name; the first one without a name."""
        if name == OWN_PHOTOS:
            if own is None or own.gallery is None:
                raise ValueError("There are no photos of your own (uploads are deleted after an hour): upload some.")
            return own.gallery
        if name and name not in self.galleries:
            raise ValueError(f"There is no gallery '{name}', only {', '.join(self.galleries)}.")
        return self.galleries[name] if name else next(iter(self.galleries.values()))

    def is_blank(self, sketch: Image.Image | None) -> bool:
        """Return whether nothing is drawn."""
        return sketch is None or self.choose(None, None).processor.is_blank(sketch)

    def remark(self, sketch: Image.Image | None) -> str:
        """Return a line about a sketch that is inverted or does not look drawn; "" otherwise."""
        return "" if self.is_blank(sketch) else self.choose(None, None).processor.remark(sketch)

    def search(
        self,
        sketch: Image.Image | None,
        words: str | None,
        weight: float,
        name: str | None,
        k: float,
        own: OwnPhotos | None = None,
        like: float | None = None,
    ) -> list[Result]:
        """Find photos by a sketch, words, a photo that was found, or any of these together.

        A photo that was found counts as much as the sketch: the score is the mean of a photo's cosines with both, and
        words are weighted against this mean as `Gallery.search` says. This is our choice.

        Args:
            k: is cut to 1..`MAX_RESULTS`.
            like: row of the photo that was found; it is left out of the answer.

        Raises:
            ValueError: in one sentence, if there is nothing to search for, the gallery or the row does not exist, or
                `weight` or `k` is not a number.
        """
        check_range("weight", weight, 0, 1)
        gallery, text, count = self.choose(name, own), (words or "").strip()[:MAX_WORDS], _count(k)
        sketch = None if self.is_blank(sketch) else sketch
        if like is not None:
            return _refined(gallery, _row(gallery, like), sketch, text, weight, count)
        if sketch is None and not text:
            raise ValueError("Nothing is drawn yet: draw the outline of a thing, upload a sketch, or write words.")
        return gallery.search(sketch, count, text or None, text_weight=weight)

    def similar(self, row: float, name: str | None, k: float, own: OwnPhotos | None = None) -> list[Result]:
        """Find photos like the one in this row of a gallery."""
        gallery = self.choose(name, own)
        return gallery.similar(gallery.result(_row(gallery, row)), _count(k))

    def explain(
        self, sketch: Image.Image | None, row: float, name: str | None, own: OwnPhotos | None = None
    ) -> Matches:
        """Return which parts of a sketch and of the photo in a row of a gallery resemble each other.

        Raises:
            ValueError: in one sentence, if nothing is drawn, or the gallery or the row does not exist.
        """
        gallery = self.choose(name, own)
        photo = gallery.result(_row(gallery, row))
        if sketch is None:
            raise ValueError("Nothing is drawn yet: draw the outline of a thing, or upload a sketch.")
        return gallery.explain(sketch, photo)

    def index(self, files: Sequence[str], name: str | None, max_pixels: int, own: OwnPhotos | None = None) -> OwnPhotos:
        """Make a visitor's photos searchable, with the model of a gallery.

        Args:
            own: the visitor's earlier photos, which stay, with their model; default: there are none.

        Raises:
            ValueError: in one sentence that does not name the server's files, if there are none or too many, or none
                can be read.
        """
        count = len(files or []) + (len(own.files) if own else 0)
        if not files or count > MAX_OWN_PHOTOS:
            raise ValueError(f"Upload 1 to {MAX_OWN_PHOTOS} photos, not {count}.")
        like = own.gallery if own and own.gallery else self.choose(None if name == OWN_PHOTOS else name, None)
        photos = own or OwnPhotos.empty()
        try:
            photos.add(files, like.model, like.processor, max_pixels)
        except ValueError as error:
            photos.delete()
            raise ValueError("None of the photos can be read: upload JPEG, PNG or WebP files.") from error
        return photos


def chosen_galleries(folders: Sequence[str] | None) -> list[str]:
    """Return the galleries to open, by folder or Hub id; none where nothing names one.

    Args:
        folders: default: those in the environment variable SPLIP_GALLERY, separated by commas, otherwise the one that
            `make demo` leaves.
    """
    hosted = [name.strip() for name in os.environ.get("SPLIP_GALLERY", "").split(",") if name.strip()]
    return list(folders or hosted or ([_DEMO_GALLERY] if os.path.isdir(_DEMO_GALLERY) else []))


def _row(gallery: Gallery, row: float) -> int:
    if not gallery.holds(row):
        raise ValueError(f"Row {row!r} is not in this gallery of {len(gallery)} photos.")
    return int(row)


def _refined(gallery: Gallery, row: int, sketch: Image.Image | None, text: str, weight: float, k: int) -> list[Result]:
    """Return the photos nearest to the one in a row, and to a sketch and words where there are any."""
    query = gallery.vectors(np.array([row]))  # (1, D)
    if sketch is not None:
        query = (query + gallery.encode([sketch])) / 2
    if text:
        query = (1 - weight) * query + weight * gallery.encode_text([text])
    return [result for result in gallery.search_vectors(query, k + 1)[0] if result.row != row][:k]


def read_sketch(source: str | bytes, max_pixels: int) -> Image.Image:
    """Decode an uploaded sketch; one of more than `SKETCH_PIXELS` is made smaller, as several may wait for the model.

    Args:
        source: its file, or its content.

    Raises:
        ValueError: in one sentence that does not name the server's file, if it is no image or has too many pixels.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        with photo_in_work(content, max_pixels) as image:
            factor = math.ceil(math.sqrt(image.width * image.height / SKETCH_PIXELS))
            return image.reduce(factor) if factor > 1 else image
    except Exception as error:  # a decoder may raise anything on damaged data
        raise ValueError(f"The sketch is no readable image of at most {max_pixels:,d} pixels: send another.") from error


def _count(k: float) -> int:
    if not isinstance(k, Real) or k != k:
        raise ValueError(f"k must be a number from 1 to {MAX_RESULTS}, got {k!r}.")
    return int(max(1, min(k, MAX_RESULTS)))


def check_address(host: str, port: int | None) -> None:
    """Check that a server can listen, before Gradio tries a hundred ports and prints an error for each.

    Args:
        port: None for any that is free.

    Raises:
        ValueError: if there is no such port.
        OSError: if it is taken, or the host is not this machine.
    """
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"--port must be in [1, 65535], got {port}.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        place = f"'{host}'" if port is None else f"port {port} of '{host}'"
        raise OSError(f"Cannot listen on {place} ({error.strerror}): pass another --host or --port.") from error


def stop_on_signals() -> None:
    """Let SIGTERM end the main thread as Ctrl-C does, so that everything temporary is deleted."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, _stop)


def _stop(*_: Any) -> None:
    logging.getLogger("uvicorn.error").disabled = True  # it would print a traceback for every page that is open
    raise KeyboardInterrupt
