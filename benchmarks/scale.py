"""What a gallery of millions costs: codes, index, updates and encoding, measured part by part.

    OMP_NUM_THREADS=2 python -m benchmarks.scale --parts codes 1m 3m 10m    # and: encode updates

Every part writes its own entry of the result, and a part that was interrupted goes on from the files in the work folder
(10 GB for ten million vectors); `--again` measures it anew. Vectors and queries are those of `search_speed`: unit-norm
draws around random centres, 500 around each, the queries further out, as sketches are. The vectors are drawn in blocks,
each of a seed of its own, and written as 16-bit floats. Building and searching run in processes of their own. Of their
memory, `anonymous` is what they hold, and `mapped` are pages of files, which the system takes back when it needs them.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.search_speed import CLUSTER, DEPTH, draw_vectors, measure, peak_mib
from modeling_splip.common.files import check_writable, write_json, written_whole
from modeling_splip.search import compressed_index
from modeling_splip.search.compressed_index import (
    CODES,
    VECTORS,
    CompressedIndex,
    HalfVectors,
    build_compressed,
    nearest_exactly,
)

DIM = 512
QUERIES = 500
BLOCK = 100_000
SIZES = {"1m": 1_000_000, "3m": 3_000_000, "10m": 10_000_000}
# Of ten million vectors on two cores.
BARS = {"p50_ms": 5.0, "recall": 0.95, "memory_mib": 8192}
# What the lists may hold: the code, as faiss names it, and how many times the photos wanted are scored again.
CODE_KINDS = ("SQ8", "PQ256x4fsr", "PQ128x4fsr", "OPQ128,PQ128x4fsr")
WIDTHS = (1, 2, 4, 8)


def draw_half_vectors(folder: Path, count: int) -> HalfVectors:
    """Return the vectors of a folder, drawn in blocks if they are not there."""
    file, size = folder / VECTORS, 2 * count * DIM
    folder.mkdir(parents=True, exist_ok=True)
    if not file.is_file() or file.stat().st_size != size:
        with written_whole(file) as partial, partial.open("wb") as sink:
            for start in range(0, count, BLOCK):
                block = draw_vectors(min(BLOCK, count - start), DIM, centres_of(count), 1.0, seed=1000 + start // BLOCK)
                block.astype(np.float16).tofile(sink)
    return HalfVectors.open(file, DIM)


def centres_of(count: int) -> int:
    """Return how many centres so many vectors lie around."""
    return max(1, count // CLUSTER)


def draw_queries(count: int) -> np.ndarray:
    """Return the queries (QUERIES, DIM) for so many vectors."""
    return draw_vectors(QUERIES, DIM, centres_of(count), 1.2, seed=2)


def memory() -> dict[str, int]:
    """Return what this process holds now and at its peak, in MiB."""
    status = Path("/proc/self/status").read_text()
    held = {name: int(status.split(f"{field}:")[1].split()[0]) // 1024 for name, field in _FIELDS.items()}
    return held | {"peak": peak_mib()}


_FIELDS = {"anonymous": "RssAnon", "mapped": "RssFile", "resident": "VmRSS"}


def measure_index(count: int, work: Path) -> dict[str, Any]:
    """Draw, build and search so many vectors; what is there already is not made again."""
    folder = work / str(count)
    began = time.perf_counter()
    vectors = draw_half_vectors(folder, count)
    drawn = time.perf_counter() - began
    if not (folder / "build.json").is_file():
        write_json(folder / "build.json", child("build", folder))
    if not (folder / "exact.npy").is_file():
        rows = nearest_exactly(draw_queries(count), vectors.blocks(), DEPTH)[1]  # (Q, DEPTH)
        with written_whole(folder / "exact.npy") as partial, partial.open("wb") as sink:
            np.save(sink, rows)
    record = {"count": count, "dim": DIM, "draw_s": round(drawn, 1)}
    record |= json.loads((folder / "build.json").read_text()) | child("search", folder)
    record["bytes"] = {name: (folder / name).stat().st_size for name in (CODES, VECTORS)}
    return record


def build(folder: Path) -> dict[str, Any]:
    """Build the index of a folder's vectors, in this process."""
    start = time.perf_counter()
    index, facts = build_compressed(HalfVectors.open(folder / VECTORS, DIM))
    built = time.perf_counter() - start
    index.save(folder)
    return {"build_s": round(built, 1), "build_memory_mib": memory(), "lists": index.faiss_index.nlist, "index": facts}


def search(folder: Path) -> dict[str, Any]:
    """Open the index of a folder and search it, in this process."""
    libraries = memory()
    start = time.perf_counter()
    index = CompressedIndex.load(folder)
    opened = time.perf_counter() - start
    queries, exact = draw_queries(len(index.vectors)), np.load(folder / "exact.npy")
    start = time.perf_counter()
    index.search_batch(queries[:1], DEPTH)
    first = time.perf_counter() - start
    index.search_batch(queries, DEPTH)  # the first searches read the files
    one = measure(lambda query: index.search_batch(query[None], DEPTH), queries)
    rescored = min(index.wide * DEPTH, len(index.vectors))
    by_codes = measure(lambda query: index.faiss_index.search(query[None], rescored), queries)
    start = time.perf_counter()
    rows = index.search_batch(queries, DEPTH)[1]
    batch = time.perf_counter() - start
    return {
        "open_s": round(opened, 2),
        "first_query_ms": round(1000 * first, 1),
        "one_query": one,
        "of_it_by_codes": by_codes,
        "batch_queries_per_s": round(len(queries) / batch),
        f"recall_at_{DEPTH}": shared(rows, exact),
        "memory_mib": memory(),
        "libraries_mib": libraries["resident"],
    }


