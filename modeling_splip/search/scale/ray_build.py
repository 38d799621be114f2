"""A build on Ray: shards of every photo that is new, and of them a gallery in a folder or on a Milvus server."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...common.files import remove
from ..build import check_counts, claim, old_table
from ..confidence import measure_scribbles
from ..encode import Job, KnownRows
from ..index import choose_kind
from ..milvus_gallery import MilvusGallery
from ..milvus_store import collection_name, send_photos
from ..photos import MAX_PIXELS, PhotoSource
from ..publish import BuildReport, check_some, doubt_of, new_manifest, publish_gallery
from ..table import TableReader, table_features
from .ray_encode import Means, encode_parts
from .shards import ShardFolder
from .sources import Part, PartedSource, find_source, listed_parts

SHARD_ROWS = 256  # photos of a shard, about 40 MB while they are decoded


def build_on_ray(
    photos: str,
    model: Any,
    processor: Any,
    out: str | os.PathLike,
    *,
    address: str | None = None,
    client: Any = None,
    model_name: str | None = None,
    split: str | None = None,
    index: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    precision: str = "auto",
    gpu: bool = True,
    max_pixels: int = MAX_PIXELS,
    follow_paths: bool = False,
    shard_rows: int = SHARD_ROWS,
    progress: bool = True,
) -> BuildReport:
    """Encode photos on the machines of a Ray cluster, and write a gallery or bring one up to date.

    Finished shards lie in `<out>.shards`: whatever is killed, running the same again goes on from them. The result is
    that of an undisturbed run, and but for rounding to 16 bits that of `build_gallery`. Shards of archives, and of a
    gallery on a server, stay there for the next update.

    Args:
        photos: a place as `find_source` takes it, which every machine can read.
        address: of a cluster, such as "auto"; default: this machine alone.
        client: of a Milvus server, for a gallery there; then only the gallery's name comes of `out`.
        workers: at most so many encoders; default: one for each GPU, or without GPUs for each core.
        gpu: whether to use GPUs where there are some.
        shard_rows: photos of a shard.
        model, processor, out, others: as `Gallery.build` takes them; the model is sent to the machines.

    Raises:
        FileNotFoundError, ValueError, OSError: in one sentence, as `build_gallery` does, and if Ray is not installed,
            its cluster does not answer, or a file of the source is damaged.
    """
    choose_kind(1, index)
    check_counts(batch_size=batch_size, workers=workers, shard_rows=shard_rows)
    means = Means(address, workers, batch_size, precision, gpu)
    out = Path(out).expanduser()
    source = find_source(photos, split, follow_paths, shard_rows)
    job = _job(model.for_search().to("cpu"), processor, source, out, batch_size or 32, max_pixels)
    lock = claim(out, job.shards, _kept(out))
    try:
        return _build(job, out, shard_rows, means, client, model_name, index, progress)
    finally:
        lock.release()


def _job(model: Any, processor: Any, source: PhotoSource, out: Path, batch_size: int, max_pixels: int) -> Job:
    features, fingerprint = table_features(model.config.projection_dim, source.metadata), model.fingerprint(processor)
    side = out.with_name(out.name + ".partial")
    return Job(model, processor, source, features, side / "ray", 0, fingerprint, batch_size, max_pixels)


def _kept(out: Path) -> Path:
    return out.with_name(out.name + ".shards")


def _build(
    job: Job, out: Path, size: int, means: Means, client: Any, model_name: str | None, index: str, progress: bool
) -> BuildReport:
    """Encode what is new, and make a gallery of all; the arguments are those of `build_on_ray`."""
    source = job.source
    old = old_table(out, job.fingerprint, job.features) if client is None else []
    known = KnownRows(old)
    places = [known.unchanged(photo) for photo in source.photos]
    new = [photo for photo, place in zip(source.photos, places, strict=True) if place is None]
    parts = source.parts if isinstance(source, PartedSource) else listed_parts(new, size)
    columns = hashlib.sha256(repr(job.features).encode()).hexdigest()[:8]
    shards = ShardFolder(_kept(out) / f"{job.fingerprint}-{columns}")
    report = BuildReport(0, encode_parts(job, shards, parts, means, progress), 0)
    report.unreadable, left_out = shards.summary(parts)
    source.left_out.update(left_out)
    readers = [*old, shards.reader(parts)] if parts else old
    rows = _all_rows(source, places, report, readers)
    if not rows:
        remove(_kept(out))
    check_some(job, rows, report)
    if client is not None:
        _send(job, out, readers[-1], parts, client, model_name, index, report, progress)
        remove(job.shards.parent)
    else:
        publish_gallery(job, out, readers, rows, old, model_name, index, report, progress)
    if client is not None or isinstance(source, PartedSource):
        shards.keep_only(parts)
    else:  # the gallery itself tells which photos of a list are known
        remove(_kept(out))
    return report


def _all_rows(
    source: PhotoSource,
    places: Sequence[tuple[int, int] | None],
    report: BuildReport,
    readers: Sequence[TableReader],
) -> list[tuple[int, int]]:
    """Return the rows of the gallery in its order, from the former gallery and from the shards, which are read last.

    Args:
        places: of every listed photo, its row in the former gallery, or None where it is new.
    """
    if isinstance(source, PartedSource):
        return [(len(readers) - 1, row) for row in range(len(readers[-1]))]
    bad = {entry["path"] for entry in report.unreadable}
    fresh = itertools.count()
    return [
        place or (len(readers) - 1, next(fresh))
        for photo, place in zip(source.photos, places, strict=True)
        if place or photo.path not in bad
    ]


def _send(
    job: Job,
    out: Path,
    reader: TableReader,
    parts: Sequence[Part],
    client: Any,
    model_name: str | None,
    kind: str,
    report: BuildReport,
    progress: bool,
) -> None:
    """Send the rows of the shards to a Milvus server as a gallery, and complete the report."""
    name = collection_name(out)
    report.count, report.index = len(reader), {"kind": choose_kind(len(reader), kind)}
    report.doubt = doubt_of([reader], [(0, row) for row in range(len(reader))])
    facts = [job.fingerprint, report.index["kind"], *(part.key for part in parts)]
    version = "data-" + hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()

    def with_scribbles(record: dict[str, Any]) -> dict[str, Any]:
        gallery = MilvusGallery(name, record, client)
        nearest = partial(gallery.nearest, where=None)
        scribbles = measure_scribbles(job.model, job.processor, nearest, gallery.vectors, len(reader), job.batch_size)
        return record | {"scribbles": scribbles}

    manifest = new_manifest(job, out, model_name, version, report, {})
    report.sent = send_photos(reader, manifest, client, name, progress, with_scribbles)
