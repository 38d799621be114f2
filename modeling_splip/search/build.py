"""Building a gallery: encode what is new, keep what is known, put the result in place at once.

Encoded photos are written as small Parquet shards to `<out>.partial`; a build that was interrupted goes on from them.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import filelock
from accelerate import PartialState
from accelerate.utils import gather_object

from ..common.files import is_side_file
from ..common.processes import on_cpu
from .changes import fold_changes, has_changes
from .encode import IDENTITY, Job, KnownRows, computes_half, encode_photos, on_gpu
from .index import choose_kind
from .index_cache import table_hash
from .photos import MAX_PIXELS, find_photos
from .publish import BuildReport, publish_gallery
from .table import (
    DAMAGED,
    GROUP_ROWS,
    MANIFEST,
    TableReader,
    data_folders,
    read_manifest,
    table_features,
    table_of,
)


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
    check_counts(batch_size=batch_size, workers=workers)
    batch_size = batch_size or (GROUP_ROWS if on_gpu(model.device) else 32)
    model = model.for_search()
    state = process_state()
    source = find_photos(photos, split, follow_paths)
    out = Path(out).expanduser()
    features = table_features(model.config.projection_dim, source.metadata)
    fingerprint = model.fingerprint(processor)
    columns = hashlib.sha256(repr(features).encode()).hexdigest()[:8]
    shards = out.with_name(out.name + ".partial") / f"shards-{fingerprint}-{columns}"
    lock = claim(out, shards) if state.is_main_process else None
    try:
        if state.is_main_process and has_changes(out):
            for reader in old_table(out, fingerprint, features):
                fold_changes(out, reader, features.arrow_schema, shards / "00000-changes.parquet")
        state.wait_for_everyone()
        run = _next_run(shards)
        job = Job(model, processor, source, features, shards, run, fingerprint, batch_size, max_pixels, half)
        old = old_table(out, fingerprint, features)
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


def check_counts(**values: int | None) -> None:
    """Raise ValueError unless each of these arguments is None or a whole number of at least 1."""
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")


def process_state() -> PartialState:
    """Return this process's place among those that `accelerate launch` started, and its device."""
    return PartialState(cpu=on_cpu())


def claim(out: Path, shards: Path, *others: Path) -> filelock.BaseFileLock:
    """Check that the gallery can be written, make the side folder, and keep other builds out.

    Args:
        out: the gallery's folder.
        shards: a folder in the side folder, the only one to stay there.
        others: that the build will write or remove, beside the side folder.

    Raises:
        ValueError: if `out` holds something else than a gallery.
        OSError: if it cannot be written, or another build is under way.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"Output '{out}' is a file: pass a folder for the gallery.")
    side = shards.parent
    # Whoever planted a link there would have other files written or removed.
    for path in (side, shards, side / "lock", *others):
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


def old_table(out: Path, fingerprint: str, features: Any) -> list[TableReader]:
    """Return the former table if this model encoded it, its columns are the same and it is whole; otherwise nothing."""
    try:
        manifest = read_manifest(out)
        reader = table_of(out / manifest["data"])
        if manifest["fingerprint"] != fingerprint or not reader.has_columns(features.arrow_schema):
            return []
        reader.columns(IDENTITY)
        # Galleries of earlier versions name no hash.
        whole = manifest.get("embeddings") in (None, table_hash(reader, manifest["dim"]))
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
    """Put known and new rows together in the source's order, and publish them."""
    bad = {entry["path"] for entry in report.unreadable}
    known = KnownRows([*old, *_shard_tables(job.shards)])
    places = [known.place(photo) for photo in job.source.photos if photo.path not in bad]
    publish_gallery(job, out, known.readers, places, old, model_name, kind, report, progress)