def shared(rows: np.ndarray, exact: np.ndarray) -> float:
    """Return the mean share of the exact rows (Q, K) that is among the rows found."""
    return round(float(np.mean([len(np.intersect1d(*each)) for each in zip(rows, exact, strict=True)])) / DEPTH, 4)


def measure_codes(count: int, work: Path) -> dict[str, Any]:
    """Compare what the lists may hold: bytes, recall by how many photos are scored again, and time.

    So many lists are opened that what is missed is missed by the codes.
    """
    vectors, queries = draw_half_vectors(work / f"codes-{count}", count), draw_queries(count)
    exact = nearest_exactly(queries, vectors.blocks(), DEPTH)[1]
    lists = compressed_index._lists(count)
    rows = {}
    for kind in CODE_KINDS:
        codes = faiss.index_factory(DIM, _with_lists(kind, lists), faiss.METRIC_INNER_PRODUCT)
        ivf = faiss.extract_index_ivf(codes)
        ivf.cp.spherical = True
        if isinstance(codes, faiss.IndexPreTransform):  # OPQ: a fifth of its rounds, each of hundreds of k-means
            faiss.downcast_VectorTransform(codes.chain.at(0)).niter = 10
        start = time.perf_counter()
        codes.train(compressed_index._sample(vectors, lists * compressed_index._TRAIN_PER_LIST))
        for block in vectors.blocks():
            codes.add(block)
        built = time.perf_counter() - start
        ivf.nprobe = min(16, lists)
        rows[kind] = {"bytes": ivf.code_size, "build_s": round(built, 1), "by_width": _widths(codes, vectors, exact)}
    return {"count": count, "dim": DIM, "lists": lists, "opened": min(16, lists), "kinds": rows}


def _with_lists(kind: str, lists: int) -> str:
    *before, code = kind.split(",")
    return ",".join([*before, f"IVF{lists}", code])


def _widths(codes: Any, vectors: HalfVectors, exact: np.ndarray) -> dict[str, Any]:
    found, queries = {}, draw_queries(len(vectors))
    for wide in WIDTHS:
        index = CompressedIndex(codes, vectors, wide)
        index.search_batch(queries[:20], DEPTH)
        times = measure(lambda query, index=index: index.search_batch(query[None], DEPTH), queries)
        found[str(wide)] = {"recall": shared(index.search_batch(queries, DEPTH)[1], exact), **times}
    return found


def child(what: str, folder: Path) -> dict[str, Any]:
    """Run a step in a process of its own; return what it prints at its end."""
    command = [sys.executable, "-m", "benchmarks.scale", "--child", what, "--work", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def missed(record: dict[str, Any]) -> list[str]:
    """Return the bars that a record of ten million vectors does not meet."""
    reached = {
        "p50_ms": record["one_query"]["p50_ms"] < BARS["p50_ms"],
        "recall": record[f"recall_at_{DEPTH}"] >= BARS["recall"],
        "memory_mib": record["memory_mib"]["peak"] < BARS["memory_mib"],
    }
    return [name for name, met in reached.items() if not met]


def machine(load: float) -> dict[str, Any]:
    """Return what a part was measured on."""
    return {
        "cores": os.cpu_count(),
        "threads": faiss.omp_get_max_threads(),
        "processor": platform.machine(),
        "load_before": round(load, 1),
        "faiss": faiss.__version__,
    }


def run_part(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one part."""
    if name == "codes":
        return measure_codes(args.codes_count, args.work)
    if name == "updates":
        from benchmarks.scale_updates import measure_updates

        return measure_updates(args.updates_count, args.updates, args.work)
    if name == "encode":
        from benchmarks.scale_encode import measure_encoding

        return measure_encoding(args.images, args.work)
    record = measure_index(args.count or SIZES[name], args.work)
    return record | ({"bars": {**BARS, "missed": missed(record)}} if name == "10m" else {})


def parts(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the parts that are wanted and not there yet, each with its record."""
    there = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    for name in args.parts:
        if name in there and not args.again:
            print(f"{name}: measured already; --again measures it anew", file=sys.stderr)
            continue
        if args.again:
            shutil.rmtree(args.work / str(args.count or SIZES.get(name, name)), ignore_errors=True)
        load = os.getloadavg()[0]
        began = time.perf_counter()
        record = run_part(name, args)
        yield name, record | {"part_s": round(time.perf_counter() - began), "machine": machine(load)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("codes", "encode", "updates", *SIZES)
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names))
    parser.add_argument("--work", type=Path, default=Path("runs/scale"), help="folder for vectors and indices")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scale.json")
    parser.add_argument("--again", action="store_true", help="measure parts anew that are in the result")
    parser.add_argument("--count", type=int, help="vectors instead of a part's own number, to try it out")
    parser.add_argument("--codes-count", type=int, default=200_000, help="vectors that codes are compared on")
    parser.add_argument("--updates-count", type=int, default=1_000_000, help="photos in the gallery that is updated")
    parser.add_argument("--updates", type=int, default=10_000, help="photos added, changed and removed")
    parser.add_argument("--images", type=int, default=1200, help="photos to encode; a third of them are timed too")
    parser.add_argument("--memory-gb", type=int, default=16, help="anonymous memory that a process may take")
    parser.add_argument("--child", choices=("build", "search"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({"build": build, "search": search}[args.child](args.work)))
        return
    check_writable(args.out)
    limit = resource.RLIMIT_DATA  # of this process and those that it starts
    resource.setrlimit(limit, (args.memory_gb << 30, resource.getrlimit(limit)[1]))
    for name, record in parts(args):
        there = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
        write_json(args.out, there | {name: record})
        print(json.dumps({name: record}, indent=1))


if __name__ == "__main__":
    main()
