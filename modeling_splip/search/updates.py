"""Bringing a gallery up to date in small batches, while it is searched, and making one table of it again.

Whoever writes a gallery, a build, an update or a compaction, holds the same lock. What is written becomes part of the
gallery when its manifest is replaced: a search, here or in another process, sees all of a batch or nothing.
"""

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from ..common.files import remove
from ..common.text import composed
from .changes import Changes
from .encode import Job, KnownRows, computes_half, encode_photos, on_gpu
from .index import choose_kind
from .index_cache import index_table
from .photos import MAX_PIXELS, PhotoSource, file_photo
from .publish import publish
from .table import FILE_ROWS, GROUP_ROWS, MANIFEST, TableReader, check_unit_norm, embedding_array, table_of

# A block of a table in compaction: with thumbnails, about 100 MB.
_ROWS = 8192


@dataclass
class UpdateReport:
    """What an update did.

    Attributes:
        added: photos that the gallery did not hold.
        changed: photos that replaced a former one of the same path.
        removed: photos that are gone.
        unreadable: path and reason of photos that cannot be read; the gallery holds what it held of them.
    """

    added: int
    changed: int
    removed: int
    unreadable: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def writing(folder: Path, wait: float) -> Iterator[Path]:
    """Keep others from writing a gallery; yield the folder beside it for what is unfinished.

    Args:
        wait: seconds to wait for another process.

    Raises:
        OSError: if another process writes it for longer, or it cannot be written.
    """
    side = folder.with_name(folder.name + ".partial")
    for path in (side, side / "lock"):  # whoever planted a link there would have other files written
        if path.is_symlink():
            raise ValueError(f"'{path}' is a link, which no update follows: remove it.")
    lock = filelock.FileLock(side / "lock")
    try:
        while not lock.is_locked:
            side.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the one before has just removed the folder
                lock.acquire(timeout=wait)
    except filelock.Timeout:
        raise OSError(f"Another process is writing gallery '{folder}': wait for it, and try again.") from None
    except OSError as error:
        raise OSError(f"Gallery '{folder}' cannot be written ({error.strerror or error}): check its folder.") from error
    try:
        yield side
    finally:
        with contextlib.suppress(OSError):
            if [path.name for path in side.iterdir()] == ["lock"]:  # otherwise a build has left shards, to go on from
                (side / "lock").unlink()
                side.rmdir()
        lock.release()


def stored_name(root: str, path: str | os.PathLike) -> str:
    """Return the name in a gallery of a photo: its path from the root, or its absolute path where it lies elsewhere.

    Args:
        root: the folder that the gallery's paths are relative to, "" where there is none.
        path: a file, absolute or from the current folder.
    """
    file = Path(path).expanduser().absolute()
    for place in (file, file.parent.resolve() / file.name):
        if root and place.is_relative_to(root):
            return place.relative_to(root).as_posix()
    return file.as_posix()


def encode_files(
    files: Sequence[str | os.PathLike], model: Any, processor: Any, root: str, schema: pa.Schema, batch_size: int | None
) -> tuple[pa.Table, list[dict[str, str]]]:
    """Encode photos into rows of a gallery's columns.

    A file below the gallery's root has the folder that it lies in as its label, as when a gallery is built.

    Returns:
        The rows, and path and reason of photos that cannot be read.
    """
    photos = []
    for file in dict.fromkeys(Path(file).expanduser().absolute() for file in files):
        name = stored_name(root, file)
        photos.append(file_photo(file, name, "" if Path(name).is_absolute() else composed(Path(name).parent.name)))
    half, batch = computes_half("auto", model.device), batch_size or (GROUP_ROWS if on_gpu(model.device) else 32)
    features = datasets.Features.from_arrow_schema(schema)
    source = PhotoSource("update", root, photos, {})
    with tempfile.TemporaryDirectory(prefix="splip-update-") as shards:
        job = Job(model, processor, source, features, Path(shards), 0, "", batch, MAX_PIXELS, half)
        chunks = [photos[start : start + GROUP_ROWS] for start in range(0, len(photos), GROUP_ROWS)]
        _, unreadable = encode_photos(job, chunks, KnownRows([]), None, False)
        tables = [pq.read_table(file).cast(schema) for file in sorted(Path(shards).glob("*.parquet"))]
    return pa.concat_tables([schema.empty_table(), *tables]), unreadable


def checked_rows(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows as a gallery's columns hold them.

    Raises:
        ValueError: if a column is missing or of another type, a path occurs twice or is empty, or an embedding is not
            of unit norm.
    """
    try:
        rows = rows.select(schema.names).cast(schema)
    except (KeyError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The rows have not the gallery's columns ({reason}): pass {', '.join(schema.names)}."
        ) from None
    paths = rows["path"].to_pylist()
    if not all(paths) or len(set(paths)) < len(paths):
        raise ValueError("Two rows have the same path, or one has none: pass each photo once, with its path.")
    try:
        if paths:
            check_unit_norm(embedding_array(rows))
    except ValueError as error:
        raise ValueError(f"The rows cannot be added, since {error}: pass the model's embeddings.") from None
    return rows


def replace_manifest(folder: Path, side: Path, manifest: dict[str, Any]) -> None:
    """Replace a gallery's manifest at once."""
    remove(side / MANIFEST)  # a link there is not followed
    (side / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    os.replace(side / MANIFEST, folder / MANIFEST)


def compact(folder: Path, manifest: dict[str, Any], reader: TableReader, changes: Changes, progress: bool) -> None:
    """Write table and changes as one new table, index it, and put it in the former one's place at once.

    What `Gallery.confidence` compares with stays as it was measured. The index is of the same kind, or of the kind for
    the new size where the former one was, too.
    """
    side = folder.with_name(folder.name + ".compacting")
    remove(side)  # what a compaction that was killed has left: this process holds the lock
    data = side / f"data-{uuid.uuid4().hex[:12]}"
    data.mkdir(parents=True)
    try:
        _write_live(data, reader, changes)
        before = manifest["index"].get("instead_of") or manifest["index"].get("kind", "exact")
        kind = choose_kind(len(changes)) if choose_kind(manifest["count"]) == before else before
        written = table_of(data, keep_open=False)
        _, facts, digest, _ = index_table(written, manifest["dim"], kind, progress=progress)
        new = {"count": len(changes), "data": data.name, "embeddings": digest, "index": facts}
        publish(side, data, folder, {name: value for name, value in manifest.items() if name != "changes"} | new)
    except BaseException:
        remove(side)
        raise


def _write_live(data: Path, reader: TableReader, changes: Changes) -> None:
    """Write the rows that count, in order."""
    schema, number, left, start = changes.log.schema, 0, 0, 0
    with contextlib.ExitStack() as stack:
        for table in _tables(reader, changes):
            rows = table.filter(pa.array(~changes.gone[start : start + len(table)]))
            start += len(table)
            while len(rows):
                if not left:
                    stack.close()
                    file = data / f"photos-{number:05d}.parquet"
                    writer = stack.enter_context(pq.ParquetWriter(file, schema, write_page_checksum=True))
                    number, left = number + 1, FILE_ROWS
                part = rows.slice(0, left)
                writer.write_table(part.cast(schema), row_group_size=GROUP_ROWS)
                rows, left = rows.slice(len(part)), left - len(part)


def _tables(reader: TableReader, changes: Changes) -> Iterator[pa.Table]:
    yield from reader.blocks(None, _ROWS)
    yield changes.log
