"""The part `updates` of `scale`: batches of changes to a large gallery, which another process searches meanwhile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scale import BLOCK, DIM, centres_of, draw_half_vectors, draw_queries, shared
from benchmarks.search_speed import DEPTH, draw_vectors, measure
from modeling_splip.common.files import remove, write_json
from modeling_splip.search.compressed_index import nearest_exactly
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.table import GROUP_ROWS, SCHEMA, table_features, table_of

BATCH = 100
KIND = "ivf"  # the index of the largest galleries; a million photos alone would have hnsw
# Of the updates: photos added, changed, removed.
SHARES = (0.4, 0.3, 0.3)


def make_gallery(folder: Path, work: Path, count: int) -> None:
    """Write a gallery of vectors without photos."""
    vectors, schema = draw_half_vectors(work, count), table_features(DIM, {}).arrow_schema
    data = folder / "data-0123456789ab"
    data.mkdir(parents=True)
    for number, start in enumerate(range(0, count, BLOCK)):
        block = vectors[start : start + BLOCK]
        block /= np.linalg.norm(block, axis=1, keepdims=True)  # of 32-bit floats, after rounding to 16 bits
        rows = rows_of([name_of(row) for row in range(start, start + len(block))], block, schema)
        pq.write_table(rows, data / f"photos-{number:05d}.parquet", row_group_size=GROUP_ROWS, write_page_checksum=True)
    manifest = {"schema": SCHEMA, "model": "none", "fingerprint": "none", "dim": DIM, "count": count, "data": data.name}
    write_json(folder / "manifest.json", manifest | {"index": {"kind": KIND}, "root": ""})


def name_of(row: int) -> str:
    """Return the path of a photo."""
    return f"photos/{row:09d}.jpg"


def rows_of(paths: list[str], vectors: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Return rows of a gallery's table; they have no thumbnails."""
    kind = schema.field("embedding").type
    columns = {field.name: pa.nulls(len(paths), field.type) for field in schema}
    columns |= {"path": paths, "label": [""] * len(paths), "sha256": [""] * len(paths)}
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), type=kind)
    return pa.table(columns, schema=schema)


def measure_updates(count: int, updates: int, work: Path) -> dict[str, Any]:
    """Open a gallery, update it in batches while another process searches it, and compact it."""
    work = (work / f"updates-{count}").absolute()
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")  # the index is kept there, for this process and the other
    folder = work / "gallery"
    remove(folder)
    remove(work / "cache")
    make_gallery(folder, work, count)
    gallery, opened = timed(lambda: Gallery.open(folder))
    record: dict[str, Any] = {"count": count, "dim": DIM, "index": KIND, "open_and_index_s": opened, "batch": BATCH}
    record["before"] = look(gallery)
    watcher = watch(folder, work)
    record["updates"] = send(gallery, count, updates)
    (work / "stop").touch()
    record["other_process"] = json.loads(watcher.communicate()[0].splitlines()[-1])
    record["reopen_s"] = timed(lambda: Gallery.open(folder))[1]
    record["after"] = look(gallery)
    record["compact_s"] = timed(lambda: gallery.compact())[1]
    record["compacted"] = look(gallery)
    return record


def timed(action: Any) -> tuple[Any, float]:
    """Return what an action returns, and its seconds."""
    start = time.perf_counter()
    result = action()
    return result, round(time.perf_counter() - start, 2)


def send(gallery: Gallery, count: int, updates: int) -> dict[str, Any]:
    """Send the updates in batches; return how long a batch takes."""
    rng, schema, seconds = np.random.default_rng(7), table_of(gallery.folder / gallery.manifest["data"]).schema, []
    some = rng.permutation(count)
    added = changed = removed = 0
    for start in range(0, updates, BATCH):
        size = min(BATCH, updates - start)
        more, other = round(SHARES[0] * size), round(SHARES[1] * size)
        less = size - more - other
        fresh = draw_vectors(more + other, DIM, centres_of(count), 1.0, seed=5000 + start)
        paths = [name_of(count + added + number) for number in range(more)]
        chosen = some[changed + removed : changed + removed + other + less]
        paths += [name_of(row) for row in chosen[:other]]
        rows = rows_of(paths, fresh, schema)
        began = time.perf_counter()
        gallery.put(rows, [name_of(row) for row in chosen[other:]])
        seconds.append(time.perf_counter() - began)
        added, changed, removed = added + more, changed + other, removed + less
    low, high = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {
        "added": added,
        "changed": changed,
        "removed": removed,
        "batch_p50_ms": round(float(low), 1),
        "batch_p99_ms": round(float(high), 1),
        "last_batch_ms": round(1000 * seconds[-1], 1),
    }


def look(gallery: Gallery) -> dict[str, Any]:
    """Return recall and time of a search, against an exact one among the photos that are there."""
    queries = draw_queries(gallery.manifest["count"])
    live = np.flatnonzero(gallery._counts())

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(live), BLOCK):
            yield gallery.vectors(live[start : start + BLOCK])

    exact = live[nearest_exactly(queries, blocks(), DEPTH)[1]]
    found = gallery.nearest(queries, DEPTH, None)[1]
    one = measure(lambda query: gallery.nearest(query[None], DEPTH, None), queries)
    return {"photos": len(gallery), f"recall_at_{DEPTH}": shared(found, exact), "one_query": one}


def watch(folder: Path, work: Path) -> subprocess.Popen:
    """Start a process that searches the gallery until the file `stop` appears; return it when it has begun."""
    for name in ("stop", "begun"):
        remove(work / name)
    command = [sys.executable, "-m", "benchmarks.scale_updates", str(folder), str(work)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not (work / "begun").exists():
        if process.poll() is not None:
            raise RuntimeError("The process that searches meanwhile has failed: see its message above.")
        time.sleep(0.1)
    return process


def search_meanwhile(folder: Path, work: Path) -> dict[str, Any]:
    """Search by one query after the other, as the gallery is at that moment; return times and what was seen."""
    gallery = Gallery.open(folder)
    queries, seconds, states = draw_queries(gallery.manifest["count"]), [], set()
    (work / "begun").touch()
    while not (work / "stop").exists():
        gallery.refresh()
        began = time.perf_counter()
        gallery.nearest(queries[len(seconds) % len(queries)][None], DEPTH, None)
        seconds.append(time.perf_counter() - began)
        states.add(len(gallery.manifest.get("changes", [])))
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {"searches": len(seconds), "states": len(states), "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


if __name__ == "__main__":
    print(json.dumps(search_meanwhile(Path(sys.argv[1]), Path(sys.argv[2]))))
