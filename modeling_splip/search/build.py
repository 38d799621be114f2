"""Building a gallery: encode what is new, keep what is known, put the result in place at once.

Encoded photos are written as small Parquet shards to `<out>.partial`; a build that was interrupted goes on from them.
The finished table lies in a data folder of its own. Replacing the manifest that names this folder is the one step that
changes the gallery: before it there is the old gallery, after it the new one.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow.parquet as pq
from accelerate import PartialState
from accelerate.utils import gather_object

from ..common.files import is_side_file, remove
from ..common.processes import on_cpu
from ..image_files import doubt, open_image, sample
from .confidence import measure_scribbles
from .encode import IDENTITY, Job, KnownRows, computes_half, encode_photos, on_gpu
from .index import build_index, choose_kind
from .index_cache import embeddings_hash, keep_index
from .photos import MAX_PIXELS, find_photos
from .table import (
    CARD,
    DAMAGED,
    GROUP_ROWS,
    MANIFEST,
    SCHEMA,
    TableReader,
    check_unit_norm,
    data_folders,
    embedding_array,
    read_manifest,
    table_features,
)

_FILE_ROWS = 100_000


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
    """

    count: int
    encoded: int
    removed: int
    unreadable: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    index: dict[str, Any] = field(default_factory=dict)
    drawn: bool = False
    doubt: str = ""


def build_gallery(
    photos: Any,
    model: Any,
    processor: Any,
    out: str | os.PathLike,
    *,
    model_name: str | None = None,
    split: str | None = None,
    index: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    precision: str = "auto",
    max_pixels: int = MAX_PIXELS,
    follow_paths: bool = False,
    progress: bool = True,
) -> BuildReport:
    """Encode photos and write a gallery, or bring one up to date; the arguments are those of `Gallery.build`.

    Under `accelerate launch` every process encodes its share; the main one puts the gallery together.
    """
    choose_kind(1, index)
    half = computes_half(precision, model.device)
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    batch_size = batch_size or (GROUP_ROWS if on_gpu(model.device) else 32)
    model = model.for_search()
    state = process_state()
    source = find_photos(photos, split, follow_paths)
    out = Path(out).expanduser()
    features = table_features(model.config.projection_dim, source.metadata)
    fingerprint = model.fingerprint(processor)
    columns = hashlib.sha256(repr(features).encode()).hexdigest()[:8]
    shards = out.with_name(out.name + ".partial") / f"shards-{fingerprint}-{columns}"
    lock = _claim(out, shards) if state.is_main_process else None
    try:
        state.wait_for_everyone()
        run = _next_run(shards)
        job = Job(model, processor, source, features, shards, run, fingerprint, batch_size, max_pixels, half)
        old = _old_table(out, fingerprint, features)
        known = KnownRows([*old, *_shard_tables(shards)])
        state.wait_for_everyone()  # no shard is written before every process has seen the earlier ones
        todo = [photo for photo in source.photos if not known.unchanged(photo)]
        chunks = [todo[start : start + GROUP_ROWS] for start in range(0, len(todo), GROUP_ROWS)]
        share = chunks[state.process_index :: state.num_processes]
        encoded, unreadable = encode_photos(job, share, known, workers, progress and state.is_main_process)
        report = BuildReport(0, sum(gather_object([encoded])), 0, gather_object(unreadable))
        state.wait_for_everyone()
        if state.is_main_process:
            _finish(job, out, old, model_name, index, report, progress)
        state.wait_for_everyone()
    finally:
        if lock is not None:
            lock.release()
    return report


def process_state() -> PartialState:
    """Return this process's place among those that `accelerate launch` started, and its device."""
    return PartialState(cpu=on_cpu())


