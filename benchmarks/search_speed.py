"""Speed of the gallery's index on clustered vectors, beside the plain matrix product, and of a whole search.

    OMP_NUM_THREADS=2 python -m benchmarks.search_speed --out benchmarks/results/search_speed.json

The vectors are unit-norm draws around random centres, 500 around each, as embeddings of photos are; queries are drawn
around the same centres, further out, as sketches are. Opening and searching run in a process of their own, whose memory
is what a search needs, the libraries and the index file as far as it is mapped included.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets.search import FaissIndex
from PIL import Image, ImageDraw

from modeling_splip.common.files import check_writable, write_json
from modeling_splip.processing_splip import to_rgb
from modeling_splip.search.index import KINDS, build_index, choose_kind, load_index, save_index

DEPTH = 100
QUERIES = 1000
SKETCHES = 100
CLUSTER = 500
# What a million photos on two cores shall reach.
BARS = {"p50_ms": 1.0, "recall": 0.98, "open_s": 2.0, "memory_mib": 3072}


def draw_vectors(count: int, dim: int, centres: int, spread: float, seed: int) -> np.ndarray:
    """Return (count, dim) float32 unit vectors around centres that do not depend on the seed."""
    middles = np.random.default_rng(0).standard_normal((centres, dim), dtype=np.float32)
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dim), dtype=np.float32)
    vectors *= spread
    for start in range(0, count, 100_000):
        block = vectors[start : start + 100_000]
        block += middles[random.integers(0, centres, len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def measure_build(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build and save the index, keep the exact answers, and time the plain alternative."""
    centres = max(1, args.count // CLUSTER)
    vectors = draw_vectors(args.count, args.dim, centres, 1.0, seed=1)
    queries = draw_vectors(QUERIES, args.dim, centres, 1.2, seed=2)
    start = time.perf_counter()
    index, facts = build_index(vectors, choose_kind(args.count, args.kind))
    built = time.perf_counter() - start
    save_index(index, folder / "index.faiss")
    memory = peak_mib()
    exact = faiss.knn(queries, vectors, DEPTH, metric=faiss.METRIC_INNER_PRODUCT)[1]  # (Q, DEPTH) rows
    np.savez(folder / "queries.npz", queries=queries, exact=exact)

    def multiply(query: np.ndarray) -> None:
        products = vectors @ query  # (N,)
        best = np.argpartition(-products, DEPTH - 1)[:DEPTH]
        best[np.argsort(-products[best])]

    plain = measure(multiply, queries[: args.plain_queries])
    return {"build_s": round(built, 1), "build_peak_mib": memory, "index": facts, "plain_product": plain}


def measure_search(folder: Path, model: str) -> dict[str, Any]:
    """Open the index and search it, in this process."""
    start = time.perf_counter()
    index = load_index(folder / "index.faiss")
    assert index is not None
    opened = time.perf_counter() - start
    with np.load(folder / "queries.npz") as saved:
        queries, exact = saved["queries"], saved["exact"]
    start = time.perf_counter()
    index.search_batch(queries[:1], DEPTH)
    first = time.perf_counter() - start
    index.search_batch(queries, DEPTH)  # the first searches read the file
    one = measure(lambda query: index.search_batch(query[None], DEPTH), queries)
    start = time.perf_counter()
    found = index.search_batch(queries, DEPTH).total_indices  # (Q, DEPTH)
    batch = time.perf_counter() - start
    shared = [len(np.intersect1d(*rows)) for rows in zip(found, exact, strict=True)]
    return {
        "open_s": round(opened, 3),
        "first_query_ms": round(1000 * first, 1),
        "memory_mib": peak_mib(),
        "one_query": one,
        "batch_queries_per_s": round(len(queries) / batch),
        f"recall_at_{DEPTH}": round(float(np.mean(shared)) / DEPTH, 4),
        "one_sketch": measure_sketch(model, index, queries),
    }


def measure_sketch(name: str, index: FaissIndex, queries: np.ndarray) -> dict[str, Any]:
    """Time a sketch's way from its file to its photos; the search is by one of these queries, of the index's width."""
    from modeling_splip.loading import load_retriever  # its memory is the model's, not the search's

    model, processor = load_retriever(name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sketch.png"
        sketch = Image.new("RGB", (512, 512), "white")
        ImageDraw.Draw(sketch).ellipse([100, 80, 400, 420], outline="black", width=6)
        sketch.save(file)

        def decode(query: np.ndarray) -> Any:
            return processor(images=to_rgb(file), modality="sketch")["pixel_values"]

        def whole(query: np.ndarray) -> None:
            model.encode(decode(query), "sketch")
            index.search_batch(query[None], DEPTH)

        whole(queries[0])
        pixel_values = decode(queries[0])
        return {
            "model": name,
            "decode": measure(decode, queries[:SKETCHES]),
            "encode": measure(lambda _: model.encode(pixel_values, "sketch"), queries[:SKETCHES]),
            "decode_encode_search": measure(whole, queries[:SKETCHES]),
        }


def measure(action: Callable[[np.ndarray], Any], queries: Sequence[np.ndarray] | np.ndarray) -> dict[str, float]:
    """Run it on each query; return median and 99th percentile in milliseconds."""
    seconds = []
    for query in queries:
        start = time.perf_counter()
        action(query)
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def missed(record: dict[str, Any]) -> list[str]:
    """Return the bars that a record does not meet."""
    reached = {
        "p50_ms": record["one_query"]["p50_ms"] < BARS["p50_ms"],
        "recall": record[f"recall_at_{DEPTH}"] >= BARS["recall"],
        "open_s": record["open_s"] < BARS["open_s"],
        "memory_mib": record["memory_mib"] < BARS["memory_mib"],
    }
    return [name for name, met in reached.items() if not met]


def peak_mib() -> int:
    """Return the most memory that this process has held, mapped files included."""
    # Not `getrusage`: there, a process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto")
    parser.add_argument("--model", default="clip:mini_clip", help="for the time of one sketch from file to photos")
    parser.add_argument("--plain-queries", type=int, default=50)
    parser.add_argument("--out", type=Path, help="file for the JSON, which is printed anyway")
    parser.add_argument("--search-only", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search_only:
        print(json.dumps(measure_search(args.search_only, args.model)))
        return 0
    if args.out:
        check_writable(args.out)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        record: dict[str, Any] = {"count": args.count, "dim": args.dim, **measure_build(args, Path(folder))}
        command = [sys.executable, "-m", "benchmarks.search_speed", "--search-only", folder, "--model", args.model]
        searched = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    record |= json.loads(searched.splitlines()[-1])
    record["bars"] = {**BARS, "missed": missed(record)}
    record["machine"] = {
        "cores": os.cpu_count(),
        "threads": faiss.omp_get_max_threads(),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "processor": platform.machine(),
        "faiss": faiss.__version__,
    }
    print(json.dumps(record, indent=1))
    if args.out:
        write_json(args.out, record)
    return 1 if record["bars"]["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
