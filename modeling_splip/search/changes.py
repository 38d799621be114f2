"""What has changed since a gallery's table was written: rows that were put and removed, one small file for each batch.

The files lie in the data folder, named by the hash of their content, and the manifest names them in order. So replacing
the manifest adds a batch at once. A row with an embedding is put, in place of a former one of its path; a row without
one says that its path is removed.
"""

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets.search import FaissIndex

from ..common.files import written_whole
from .index import stored_vectors
from .table import DAMAGED, GROUP_ROWS, TableReader, check_unit_norm, embedding_array, read_manifest


def write_changes(data: Path, rows: pa.Table) -> str:
    """Write one batch into a data folder; return the file's name. It counts once the manifest names it."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, write_page_checksum=True)
    name = f"changes-{hashlib.sha256(sink.getvalue()).hexdigest()}.parquet"
    with written_whole(data / name) as partial:
        partial.write_bytes(sink.getvalue())
    return name


def read_changes(data: Path, names: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Return the rows of some batches, in order.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: if a file is missing, damaged, or of other columns.
    """
    tables = [schema.empty_table()]
    for name in names:
        content = (data / name).read_bytes()
        if name != f"changes-{hashlib.sha256(content).hexdigest()}.parquet":
            raise ValueError(f"'{name}' has another content than its name says")
        table = pq.read_table(io.BytesIO(content)).cast(schema)
        table.validate(full=True)
        tables.append(table)
    return pa.concat_tables(tables)


def open_changes(
    data: Path, manifest: Mapping[str, Any], paths: pa.ChunkedArray, schema: pa.Schema, before: "Changes | None" = None
) -> "Changes | None":
    """Return what has changed since a table was written, None if nothing has.

    Args:
        data: the data folder.
        manifest: of the gallery.
        paths, schema: of its table.
        before: an earlier state of this table's changes, whose files are not read again.

    Raises:
        OSError, ValueError, pyarrow.ArrowException: if a file is missing or damaged.
    """
    names = manifest.get("changes", [])
    if not names:
        return None
    if before is None or names[: len(before.names)] != before.names:
        return Changes(paths, read_changes(data, names, schema), names)
    log = pa.concat_tables([before.log, read_changes(data, names[len(before.names) :], schema)])
    return Changes(paths, log, names)


def has_changes(out: Path) -> bool:
    """Return whether a gallery, if there is one, has changed since its table was written."""
    with contextlib.suppress(*DAMAGED):
        return bool(read_manifest(out).get("changes"))
    return False


def former_paths(out: Path, reader: TableReader) -> set[str]:
    """Return the paths of a gallery's photos, given its table; changes that are damaged do not count."""
    paths, manifest, changes = reader.columns(["path"])["path"], read_manifest(out), None
    with contextlib.suppress(*DAMAGED):
        changes = open_changes(out / manifest["data"], manifest, paths, reader.schema)
    if changes is None:
        return set(paths.to_pylist())
    kept = paths.filter(pa.array(~changes.gone[: changes.base]))
    return {*kept.to_pylist(), *changes.live_rows()["path"].to_pylist()}


def fold_changes(out: Path, reader: TableReader, schema: pa.Schema, shard: Path) -> None:
    """Write the rows that updates have put into a gallery as a shard, if there are any and they are whole."""
    manifest, paths = read_manifest(out), reader.columns(["path"])["path"]
    with contextlib.suppress(*DAMAGED):
        changes = open_changes(out / manifest["data"], manifest, paths, reader.schema)
        if changes is not None:
            with written_whole(shard) as partial:
                pq.write_table(changes.live_rows().cast(schema), partial, row_group_size=GROUP_ROWS)


def removals(paths: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Return the rows that say that paths are removed."""
    return pa.table(
        {field.name: paths if field.name == "path" else pa.nulls(len(paths), field.type) for field in schema},
        schema=schema,
    )


class Changes:
    """The rows of all batches behind those of the table, and which of all these rows no longer count.

    A row's number is its place in the table, or the table's size and its place in `log`. Later batches do not alter it.

    Args:
        paths: of the table's rows.
        log: the rows of all batches, in order, with all columns of the table.
        names: of their files.

    Attributes:
        base: number of the table's rows.
        log: as passed, in one piece.
        names: as passed.
        gone: (base + rows of the log) bool, whether a row was replaced or removed.

    Raises:
        ValueError: if an embedding is not of unit norm.
    """

    def __init__(self, paths: pa.ChunkedArray, log: pa.Table, names: Sequence[str]):
        self.base, self.log, self.names = len(paths), log.combine_chunks(), list(names)
        put = self.log["embedding"].is_valid().to_numpy()
        named = self.log["path"].to_pylist()
        last = {path: row for row, path in enumerate(named)}
        replaced = pc.is_in(paths, value_set=pa.array(list(last), pa.string())).to_numpy()
        counts = np.array([last[path] == row for row, path in enumerate(named)], bool)
        self.gone = np.concatenate([replaced, ~(counts & put)])
        self._vectors = np.zeros((len(self.log), self.log.schema.field("embedding").type.list_size), np.float32)
        if put.any():
            self._vectors[put] = embedding_array(self.log.filter(pa.array(put)))
            check_unit_norm(self._vectors[put], self.base)
        self._removed_of_table = int(replaced.sum())

    def __len__(self) -> int:
        return len(self.gone) - int(self.gone.sum())

    def live_rows(self) -> pa.Table:
        """Return the rows of the log that count."""
        return self.log.filter(pa.array(~self.gone[self.base :]))

    def vectors(self, index: FaissIndex, rows: np.ndarray) -> np.ndarray:
        """Return the embeddings (M, D) of rows (M,); `index` is the table's."""
        rows = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(rows), self._vectors.shape[1]), np.float32)
        late = rows >= self.base
        found[late] = self._vectors[rows[late] - self.base]
        found[~late] = stored_vectors(index, rows[~late])
        return found

    def nearest(self, index: FaissIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows (Q, k) of the largest dot products among the rows that count.

        The table's index is asked for more photos than are wanted, as some of them are gone, and for ever more where
        too few are left. The rows of the log are compared one by one.
        """
        gone, log_gone = self.gone[: self.base], self.gone[self.base :]
        spare = 8 + 2 * k * self._removed_of_table // self.base if self._removed_of_table else 0
        wanted = min(k + spare, self.base)
        while True:
            scores, rows = index.search_batch(queries, wanted)
            alive = (rows >= 0) & ~gone[rows]
            enough = (alive.sum(axis=1) >= k) | (rows < 0).any(axis=1)
            if wanted == self.base or enough.all():
                break
            wanted = min(2 * wanted, self.base)
        late = np.where(log_gone, -np.inf, queries @ self._vectors.T)  # (Q, rows of the log)
        first = np.argpartition(-late, min(k, len(log_gone) - 1), axis=1)[:, :k]
        late = np.take_along_axis(late, first, axis=1)
        scores = np.concatenate([np.where(alive, scores, -np.inf), late], axis=1)
        rows = np.concatenate([rows, first + self.base], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        return scores.astype(np.float32), np.where(np.isneginf(scores), -1, rows)
