"""Leaving out what tells of this machine: where models and photos lay, and comments inside pictures."""

import json
import os
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..clip_base import packaged_folder
from ..common.files import write_json
from ..common.hub import is_hub_id

# Keys by which transformers notes where an object was loaded from; nothing reads them from a file.
_ORIGINS = ("_name_or_path", "name_or_path")
_COMMENT = 0xFE
_APPLICATIONS = range(0xE1, 0xF0)  # EXIF, XMP and the like; 0xE0 is JFIF
_SCAN = 0xDA


def shared_base(config: Any) -> str | None:
    """Return the name of the base CLIP if others can get it by that: a Hub id, or the name of a packaged one."""
    base = getattr(config, "base_model", None)
    if base and (packaged_folder(base) or is_hub_id(base)):
        return str(base)
    return None


def remove_origins(folder: Path) -> None:
    """Remove from the JSON files of a model's folder where it, and the parts of it, were loaded from."""
    for path in folder.rglob("*.json"):
        before = json.loads(path.read_text("utf-8"))
        after = _without_origins(before)
        if after != before:
            write_json(path, after)


def _without_origins(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_origins(each) for key, each in value.items() if key not in _ORIGINS}
    return [_without_origins(each) for each in value] if isinstance(value, list) else value


def write_shared_table(data: Path, target: Path, group_rows: int) -> None:
    """Write the Parquet files of a gallery again, without absolute paths and without notes in the thumbnails.

    Args:
        data: the gallery's data folder.
        target: the folder to write, which is made.
        group_rows: rows of a row group.
    """
    files = sorted(data.glob("photos-*.parquet"))
    paths = [path for file in files for path in pq.read_table(file, columns=["path"])["path"].to_pylist()]
    names = iter(relative_paths(paths))
    target.mkdir(parents=True)
    for file in files:
        opened = pq.ParquetFile(file)
        with pq.ParquetWriter(target / file.name, opened.schema_arrow, write_page_checksum=True) as writer:
            for batch in opened.iter_batches(group_rows):
                rows = {"path": [next(names) for _ in range(len(batch))], "thumbnail": _thumbnails(batch)}
                columns = [
                    pa.array(rows[field.name], field.type) if field.name in rows else batch.column(field.name)
                    for field in batch.schema
                ]
                writer.write_batch(pa.record_batch(columns, schema=batch.schema), group_rows)


def relative_paths(paths: list[str]) -> list[str]:
    """Return the paths in order, the absolute ones as seen from the folder that they have in common."""
    absolute = [path for path in paths if PurePath(path).is_absolute()]
    if not absolute:
        return paths
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [
        PurePath(os.path.relpath(path, common)).as_posix() if PurePath(path).is_absolute() else path for path in paths
    ]


def _thumbnails(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the cells of thumbnails, each with its picture alone."""
    cells = batch.column("thumbnail").to_pylist()
    return [{"bytes": cell and cell["bytes"] and without_notes(cell["bytes"]), "path": None} for cell in cells]


def without_notes(jpeg: bytes) -> bytes:
    """Return a JPEG without comments and without what programs noted in it; other data as they are."""
    if jpeg[:2] != b"\xff\xd8":
        return jpeg
    kept, at = [jpeg[:2]], 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] != _COMMENT and jpeg[at + 1] not in _APPLICATIONS:
            kept.append(jpeg[at:end])
        at = end
    return b"".join([*kept, jpeg[at:]])
