"""A gallery in a folder: build it, open it, search it."""

import contextlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.search import FaissIndex

from ..common.text import composed
from .base import SearchableGallery
from .build import build_gallery
from .index import search_rows
from .index_cache import open_index
from .result import Result
from .table import DAMAGED, HEAVY_COLUMNS, TableReader, local_folder, model_place, read_manifest

_HIDDEN = ("path", "label", "sha256", "size", "mtime_ns")


class Gallery(SearchableGallery):
    """A gallery in a folder: a table, an index and a manifest.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` says: model, fingerprint, dim, count, index, unreadable photos.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], reader: TableReader, index: FaissIndex):
        super().__init__(str(folder), manifest)
        self.folder = folder
        self.index = index
        self._reader = reader
        light = [name for name in reader.names if name not in HEAVY_COLUMNS]
        self._light = reader.columns(light)

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
                decode), `precision` of the towers ("auto": bf16 on a GPU; "fp32", "bf16"), `max_pixels` (of one photo),
                `follow_paths` (read the files that a dataset's image cells name), `progress`.

        Raises:
            FileNotFoundError, ValueError, OSError: in one sentence, if there are no photos, none can be read, or `out`
                cannot be written; nothing is left behind then.
        """
        model = model.for_search()
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
        while True:
            try:
                gallery = cls._read(folder, manifest)
                break
            except DAMAGED as error:
                before, manifest = manifest, read_manifest(folder)
                if manifest == before:  # otherwise another process has published a new one meanwhile
                    reason = " ".join(str(error).split())
                    raise ValueError(
                        f"Gallery '{folder}' is damaged ({reason}): build it again with "
                        f"`splip index PHOTOS --out {shlex.quote(str(folder))}`."
                    ) from error
        if model is not None:
            gallery.use(model)
        return gallery

    @classmethod
    def _read(cls, folder: Path, manifest: dict[str, Any]) -> "Gallery":
        """Return the gallery that a manifest describes. Raises one of `DAMAGED` where the files are others."""
        reader = TableReader(sorted((folder / manifest["data"]).glob("photos-*.parquet")))
        if len(reader) != manifest["count"]:
            raise ValueError(f"{len(reader)} rows, {manifest['count']} expected")
        reader.check_columns(manifest["dim"])
        return cls(folder, manifest, reader, open_index(reader, manifest))

    def model_folder(self) -> str:
        """Return the model's folder as seen from the gallery, where they were moved together; otherwise its name."""
        return model_place(self.folder, self.manifest)

    @property
    def columns(self) -> list[str]:
        """The columns that `where` can filter on."""
        return self._light.column_names

    def labels(self) -> list[str]:
        """Return the classes that occur, sorted."""
        return sorted(label for label in pc.unique(self._light["label"]).to_pylist() if label)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return stored embeddings (M, D) of rows (M,)."""
        return self.index.faiss_index.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))

    def nearest(self, queries: np.ndarray, k: int, where: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the largest dot products, (Q, k); a filtered search is exact."""
        if not where:
            return self.index.search_batch(queries, k)
        rows = self._allowed(where)
        if len(rows) == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        return search_rows(self.index, queries, k, rows)

    def results(self, rows: Sequence[int], scores: Sequence[float]) -> list[Result]:
        """Return photos by their rows."""
        return [self.result(row, score) for row, score in zip(rows, scores, strict=True)]

    def result(self, row: int, score: float = 1.0) -> Result:
        """Return one photo by its row."""
        values = self._light.slice(row, 1).to_pylist()[0]
        path = str(Path(self.manifest["root"]) / values["path"]) if self.manifest["root"] else values["path"]
        metadata = {name: value for name, value in values.items() if name not in _HIDDEN}
        thumbnail = partial(self._thumbnail, row, values["path"])
        return Result(path, score, values["label"] or "", row, metadata, thumbnail)

    def _thumbnail(self, row: int, path: str) -> bytes:
        try:
            cell = self._reader.take([row], ["thumbnail"])["thumbnail"][0].as_py()
        except DAMAGED:
            cell = None
        if cell is None or cell["bytes"] is None:  # a path there is never followed: it may name any file
            raise ValueError(
                f"Photo '{path}' has no thumbnail in '{self.name}': build it again with "
                f"`splip index PHOTOS --out {shlex.quote(self.name)}`."
            )
        return cell["bytes"]

    def _allowed(self, where: Mapping[str, Any]) -> np.ndarray:
        """Return the rows that a filter allows, (M,)."""
        mask = np.ones(len(self), dtype=bool)
        for name, values in where.items():
            wanted = values if isinstance(values, list | tuple | set) else [values]
            column = self._light[name]
            if pa.types.is_string(column.type):
                column = pc.utf8_normalize(column, form="NFC")
                wanted = [composed(value) if isinstance(value, str) else value for value in wanted]
            mask &= pc.is_in(column, value_set=_as_type(wanted, column.type)).to_numpy()
        return np.flatnonzero(mask)


def _as_type(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Return values as a column of this type holds them, "3" as 3 among numbers; what it cannot hold is left out."""
    held = []
    for value in values:
        with contextlib.suppress(pa.ArrowException):
            held.append(pa.array([value]).cast(kind))
    return pa.concat_arrays(held) if held else pa.array([], kind)
