"""A gallery's folder: its manifest, the columns of its table, and reading single rows."""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import snapshot_download

from ..common.hub import is_hub_id
from .confidence import are_facts

SCHEMA = "splip-gallery-1"
MANIFEST = "manifest.json"
# Rows of a row group. To show one thumbnail a whole group is read, about 1 MB.
GROUP_ROWS = 128
FILE_ROWS = 100_000
# Rows that are read at once where a whole table is gone through.
BLOCK_ROWS = 65_536
OWN_COLUMNS = ("path", "label", "sha256", "size", "mtime_ns", "width", "height", "thumbnail", "embedding")
HEAVY_COLUMNS = ("thumbnail", "embedding")
# Half precision changes the square of a unit vector's norm by less than this.
_NORM_ROUNDING = 0.05
# What reading a damaged table raises.
DAMAGED = (OSError, ValueError, KeyError, IndexError, MemoryError, pa.ArrowException)
_DATA_FOLDER = re.compile(r"data-[0-9a-f]+")
_CHANGES = re.compile(r"changes-[0-9a-f]{64}\.parquet")
_HASH = re.compile(r"[0-9a-f]{64}")
_MANIFEST_FIELDS = {"model": str, "fingerprint": str, "dim": int, "count": int, "data": str, "index": dict, "root": str}

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: {data}/photos-*.parquet
---
# Photo gallery
Written by `splip index`. `Gallery.open` opens it; `datasets.load_dataset` reads its table alone.
"""


def table_features(dim: int, metadata: dict[str, datasets.Value]) -> datasets.Features:
    """Return the columns of a gallery's table.

    `path` names the photo, `label` its class or "", `sha256` its content (hex), `size` is in bytes, `mtime_ns` the time
    of its last change or -1, `width` and `height` are upright pixels, `thumbnail` is a JPEG, `embedding` (dim,) float32
    of unit norm; metadata columns follow. A metadata column that has one of these names is left out.
    """
    integers = dict.fromkeys(("size", "mtime_ns"), "int64") | dict.fromkeys(("width", "height"), "int32")
    columns: dict[str, Any] = {name: datasets.Value("string") for name in ("path", "label", "sha256")}
    columns |= {name: datasets.Value(dtype) for name, dtype in integers.items()}
    columns |= {name: value for name, value in metadata.items() if name not in OWN_COLUMNS}
    columns["thumbnail"] = datasets.Image()
    columns["embedding"] = datasets.List(datasets.Value("float32"), length=dim)
    return datasets.Features(columns)


def data_folders(folder: Path) -> list[Path]:
    """Return the data folders in a gallery: one, or two if a build was killed before it removed the former one."""
    return [path for path in folder.iterdir() if path.is_dir() and _DATA_FOLDER.fullmatch(path.name)]


def table_of(data: Path, keep_open: bool = True) -> "TableReader":
    """Return the table in a data folder; `keep_open` is that of `TableReader`."""
    return TableReader(sorted(data.glob("photos-*.parquet")), keep_open)


def local_folder(name: str | os.PathLike) -> Path:
    """Return the folder of a gallery; one that is named by Hub id (`owner/name`) is downloaded.

    Raises:
        OSError: if it does not come from the Hub.
    """
    folder = Path(name).expanduser()
    if not is_hub_id(name):
        return folder
    try:
        return Path(snapshot_download(str(name), repo_type="dataset"))
    except Exception as error:  # the Hub client raises a dozen kinds: offline, gated, unknown
        raise OSError(
            f"'{name}' is no gallery folder here, and no such dataset came from the Hub or the cache "
            f"({type(error).__name__}): check the name and the network."
        ) from error


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Read and check the manifest of a gallery.

    Raises:
        FileNotFoundError: if there is no such folder, or no gallery was finished in it.
        ValueError: if the manifest is damaged or of another schema.
    """
    path = Path(folder) / MANIFEST
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"There is no gallery folder '{folder}': make one with `splip index PHOTOS --out gallery`."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"'{folder}' is no gallery (it has no {MANIFEST}): make one with `splip index PHOTOS --out gallery`."
        )
    again = f"build it again with `splip index PHOTOS --out {shlex.quote(str(folder))}`."
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is damaged ({error}): {again}") from error
    found = manifest.get("schema") if isinstance(manifest, dict) else None
    if found != SCHEMA:
        raise ValueError(f"'{path}' has schema {found!r}, expected '{SCHEMA}': {again}")
    wrong = [name for name, kind in _MANIFEST_FIELDS.items() if not isinstance(manifest.get(name), kind)]
    wrong += [name for name in ("dim", "count") if name not in wrong and (manifest[name] is True or manifest[name] < 1)]
    if not isinstance(manifest.get("model_beside"), str | None):
        wrong.append("model_beside")
    if not wrong and not _DATA_FOLDER.fullmatch(manifest["data"]):
        wrong = ["data"]
    if not _HASH.fullmatch(str(manifest.get("embeddings", "0" * 64))):  # which galleries of earlier versions lack
        wrong.append("embeddings")
    changes = manifest.get("changes", [])
    if not isinstance(changes, list) or not all(isinstance(it, str) and _CHANGES.fullmatch(it) for it in changes):
        wrong.append("changes")
    if not wrong and manifest.get("scribbles") is not None and not are_facts(manifest["scribbles"], manifest["dim"]):
        wrong = ["scribbles"]
    if wrong:
        raise ValueError(f"'{path}' is damaged (fields {', '.join(wrong)}): {again}")
    return manifest


def model_place(folder: Path, manifest: dict[str, Any]) -> str:
    """Return the model's path as seen from the gallery, if they were moved together; otherwise the model's name."""
    beside = manifest.get("model_beside")
    here = folder / beside if beside else None
    return str(here) if here is not None and here.exists() else manifest["model"]


