"""A gallery's folder in one state: its table with what has changed since, searched by its index."""

import contextlib
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
from .changes import Changes, open_changes
from .index import search_rows, stored_vectors
from .result import Result
from .table import DAMAGED, HEAVY_COLUMNS, TableReader, model_place

_HIDDEN = ("path", "label", "sha256", "size", "mtime_ns")


class FolderGallery:
    """The photos of a folder, as a `SearchableGallery` asks for them: `Gallery` is both.

    Attributes:
        folder: where it lies.
        manifest: what `manifest.json` says: model, fingerprint, dim, count, index, unreadable photos.
        index: of the table.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], reader: TableReader, index: FaissIndex):
        self.folder, self.name, self.manifest = folder, str(folder), manifest
        self.index = index
        self._reader = reader
        self._table = reader.columns([name for name in reader.names if name not in HEAVY_COLUMNS])
        self._light = self._table
        self._changes: Changes | None = None

    def _change(self, manifest: dict[str, Any]) -> None:
        """Take the changes that a manifest names as those of this table."""
        data, paths = self.folder / manifest["data"], self._table["path"]
        changes = open_changes(data, manifest, paths, self._reader.schema, self._changes)
        self.manifest, self._changes, self._light = manifest, changes, self._table
        if changes is not None:
            self._light = pa.concat_tables([self._table, changes.log.select(self._table.column_names)])

    def _known(self, paths: Sequence[str]) -> set[str]:
        """Return those of some paths that photos of this gallery have."""
        found = pc.is_in(self._light["path"], value_set=pa.array(paths, pa.string())).to_numpy()
        return set(self._light["path"].filter(pa.array(found & self._counts())).to_pylist())

    def _counts(self) -> np.ndarray:
        """Return whether each row counts, or was replaced or removed: (rows,) bool."""
        return np.ones(len(self._light), bool) if self._changes is None else ~self._changes.gone

    def __len__(self) -> int:
        return len(self._table) if self._changes is None else len(self._changes)

    def holds(self, row: float) -> bool:
        """Return whether a row is one of this gallery's photos."""
        return row in range(len(self._light)) and bool(self._counts()[int(row)])

    def model_folder(self) -> str:
        """Return the model's folder as seen from the gallery, where they were moved together; otherwise its name."""
        return model_place(self.folder, self.manifest)

    @property
    def columns(self) -> list[str]:
        """The columns that `where` can filter on."""
        return self._light.column_names

    def labels(self) -> list[str]:
        """Return the classes that occur, sorted."""
        labels = self._light["label"].filter(pa.array(self._counts()))
        return sorted(label for label in pc.unique(labels).to_pylist() if label)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return stored embeddings (M, D) of rows (M,)."""
        return stored_vectors(self.index, rows) if self._changes is None else self._changes.vectors(self.index, rows)

    def nearest(self, queries: np.ndarray, k: int, where: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the largest dot products, (Q, k); a filtered search is exact."""
        if not where:
            if self._changes is None:
                return self.index.search_batch(queries, k)
            return self._changes.nearest(self.index, queries, k)
        rows = self._allowed(where)
        if len(rows) == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        return search_rows(self.vectors, queries, k, rows)

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
            if self._changes is not None and row >= self._changes.base:
                cell = self._changes.log["thumbnail"][row - self._changes.base].as_py()
            else:
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
        mask = self._counts()
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