def _claim(out: Path, shards: Path) -> filelock.BaseFileLock:
    """Check that the gallery can be written, make the side folder, and keep other builds out.

    Raises:
        ValueError: if `out` holds something else than a gallery.
        OSError: if it cannot be written, or another build is under way.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"Output '{out}' is a file: pass a folder for the gallery.")
    side = shards.parent
    for path in (side, shards, side / "lock"):  # whoever planted a link there would have other files written or removed
        if path.is_symlink():
            raise ValueError(f"'{path}' is a link, which no build follows: remove it, or pass another output folder.")
    try:
        if out.is_dir():
            own = {MANIFEST, "README.md", *(folder.name for folder in data_folders(out))}
            foreign = {path.name for path in out.iterdir() if not is_side_file(path)} - own
            if foreign:
                raise ValueError(f"Output '{out}' holds other files ({min(foreign)}): pass a new folder or a gallery.")
            if not os.access(out, os.W_OK):
                raise PermissionError(13, "no permission")
        shards.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(shards.parent / "lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise OSError(f"Another process is building '{out}': wait for it, or pass another output folder.") from None
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"Gallery folder '{out}' cannot be written ({reason}): pass another output folder.") from error
    for path in shards.parent.iterdir():
        if path.is_dir() and path != shards:  # of another model, or unfinished
            shutil.rmtree(path)
    return lock


def _old_table(out: Path, fingerprint: str, features: Any) -> list[TableReader]:
    """Return the former table if this model encoded it, its columns are the same and it is whole; otherwise nothing."""
    try:
        manifest = read_manifest(out)
        reader = TableReader(sorted((out / manifest["data"]).glob("photos-*.parquet")))
        if manifest["fingerprint"] != fingerprint or not reader.has_columns(features.arrow_schema):
            return []
        reader.columns(IDENTITY)
        embeddings = reader.embeddings()
        check_unit_norm(embeddings)
        # Galleries of earlier versions name no hash.
        whole = manifest.get("embeddings") in (None, embeddings_hash(embeddings))
        return [reader] if whole and len(reader) == manifest["count"] else []
    except DAMAGED:  # there is none, or it is damaged: all photos are encoded
        return []


def _shard_tables(shards: Path) -> list[TableReader]:
    files = sorted(shards.glob("*.parquet"))
    return [TableReader(files, keep_open=False)] if files else []


def _next_run(shards: Path) -> int:
    return 1 + max((int(file.name.split("-")[0]) for file in shards.glob("*.parquet")), default=0)


def _finish(
    job: Job,
    out: Path,
    old: list[TableReader],
    model_name: str | None,
    kind: str,
    report: BuildReport,
    progress: bool,
) -> None:
    """Put known and new rows together in the source's order, index and publish them, and complete the report."""
    side, source = job.shards.parent, job.source
    bad = {entry["path"] for entry in report.unreadable}
    photos = [photo for photo in source.photos if photo.path not in bad]
    if not photos:
        shutil.rmtree(side)
        first = report.unreadable[0]
        raise ValueError(
            f"None of the {len(bad)} photos in '{source.name}' can be read ({first['path']}: {first['reason']}): "
            f"check the files."
        )
    before = set(old[0].columns(["path"])["path"].to_pylist()) if old else set()
    report.count, report.removed = len(photos), len(before - {photo.path for photo in photos})
    report.left_out, report.drawn = source.left_out, source.drawn
    known = KnownRows([*old, *_shard_tables(job.shards)])
    data = side / f"data-{uuid.uuid4().hex[:12]}"
    data.mkdir()
    places = [known.place(photo) for photo in photos]
    embeddings = _write_table(job, known, places, data)
    report.doubt = _doubt(known, places)
    index, facts = build_index(embeddings, choose_kind(len(photos), kind), progress)
    report.index, digest = facts, embeddings_hash(embeddings)
    keep_index(index, digest, facts["kind"])
    manifest = {
        "schema": SCHEMA,
        **_model_names(job.model, model_name, out),
        "fingerprint": job.fingerprint,
        "dim": embeddings.shape[1],
        "count": len(photos),
        "data": data.name,
        "embeddings": digest,
        "index": facts,
        "scribbles": measure_scribbles(job.model, job.processor, index, embeddings, job.batch_size),
        "source": source.name,
        "root": source.root,
        "unreadable": report.unreadable,
        "left_out": report.left_out,
        "drawn": source.drawn,
        "doubt": report.doubt,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    _publish(side, data, out, manifest)


def _doubt(known: KnownRows, places: list[tuple[int, int]]) -> str:
    """Return a line of doubt if most photos look like line drawings, by some of their thumbnails; "" otherwise."""
    cells = known.take([places[number] for number in sample(len(places))], ["thumbnail"])["thumbnail"].to_pylist()
    with contextlib.suppress(ValueError, TypeError):  # a damaged thumbnail of a former gallery is no reason to stop
        wrong = doubt(photos=[open_image(cell["bytes"]) for cell in cells])
        return wrong and f"{wrong}: a gallery holds photos, and sketches are what it is searched with."
    return ""


def _write_table(job: Job, known: KnownRows, places: list[tuple[int, int]], data: Path) -> np.ndarray:
    """Write the rows at these places, in order; return their embeddings (N, D)."""
    schema, blocks = job.features.arrow_schema, []
    for number, first in enumerate(range(0, len(places), _FILE_ROWS)):
        with pq.ParquetWriter(data / f"photos-{number:05d}.parquet", schema, write_page_checksum=True) as writer:
            part = places[first : first + _FILE_ROWS]
            for start in range(0, len(part), GROUP_ROWS):
                table = known.take(part[start : start + GROUP_ROWS])
                blocks.append(embedding_array(table))
                writer.write_table(table.cast(schema), row_group_size=GROUP_ROWS)
    embeddings = np.concatenate(blocks)
    check_unit_norm(embeddings)
    return embeddings


def _model_names(model: Any, name: str | None, out: Path) -> dict[str, Any]:
    """Return how to find the model again: by its name or absolute path, and by the way from the gallery to it."""
    name = name or getattr(model, "name_or_path", "") or "clip"
    if not os.path.isdir(name) and not (name.endswith(".onnx") and os.path.isfile(name)):
        return {"model": name, "model_beside": None}
    return {"model": os.path.abspath(name), "model_beside": os.path.relpath(name, out)}


def _publish(side: Path, data: Path, out: Path, manifest: dict[str, Any]) -> None:
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
