"""Speed of the gallery's index on clustered vectors, beside the plain matrix product, and of a whole search.

python -m benchmarks.search_speed --count 1000000 --out benchmarks/results/search_speed.json

The vectors are unit-norm draws around random centres, as embeddings of photos are; queries are drawn around the same
centres, further out. Opening and searching run in a process of their own, whose memory is what a search needs.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from modeling_splip.gallery_index import KINDS, build_index, choose_kind, load_index, save_index
from modeling_splip.registry import load_retriever

DEPTH = 100
QUERIES = 1000


def draw_vectors(count: int, dim: int, spread: float, seed: int) -> np.ndarray:
    """Return (count, dim) float32 unit vectors around `count / 500` centres that do not depend on the seed."""
    centres = np.random.default_rng(0).standard_normal((2000, dim), dtype=np.float32)
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, dim), dtype=np.float32)
    vectors *= spread
    for start in range(0, count, 100_000):
        block = vectors[start : start + 100_000]
        block += centres[random.integers(0, len(centres), len(block))]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def measure_build(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build, save and remember the exact answers."""
    vectors = draw_vectors(args.count, args.dim, 1.0, seed=1)
    queries = draw_vectors(QUERIES, args.dim, 1.2, seed=2)
    start = time.perf_counter()
    index, facts = build_index(vectors, choose_kind(args.count, args.kind))
    built = time.perf_counter() - start
    save_index(index, folder / "index.faiss")
    scores = faiss.knn(queries, vectors, DEPTH, metric=faiss.METRIC_INNER_PRODUCT)[0]  # (Q, DEPTH)
    np.savez(folder / "queries.npz", queries=queries, worst=scores[:, -1])
    plain = []
    for query in queries[: args.plain_queries]:
        start = time.perf_counter()
        products = vectors @ query
        best = np.argpartition(-products, DEPTH - 1)[:DEPTH]
        best[np.argsort(-products[best])]
        plain.append(time.perf_counter() - start)
    return {"build_s": round(built, 1), **facts, "plain_product": percentiles(plain)}


def measure_search(folder: Path) -> dict[str, Any]:
    """Open the index and search it, in this process."""
    start = time.perf_counter()
    index = load_index(folder / "index.faiss")
    assert index is not None
    opened = time.perf_counter() - start
    with np.load(folder / "queries.npz") as saved:
        queries, worst = saved["queries"], saved["worst"]
    index.search_batch(queries[:50], DEPTH)  # the first searches read the file
    times = []
    for query in queries:
        start = time.perf_counter()
        index.search_batch(query[None], DEPTH)
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    found = index.search_batch(queries, DEPTH).total_scores
    batch = time.perf_counter() - start
    return {
        "open_s": round(opened, 3),
        "memory_mib": round(resident_mib()),
        "one_query": percentiles(times),
        "batch_queries_per_s": round(len(queries) / batch),
        f"recall_at_{DEPTH}": round(float((found >= worst[:, None] - 1e-6).mean()), 4),
    }


def measure_sketch(name: str) -> dict[str, Any]:
    """Time what comes before the index: reading and encoding one sketch."""
    from PIL import Image, ImageDraw

    model, processor = load_retriever(name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sketch.png"
        sketch = Image.new("RGB", (512, 512), "white")
        ImageDraw.Draw(sketch).ellipse([100, 80, 400, 420], outline="black", width=6)
        sketch.save(file)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            model.encode(processor(images=file, modality="sketch")["pixel_values"], "sketch")
            times.append(time.perf_counter() - start)
    return {"model": name, **percentiles(times)}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return median and 99th percentile in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def resident_mib() -> float:
    """Return the most memory that this process has held, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=("auto", *KINDS), default="auto")
    parser.add_argument("--model", default="clip", help="for the time of one sketch from file to embedding")
    parser.add_argument("--plain-queries", type=int, default=50)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--search-only", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search_only:
        print(json.dumps(measure_search(args.search_only)))
        return
    with tempfile.TemporaryDirectory() as folder:
        record: dict[str, Any] = {"count": args.count, "dim": args.dim, **measure_build(args, Path(folder))}
        command = [sys.executable, "-m", "benchmarks.search_speed", "--search-only", folder]
        record |= json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
    record["sketch_to_embedding"] = measure_sketch(args.model)
    record["machine"] = {"cores": os.cpu_count(), "processor": platform.machine(), "faiss": faiss.__version__}
    text = json.dumps(record, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
