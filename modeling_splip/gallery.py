"""A folder of photos that can be searched by drawing: build, open, search."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.search import FaissIndex

from .gallery_build import BuildReport, build_gallery
from .gallery_index import build_index, load_index, save_index, search_rows
from .gallery_result import Result
from .gallery_table import HEAVY_COLUMNS, INDEX_FILE, TableReader, local_folder, read_manifest
from .processing_splip import to_rgb
from .registry import load_retriever

_BATCH = 32
_HIDDEN = ("path", "label", "sha256", "size", "mtime_ns")


class Gallery:
    """Photos, their embeddings by one model, and an index. Searching is safe from several threads.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` says: model, fingerprint, dim, count, index, unreadable photos.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], reader: TableReader, index: FaissIndex):
        self.folder = folder
        self.manifest = manifest
        self.index = index
        self._reader = reader
        light = [name for name in reader.names if name not in HEAVY_COLUMNS]
        self._light = reader.columns(light)
        self._model: tuple[Any, Any] | None = None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._reader)

    @classmethod
    def build(cls, photos: Any, model: Any, processor: Any, out: str | os.PathLike, **options: Any) -> "Gallery":
        """Encode photos into a gallery folder, or bring one up to date, and open it.

        Photos that are as they were are not encoded again, photos that are gone are removed, and a file that cannot be
        read is left out and named in `manifest["unreadable"]`. A build that was interrupted leaves the former gallery
        as it was, and goes on where it stopped when it is run again.

        Args:
            photos: a folder (searched recursively; a photo's sub-folder is its label), a prepared dataset's folder (its
                gallery split), a Hub id, a list of files, or a `datasets.Dataset` with an image column.
            model: a retrieval model, on the device where it shall run.
            processor: its processor.
            out: the gallery folder: new, empty, or a gallery.
            **options: `model_name` (to find the model again; default: where it was loaded from), `split` (of a
                dataset), `index` ("auto" by size, "exact", "hnsw" or "ivf"), `batch_size`, `workers` (threads that
                decode), `max_pixels` (of one photo), `progress`.

        Raises:
            FileNotFoundError, ValueError, OSError: in one sentence, if there are no photos, none can be read, or `out`
                cannot be written; nothing is left behind then.
        """
        build_gallery(photos, model, processor, out, **options)
        return cls.open(out, (model, processor))

    @classmethod
    def open(cls, folder: str | os.PathLike, model: str | tuple[Any, Any] | None = None) -> "Gallery":
        """Open a gallery.

        Args:
            folder: as `build` wrote it, here or on another machine; or the Hub id of a dataset repository with one.
            model: the name of a model, or a loaded model with its processor; default: the one that the manifest names,
                loaded at the first search.

        Raises:
            FileNotFoundError: if there is no finished gallery.
            OSError: if it does not come from the Hub.
            ValueError: if it is damaged, or was built with another model.
        """
        folder = local_folder(folder)
        manifest = read_manifest(folder)
        data = folder / manifest["data"]
        try:
            reader = TableReader(sorted(data.glob("photos-*.parquet")))
            if len(reader) != manifest["count"] or not reader.names:
                raise ValueError(f"{len(reader)} rows, {manifest['count']} expected")
            index = _open_index(data / INDEX_FILE, reader, manifest)
        except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
            raise ValueError(f"Gallery '{folder}' is damaged ({error}): build it again with `splip index`.") from error
        gallery = cls(folder, manifest, reader, index)
        if model is not None:
            gallery._use(model)
        return gallery

    @property
    def model(self) -> tuple[Any, Any]:
        """Model and processor; loaded when first needed."""
        with self._lock:
            if self._model is None:
                beside = self.manifest.get("model_beside")
                here = self.folder / beside if beside else None
                self._use(str(here) if here is not None and here.is_dir() else self.manifest["model"])
            assert self._model is not None
            return self._model

    def _use(self, model: str | tuple[Any, Any]) -> None:
        pair = load_retriever(model) if isinstance(model, str) else model
        found, expected = pair[0].fingerprint(pair[1]), self.manifest["fingerprint"]
        if found != expected:
            name = model if isinstance(model, str) else getattr(model[0], "name_or_path", "") or "the model passed"
            raise ValueError(
                f"Gallery '{self.folder}' was built with model '{self.manifest['model']}' (fingerprint {expected}); "
                f"'{name}' is another (fingerprint {found}): pass that model, or index the photos again with this one."
            )
        self._model = pair

    @property
    def columns(self) -> list[str]:
        """The columns that `where` can filter on."""
        return self._light.column_names

    def labels(self) -> list[str]:
        """Return the classes that occur, sorted."""
        return sorted(label for label in pc.unique(self._light["label"]).to_pylist() if label)

    def encode(self, images: Sequence[Any], modality: str = "sketch") -> np.ndarray:
        """Return embeddings (Q, D) of sketches or photos: PIL images, paths or arrays.

        Raises:
            ValueError: if a sketch is blank or no image.
        """
        model, processor = self.model
        if not images:
            raise ValueError("The list of sketches is empty: pass at least one.")
        batches = []
        for start in range(0, len(images), _BATCH):
            batch = [to_rgb(image) for image in images[start : start + _BATCH]]
            for number, image in enumerate(batch, start):
                if modality == "sketch" and processor.is_blank(image):
                    name = f"'{images[number]}'" if isinstance(images[number], str | os.PathLike) else number + 1
                    raise ValueError(f"Nothing is drawn on sketch {name}: draw the outline of a thing.")
            pixel_values = processor(images=batch, modality=modality)["pixel_values"]  # (B, 3, H, W)
            batches.append(model.encode(pixel_values.to(model.device), modality).cpu().numpy())
        return np.concatenate(batches)

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Return embeddings (Q, D) of words by CLIP's text tower.

        Raises:
            ValueError: if a text is empty, or the model keeps no text tower.
        """
        model, processor = self.model
        if any(not text.strip() for text in texts):
            raise ValueError("The words are empty: pass what the photo shows, such as 'red', or leave them out.")
        if not hasattr(model, "encode_text"):
            raise ValueError(
                f"Model '{self.manifest['model']}' has no text tower (it is folded): search without words."
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

        The score of a photo is its cosine with the sketch; with words, `(1 - text_weight) * cosine with the sketch +
        text_weight * cosine with the words` (ours).

        Args:
            sketch: a PIL image, path or array; or a list of them; None to search by words alone.
            k: number of photos wanted.
            text: what the photo shows, beside the sketch.
            where: column -> value, or list of allowed values; compared as text. A filtered search is exact.
            text_weight: in [0, 1].
            collapse: show only the best of near-duplicates: photos whose cosine is at least this, such as 0.95.

        Returns:
            At most k `Result`, best first; for a list of sketches, a list of such lists.

        Raises:
            ValueError: in one sentence, if a sketch is blank or unreadable, or an argument is out of range.
        """
        if not 0 <= text_weight <= 1:
            raise ValueError(f"text_weight must be in [0, 1], got {text_weight}.")
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
        """Find the photos nearest to a photo: one of this gallery's results, without itself, or any image."""
        if not isinstance(photo, Result):
            return self.search_vectors(self.encode([photo], "photo"), k, where)[0]
        if not 0 <= photo.row < len(self):
            raise ValueError(f"Row {photo.row} is not in this gallery of {len(self)} photos.")
        query = self.index.faiss_index.reconstruct(photo.row)[None]  # (1, D)
        found = self.search_vectors(query, k + 1, where)[0]
        return [result for result in found if result.row != photo.row][:k]

    def result(self, row: int, score: float = 1.0) -> Result:
        """Return one photo by its row."""
        values = self._light.slice(row, 1).to_pylist()[0]
        path = str(Path(self.manifest["root"]) / values["path"]) if self.manifest["root"] else values["path"]
        metadata = {name: value for name, value in values.items() if name not in _HIDDEN}
        return Result(path, score, values["label"] or "", row, metadata, self._reader)

    def search_vectors(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: Mapping[str, Any] | None = None,
        *,
        collapse: float | None = None,
    ) -> list[list[Result]]:
        """Find the photos of the largest dot products with queries (Q, D); the other arguments as in `search`."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        rows = self._allowed(where)
        available = len(self) if rows is None else len(rows)
        if available == 0:
            return [[] for _ in queries]
        wanted = min(k if collapse is None else 4 * k, available)
        while True:
            if rows is None:
                scores, found = self.index.search_batch(queries, wanted)
            else:
                scores, found = search_rows(self.index, queries, wanted, rows)
            kept = [self._distinct(row[row >= 0], collapse)[:k] for row in found]
            if wanted == available or all(len(positions) == k for positions in kept):
                break
            wanted = min(4 * wanted, available)
        return [
            [self.result(int(found[query, at]), float(np.clip(scores[query, at], -1, 1))) for at in positions]
            for query, positions in enumerate(kept)
        ]

    def _allowed(self, where: Mapping[str, Any] | None) -> np.ndarray | None:
        """Return the rows that a filter allows, (M,); None without a filter."""
        if not where:
            return None
        mask = np.ones(len(self), dtype=bool)
        for name, values in where.items():
            if name not in self.columns:
                raise ValueError(f"The gallery has no column '{name}' to filter on, only {', '.join(self.columns)}.")
            wanted = values if isinstance(values, list | tuple | set) else [values]
            text = pc.cast(self._light[name], pa.string())
            allowed = pc.is_in(text, value_set=pa.array([str(value) for value in wanted], pa.string()))
            mask &= allowed.to_numpy()
        return np.flatnonzero(mask)

    def _distinct(self, rows: np.ndarray, collapse: float | None) -> list[int]:
        """Return the positions in `rows`, best first, without those nearer than `collapse` to a better one."""
        if collapse is None:
            return list(range(len(rows)))
        vectors = self.index.faiss_index.reconstruct_batch(rows.astype(np.int64))  # (M, D)
        near = vectors @ vectors.T >= collapse
        kept: list[int] = []
        for position in range(len(rows)):
            if not near[position, kept].any():
                kept.append(position)
        return kept


def _open_index(path: Path, reader: TableReader, manifest: dict[str, Any]) -> FaissIndex:
    """Read the index where this machine built it; otherwise rebuild it from the embeddings, and keep it if possible."""
    index = load_index(path)
    if index is not None:
        return index
    embeddings = reader.embeddings()
    if embeddings.shape != (manifest["count"], manifest["dim"]):
        raise ValueError(f"embeddings of shape {embeddings.shape}")
    index, _ = build_index(np.ascontiguousarray(embeddings), manifest["index"].get("kind", "exact"))
    try:
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        save_index(index, aside)
        os.replace(aside, path)
        os.replace(aside.with_name(aside.name + ".signature"), path.with_name(path.name + ".signature"))
    except OSError:  # a gallery that is read-only here is rebuilt in memory at every opening
        pass
    return index


__all__ = ["BuildReport", "Gallery", "Result"]
