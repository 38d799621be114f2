"""Putting encoded photos together as a gallery, and putting it in place at once.

The finished table lies in a data folder of its own. Replacing the manifest that names this folder is the one step that
changes the gallery: before it there is the old gallery, after it the new one.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..common.files import remove
from ..image_files import doubt, open_image, sample
from .changes import former_paths
from .confidence import measure_scribbles
from .encode import Job
from .index import choose_kind
from .index_cache import index_table
from .table import (
    CARD,
    FILE_ROWS,
    GROUP_ROWS,
    MANIFEST,
    SCHEMA,
    TableReader,
    data_folders,
    table_of,
    take_rows,
)


@dataclass
class BuildReport:
    """What a build did.

    Attributes:
        count: photos in the gallery.
        encoded: photos that went through the model in this run; the others were known.
        removed: photos of the former gallery that are gone.
        unreadable: path and reason of photos that cannot be read.
        left_out: suffix in lower case -> number of files in the folder that are no photos of a kind that is read.
        index: what the manifest records of the index.
        drawn: whether the photos are pictures of the drawn world.
        doubt: a line of doubt if most photos look like line drawings; "" otherwise.
        sent: photos sent to a server by the build itself.
    """

    count: int
    encoded: int
    removed: int
    unreadable: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)
    drawn: bool = False
    doubt: str = ""
    sent: int = 0


def publish_gallery(
    job: Job,
    out: Path,
    readers: Sequence[TableReader],
    places: Sequence[tuple[int, int]],
    old: Sequence[TableReader],
    model_name: str | None,
    kind: str,
    report: BuildReport,
    progress: bool,
) -> None:
    """Write rows as a gallery, index it, put it in place, and complete the report.

    Args:
        readers, places: the rows in the gallery's order, each by the number of its reader and its row there.
        old: the former gallery's reader, if there is one.
        kind: of the index, or "auto".
        report: names the photos that cannot be read.

    Raises:
        ValueError: if there is no row.
    """
    check_some(job, places, report)
    data = job.shards.parent / f"data-{uuid.uuid4().hex[:12]}"
    data.mkdir()
    gone = former_paths(out, old[0]) if old else set()
    _write_table(job, readers, places, data, gone)
    report.removed, report.doubt = len(gone), doubt_of(readers, places)
    written, dim = table_of(data, keep_open=False), job.model.config.projection_dim
    index, facts, digest, embeddings = index_table(written, dim, choose_kind(len(places), kind), progress=progress)
    report.count, report.index = len(places), facts
    scribbles = measure_scribbles(
        job.model, job.processor, index.search_batch, embeddings.__getitem__, len(places), job.batch_size
    )
    manifest = new_manifest(job, out, model_name, data.name, report, scribbles) | {"embeddings": digest}
    publish(job.shards.parent, data, out, manifest)


def check_some(job: Job, places: Sequence[Any], report: BuildReport) -> None:
    """Raise ValueError, and remove what the build has begun, if no photo can be read."""
    if not places:
        shutil.rmtree(job.shards.parent)
        first = report.unreadable[0]
        raise ValueError(
            f"None of the {len(report.unreadable)} photos in '{job.source.name}' can be read ({first['path']}: "
            f"{first['reason']}): check the files."
        )


def new_manifest(
    job: Job, out: Path, model_name: str | None, data: str, report: BuildReport, scribbles: dict[str, Any]
) -> dict[str, Any]:
    """Return what a gallery's manifest says, but for the hash of its embeddings; completes the report, too.

    Args:
        data: the name of the version, as that of a data folder.
        scribbles: what `measure_scribbles` returned.
    """
    report.left_out, report.drawn = job.source.left_out, job.source.drawn
    return {
        "schema": SCHEMA,
        **_model_names(job.model, model_name, out),
        "fingerprint": job.fingerprint,
        "dim": job.model.config.projection_dim,
        "count": report.count,
        "data": data,
        "index": report.index,
        "scribbles": scribbles,
        "source": job.source.name,
        "root": job.source.root,
        "unreadable": report.unreadable,
        "left_out": report.left_out,
        "drawn": report.drawn,
        "doubt": report.doubt,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def doubt_of(readers: Sequence[TableReader], places: Sequence[tuple[int, int]]) -> str:
    """Return a line of doubt if most photos look like line drawings, by some of their thumbnails; "" otherwise."""
    chosen = [places[number] for number in sample(len(places))]
    with contextlib.suppress(ValueError, TypeError):  # a damaged thumbnail of a former gallery is no reason to stop
        cells = take_rows(readers, chosen, ["thumbnail"])["thumbnail"].to_pylist()
        wrong = doubt(photos=[open_image(cell["bytes"]) for cell in cells])
        return wrong and f"{wrong}: a gallery holds photos, and sketches are what it is searched with."
    return ""


def _write_table(
    job: Job, readers: Sequence[TableReader], places: Sequence[tuple[int, int]], data: Path, gone: set[str]
) -> None:
    """Write the rows at these places, in order, and take their paths out of `gone`."""
    schema = job.features.arrow_schema
    for number, first in enumerate(range(0, len(places), FILE_ROWS)):
        with pq.ParquetWriter(data / f"photos-{number:05d}.parquet", schema, write_page_checksum=True) as writer:
            part = places[first : first + FILE_ROWS]
            for start in range(0, len(part), GROUP_ROWS):
                table = take_rows(readers, part[start : start + GROUP_ROWS])
                writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)
                gone.difference_update(table["path"].to_pylist() if gone else ())


def _model_names(model: Any, name: str | None, out: Path) -> dict[str, Any]:
    """Return how to find the model again: by its name or absolute path, and by the way from the gallery to it."""
    name = name or getattr(model, "name_or_path", "") or "clip"
    if not os.path.isdir(name) and not (name.endswith(".onnx") and os.path.isfile(name)):
        return {"model": name, "model_beside": None}
    return {"model": os.path.abspath(name), "model_beside": os.path.relpath(name, out)}


def publish(side: Path, data: Path, out: Path, manifest: dict[str, Any]) -> None:
    """Move the finished data folder in, replace the manifest, and remove what is no longer used."""
    out.mkdir(exist_ok=True)
    os.rename(data, out / data.name)
    # The card names the data folder, so that its text changes: `load_dataset` caches by it, not by the files' content.
    card = CARD.format(data=data.name)
    for name, text in (("README.md", card), (MANIFEST, json.dumps(manifest, indent=1))):
        remove(side / name)  # a link there is not followed
        (side / name).write_text(text, encoding="utf-8")
        os.replace(side / name, out / name)
    for folder in data_folders(out):
        if folder.name != data.name:
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(side, ignore_errors=True)