class TableReader:
    """Rows of Parquet files in order, read by row group; safe to use from several threads.

    Args:
        files: at least one, of the same columns.
        keep_open: whether the files stay open, so that a reader outlives a gallery that is replaced under it. Without
            it there may be more files than a process may have open.
    """

    def __init__(self, files: Sequence[Path], keep_open: bool = True):
        self._lock = Lock()
        self._paths = list(files)
        self._open = [_opened(file, memory_map=True) for file in files] if keep_open else []
        self._schemas, groups, rows = [], [], []
        for number in range(len(self._paths)):
            with self._file(number) as file:
                self._schemas.append(file.schema_arrow)
                for group in range(file.num_row_groups):
                    groups.append((number, group))
                    rows.append(file.metadata.row_group(group).num_rows)
        self._groups = groups
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._cached: tuple[Any, pa.Table | None] = (None, None)

    def _file(self, number: int) -> AbstractContextManager[pq.ParquetFile]:
        return nullcontext(self._open[number]) if self._open else _opened(self._paths[number])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._schemas[0]

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return self.schema.names

    def check_columns(self, dim: int) -> None:
        """Raise ValueError unless every file has the columns of a gallery of this dimension, each of its type."""
        for found in self._schemas:
            for wanted in table_features(dim, {}).arrow_schema:
                if wanted.name not in found.names:
                    raise ValueError(f"column '{wanted.name}' is missing")
                if not found.field(wanted.name).type.equals(wanted.type):
                    kind = found.field(wanted.name).type
                    raise ValueError(f"column '{wanted.name}' is of type {kind}, expected {wanted.type}")

    def has_columns(self, schema: pa.Schema) -> bool:
        """Return whether all files have these columns, by name, type and order."""
        return all(found.equals(schema) for found in self._schemas)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Read whole columns: a table of N rows."""
        tables = []
        for number in range(len(self._paths)):
            with self._lock, self._file(number) as file:
                tables.append(file.read(columns=list(names)))
        table = pa.concat_tables(tables)
        table.validate(full=True)  # text that is no UTF-8 would fail wherever it is shown
        return table

    def embeddings(self) -> np.ndarray:
        """Read all embeddings: (N, D) float32."""
        return embedding_array(self.columns(["embedding"]))

    def blocks(self, names: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[pa.Table]:
        """Read the columns named, or all, in tables of about so many rows, in order."""
        groups: list[int] = []
        for number in range(len(self._paths)):
            with self._lock, self._file(number) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            for group, size in enumerate(sizes):
                groups.append(group)
                if group + 1 == len(sizes) or sum(sizes[groups[0] : group + 1]) + size > rows:
                    with self._lock, self._file(number) as file:
                        table = file.read_row_groups(groups, columns=list(names) if names else None)
                    table.validate(full=True)
                    yield table
                    groups = []

    def take(self, rows: Sequence[int], names: Sequence[str] | None = None) -> pa.Table:
        """Read single rows, in the order given, of the columns named or of all."""
        parts = []
        with self._lock:
            for row in rows:
                group = int(np.searchsorted(self._ends, row, side="right"))
                start = int(self._ends[group - 1]) if group else 0
                parts.append(self._group(group, names).slice(row - start, 1))
        return pa.concat_tables(parts)

    def _group(self, group: int, names: Sequence[str] | None) -> pa.Table:
        """Read one row group; the last one is kept, because neighbouring rows are often read one after another."""
        key = (group, tuple(names) if names else None)
        if self._cached[0] != key:
            number, part = self._groups[group]
            try:
                with self._file(number) as file:
                    table = file.read_row_group(part, columns=list(names) if names else None)
                table.validate(full=True)
                table = _full_precision(table)
            except DAMAGED as error:
                raise ValueError(
                    f"'{self._paths[number]}' is damaged ({' '.join(str(error).split())}): remove this gallery, and "
                    "build it again with `splip index PHOTOS --out OUT`."
                ) from error
            self._cached = (key, table)
        kept = self._cached[1]
        assert kept is not None
        return kept


def take_rows(
    readers: Sequence[TableReader], places: Iterable[tuple[int, int]], names: Sequence[str] | None = None
) -> pa.Table:
    """Read single rows, each named by the number of its reader and its row there, in the order given."""
    return pa.concat_tables([readers[reader].take([row], names) for reader, row in places])


def _full_precision(table: pa.Table) -> pa.Table:
    """Return a table whose embeddings have 32 bits; shards that were encoded on Ray hold 16."""
    place = table.schema.get_field_index("embedding")
    kind = table.schema.field(place).type if place >= 0 else pa.null()
    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float16():
        return table
    return table.set_column(place, "embedding", table["embedding"].cast(pa.list_(pa.float32(), kind.list_size)))


def check_unit_norm(embeddings: np.ndarray, first: int = 0) -> None:
    """Raise ValueError unless all embeddings (N, D), of rows from `first` on, are finite and of unit norm, nearly."""
    squares = np.einsum("nd,nd->n", embeddings, embeddings)
    wrong = np.flatnonzero(~(np.abs(squares - 1) <= _NORM_ROUNDING))  # also true for NaN
    if len(wrong):
        raise ValueError(f"the embedding of photo {first + wrong[0]} is no vector of unit norm")


def embedding_array(table: pa.Table) -> np.ndarray:
    """Return the embedding column as (N, D) float32. Raises ValueError where a row has none."""
    column = table["embedding"].combine_chunks()
    if column.null_count:
        raise ValueError("a photo has no embedding")
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32, copy=False)


def _opened(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a table; pages are compared with their checksums as they are read, where they have some."""
    return pq.ParquetFile(path, page_checksum_verification=True, **options)
