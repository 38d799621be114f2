"""What every gallery can be asked, wherever its photos are stored: to encode queries by its model, and to search."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from threading import Lock
from typing import Any

import numpy as np
import torch

from ..loading import load_retriever
from ..processing_splip import rgb_in_work, say
from .confidence import FIRST, share_beaten
from .explain import Matches, explain
from .result import Result

_BATCH = 32


class SearchableGallery(ABC):
    """Photos encoded by one model. Searching is safe from several threads.

    Attributes:
        name: the folder, or the name on the server; for messages.
        manifest: model, fingerprint, dim, count, index, unreadable photos.
    """

    def __init__(self, name: str, manifest: dict[str, Any]):
        self.name = name
        self.manifest = manifest
        self._pair: tuple[Any, Any] | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return self.manifest["count"]

    def holds(self, row: float) -> bool:
        """Return whether a row is one of this gallery's photos."""
        return row in range(len(self))

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The columns that `where` can filter on."""

    @abstractmethod
    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return stored embeddings (M, D) of rows (M,)."""

    @abstractmethod
    def nearest(self, queries: np.ndarray, k: int, where: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the k largest dot products, (Q, k), highest first; row -1 where there are fewer."""

    @abstractmethod
    def results(self, rows: Sequence[int], scores: Sequence[float]) -> list[Result]:
        """Return photos by their rows."""

    def model_folder(self) -> str:
        """Return the name or folder of the model to load."""
        return self.manifest["model"]

    @property
    def model(self) -> Any:
        """The model that encodes queries; loaded when first needed."""
        return self._loaded()[0]

    @property
    def processor(self) -> Any:
        """The model's processor; loaded when first needed."""
        return self._loaded()[1]

    def _loaded(self) -> tuple[Any, Any]:
        with self._lock:
            if self._pair is None:
                self.use(self.model_folder())
            assert self._pair is not None
            return self._pair

    def use(self, model: str | tuple[Any, Any]) -> None:
        """Search with this model from now on.

        Args:
            model: its name, or the loaded model with its processor.

        Raises:
            ValueError: if the photos were encoded by another model.
        """
        pair = load_retriever(model) if isinstance(model, str) else model
        found, expected = pair[0].fingerprint(pair[1]), self.manifest["fingerprint"]
        if found != expected:
            name = model if isinstance(model, str) else getattr(model[0], "name_or_path", "") or "the model passed"
            raise ValueError(
                f"Gallery '{self.name}' was built with model '{self.manifest['model']}' (fingerprint {expected}); "
                f"'{name}' is another (fingerprint {found}): pass that model, or index the photos again with this one."
            )
        self._pair = pair[0].for_search(), pair[1]

    def encode(self, images: Sequence[Any], modality: str = "sketch") -> np.ndarray:
        """Return embeddings (Q, D) of sketches or photos: PIL images, paths or arrays.

        Raises:
            ValueError: if a sketch is blank or no image.
        """
        model, processor = self._loaded()
        if not images:
            raise ValueError("The list of sketches is empty: pass at least one.")
        batches = []
        for start in range(0, len(images), _BATCH):
            batch = []
            for number, image in enumerate(images[start : start + _BATCH], start + 1):
                with rgb_in_work(image) as rgb:
                    if modality == "sketch" and processor.is_blank(rgb):
                        name = f"'{image}'" if isinstance(image, str | os.PathLike) else number
                        raise ValueError(f"Nothing is drawn on sketch {name}: draw the outline of a thing.")
                    if modality == "sketch" and (remark := processor.remark(rgb)):
                        say(remark)
                    batch.append(processor(images=[rgb], modality=modality)["pixel_values"])
            pixel_values = torch.cat(batch)  # (B, 3, H, W)
            batches.append(model.encode(pixel_values.to(model.device), modality).cpu().numpy())
        return np.concatenate(batches)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return embeddings (Q, D) of words by CLIP's text tower.

        Raises:
            ValueError: if a text is empty or no string, or the model keeps no text tower.
        """
        model, processor = self._loaded()
        for text in texts:
            if not isinstance(text, str):
                raise ValueError(f"text must be a string such as 'red', got {text!r}.")
        if any(not text.strip() for text in texts):
            raise ValueError("The words are empty: pass what the photo shows, such as 'red', or leave them out.")
        if not hasattr(model, "encode_text"):
            raise ValueError(
                f"Model '{self.manifest['model']}' has no text tower (it is folded, or an ONNX file): search without "
                "words."
            )
        inputs = {name: tensor.to(model.device) for name, tensor in processor(text=list(texts)).items()}
        return model.encode_text(**inputs).cpu().numpy()

    def search(
        self,
        sketch: Any = None,
        k: int = 10,
        text: str | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        text_weight: float = 0.5,
        collapse: float | None = None,
    ) -> Any:
        """Find the photos nearest to a sketch, to words, or to both.

        A photo's score is its cosine with the sketch. With words it is `(1 - text_weight) * cosine with the sketch +
        text_weight * cosine with the words`; this formula is our choice.

        Args:
            sketch: a PIL image, path or array; or a list of them; None to search by words alone.
            k: number of photos wanted.
            text: what the photo shows, beside the sketch.
            where: column -> allowed value or list of them, read as the column's type. A filtered search is exact.
            text_weight: in [0, 1].
            collapse: of photos whose cosine with each other is at least this, such as 0.95, show only the best one.

        Returns:
            At most k `Result`, best first; for a list of sketches, a list of such lists.

        Raises:
            ValueError: in one sentence, if a sketch is blank or unreadable, or an argument is out of range.
        """
        check_range("text_weight", text_weight, 0, 1)
        several = isinstance(sketch, list | tuple)
        queries = self.encode(sketch if several else [sketch]) if sketch is not None else None  # (Q, D)
        if text is not None:
            words = self.encode_text([text])  # (1, D)
            queries = words if queries is None else (1 - text_weight) * queries + text_weight * words
        if queries is None:
            raise ValueError("There is nothing to search for: pass a sketch, words or both.")
        found = self.search_vectors(queries, k, where, collapse=collapse)
        return found if several else found[0]

    def similar(self, photo: Result | Any, k: int = 10, where: Mapping[str, Any] | None = None) -> list[Result]:
        """Find the photos nearest to any image, or to one of this gallery's results, which itself is left out."""
        _check_count(k)
        if not isinstance(photo, Result):
            return self.search_vectors(self.encode([photo], "photo"), k, where)[0]
        if not self.holds(photo.row):
            raise ValueError(f"Row {photo.row} is not in this gallery of {len(self)} photos.")
        query = self.vectors(np.array([photo.row]))  # (1, D)
        found = self.search_vectors(query, k + 1, where)[0]
        return [result for result in found if result.row != photo.row][:k]

    def confidence(self, results: Sequence[Result]) -> float | None:
        """Return the share of random scribbles, in 0..1, that find less near photos here than these: a signal of doubt.

        Below `confidence.CONVINCING` the photos are no more convincing than those of a scribble.

        Args:
            results: of a search by a sketch alone, without a filter, best first.

        Returns:
            None for a gallery from before this was measured, and where there are fewer than three results.
        """
        facts, first = self.manifest.get("scribbles"), min(FIRST, len(self))
        if facts is None or len(results) < first:
            return None
        scores = np.array([result.score for result in results[:first]])
        return share_beaten(facts, scores, self.vectors(np.array([result.row for result in results[:first]])))

    def explain(self, sketch: Any, photo: Result | Any) -> Matches:
        """Return which parts of a sketch and of any photo, or of one of this gallery's results, the model sees alike.

        Of a result its thumbnail is taken, since the original file may be elsewhere.
        """
        model, processor = self._loaded()
        return explain(model, processor, sketch, photo.thumbnail if isinstance(photo, Result) else photo)

    def search_vectors(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        *,
        collapse: float | None = None,
    ) -> list[list[Result]]:
        """Find the photos of the largest dot products with queries (Q, D); the other arguments as in `search`.

        Raises:
            ValueError: in one sentence, if an argument is out of range or queries have another width.
        """
        _check_count(k)
        if collapse is not None:
            check_range("collapse", collapse, -1, 1)
        for name in where or {}:
            if name not in self.columns:
                raise ValueError(f"The gallery has no column '{name}' to filter on, only {', '.join(self.columns)}.")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.manifest["dim"]:
            raise ValueError(f"queries must have shape (Q, {self.manifest['dim']}), got {queries.shape}.")
        wanted = min(k if collapse is None else 4 * k, len(self))
        while True:
            scores, found = self.nearest(queries, wanted, where)
            kept = [self._distinct(row[row >= 0], k, collapse) for row in found]
            # One round is enough without collapsing, or when there are no further photos.
            exhausted = wanted == len(self) or (found < 0).any(axis=1).all() or found.shape[1] < wanted
            if collapse is None or exhausted or all(len(positions) == k for positions in kept):
                break
            wanted = min(4 * wanted, len(self))
        scores = np.clip(scores, -1, 1)
        return [
            self.results(found[query, positions].tolist(), scores[query, positions].tolist())
            for query, positions in enumerate(kept)
        ]

    def _distinct(self, rows: np.ndarray, k: int, collapse: float | None) -> list[int]:
        """Return the first k positions in `rows`, best first, without photos that resemble a better one too closely."""
        if collapse is None:
            return list(range(min(k, len(rows))))
        vectors = self.vectors(rows)  # (M, D)
        kept: list[int] = []
        for position in range(len(rows)):
            if len(kept) < k and not (vectors[kept] @ vectors[position] >= collapse).any():
                kept.append(position)
        return kept


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError in one sentence unless a number lies in [low, high]."""
    if not isinstance(value, Real) or not low <= value <= high:  # also false for NaN
        raise ValueError(f"{name} must be in [{low}, {high}], got {value!r}.")


def _check_count(k: Any) -> None:
    if not isinstance(k, Integral) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}.")
