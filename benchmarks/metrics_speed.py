"""Time the metrics at the sizes of Sketchy-2 and QuickDraw against the per-query loops of published code.

    python -m benchmarks.metrics_speed               # Sketchy-2, one thread, every loop in the same run
    python -m benchmarks.metrics_speed --quickdraw   # QuickDraw, two threads: time and peak memory

The features are random with the real numbers of sketches and photos per class. The loops restate what the code of
each family does per query; they run on a sample of the queries (a loop's cost is linear in them) and are scaled to all.
Times are CPU seconds, best of the interleaved repeats; every loop's numbers are compared with ours on the same sample,
and torch's of all queries (what a GPU computes with, here on the CPU) with NumPy's.
"""

import argparse
import json
import os
import platform
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from modeling_splip.evaluation.device_arrays import TorchArrays
from modeling_splip.metrics.by_class import metrics_from_scores, retrieval_metrics

RESULTS = Path(__file__).parent / "results" / "metrics_speed.json"
WIDTH = 512
DEFINITIONS = ("p_200", "map_200_prefix", "map_200_min", "map_200_min_voc", "map_200_all", "map_all", "map_all_voc")
# Sketches and photos of the unseen classes: split 2 of Sketchy without duplicate photos, and QuickDraw-Extended.
SKETCHY2_SKETCHES = [635, 546, 728, 590, 578, 673, 746, 670, 575, 735, 556, 532, 558, 666, 545, 529, 605, 533, 542, 598]
SKETCHY2_SKETCHES += [554]
SKETCHY2_PHOTOS = [443, 392, 600, 613, 600, 600, 750, 345, 385, 600, 663, 600, 639, 600, 161, 600, 276, 495, 278, 393]
SKETCHY2_PHOTOS += [420]
QUICKDRAW_SKETCHES = [3001] * 29 + [5262]
QUICKDRAW_PHOTOS = [1705, 1996, 1677, 1961, 2043, 1304, 1576, 1619, 2084, 1611, 1576, 2000, 2118, 1735, 1873]
QUICKDRAW_PHOTOS += [1654, 1894, 2154, 1626, 1851, 1817, 1791, 1759, 1315, 1925, 2726, 1614, 1839, 1599, 1709]

Features = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Loop = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def features(sketches: list[int], photos: list[int], seed: int = 0) -> Features:
    """Unit-norm embeddings around a common direction per class, shuffled: query, gallery and their labels."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(photos), WIDTH), np.float32)

    def side(sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        rows = rng.standard_normal((len(labels), WIDTH), np.float32)
        rows *= rng.uniform(1.5, 6.0, (len(labels), 1)).astype(np.float32)  # clear and unclear pictures
        for label, centre in enumerate(centres):
            rows[labels == label] += centre
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows, labels

    query, query_labels = side(sketches)
    gallery, gallery_labels = side(photos)
    return query, gallery, query_labels, gallery_labels


def ours(query: np.ndarray, gallery: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
    """Every metric of the package; returns the four that the loops compute."""
    metrics = retrieval_metrics(query, gallery, query_labels, gallery_labels)["metrics"]
    return np.array([metrics[name] for name in ("map_all", "map_200_prefix", "p_100", "p_200")])


def sklearn_loop(query: np.ndarray, gallery: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
    """sem-pcyc's family: scikit-learn's AP per query, whole and cut at 200; every number sorts anew."""
    scores = query @ gallery.T
    rows = []
    for row, label in zip(scores, labels, strict=True):
        relevant = gallery_labels == label
        actual = np.flatnonzero(relevant)
        values = []
        for k in (len(gallery), 200):
            top = np.argsort(-row)[:k]
            values.append(average_precision_score(relevant[top], row[top]) if relevant[top].any() else 0.0)
        for k in (100, 200):
            values.append(len(set(actual) & set(np.argsort(-row)[:k])) / k)
        rows.append(values)
    return np.mean(rows, axis=0)


def voc_loop(query: np.ndarray, gallery: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
    """SAKE's and ZSE-SBIR's family: one sort, interpolated AP by loops over ranks (only its P@k is comparable)."""
    scores = query @ gallery.T
    rows = []
    for row, label in zip(scores, labels, strict=True):
        hits = (gallery_labels == label)[np.argsort(-row)]
        values = []
        for k in (len(gallery), 200):
            found = np.cumsum(hits[:k])
            recall = [0.0, *(found / min(k, hits.sum())), 1.0]
            precision = [0.0, *(found / np.arange(1, len(found) + 1)), 0.0]
            for i in range(len(precision) - 2, -1, -1):
                precision[i] = max(precision[i], precision[i + 1])
            steps = [i for i in range(1, len(recall)) if recall[i] != recall[i - 1]]
            values.append(sum((recall[i] - recall[i - 1]) * precision[i] for i in steps))
        rows.append([*values, hits[:100].mean(), hits[:200].mean()])
    return np.mean(rows, axis=0)


def clip_loop(query: np.ndarray, gallery: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
    """CLIP-AT's, ClipPrompt's and KD-SBIR's family: cosines per query, then a top-k for every number."""
    photos = torch.from_numpy(gallery)
    rows = []
    for row, label in zip(torch.from_numpy(query), labels, strict=True):
        scores = torch.nn.functional.cosine_similarity(row[None], photos)
        relevant = torch.from_numpy(gallery_labels == label)
        values = []
        for k in (len(photos), 200):
            ranks = 1 + relevant[scores.topk(k).indices].nonzero()[:, 0]
            values.append((torch.arange(1, len(ranks) + 1) / ranks).mean().item() if len(ranks) else 0.0)
        for k in (100, 200):
            values.append(relevant[scores.topk(k).indices].sum().item() / k)
        rows.append(values)
    return np.mean(rows, axis=0)


def lean_loop(query: np.ndarray, gallery: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray) -> np.ndarray:
    """The leanest loop that sorts per query: one argsort, all four numbers from it. No published code is this lean."""
    scores = query @ gallery.T
    positions = np.arange(1, len(gallery) + 1)
    rows = []
    for row, label in zip(scores, labels, strict=True):
        hits = (gallery_labels == label)[np.argsort(-row)]
        precision = np.cumsum(hits) / positions
        first = precision[:200][hits[:200]]
        prefix = first.mean() if len(first) else 0.0
        rows.append([precision[hits].mean(), prefix, hits[:100].mean(), hits[:200].mean()])
    return np.mean(rows, axis=0)


LOOPS: dict[str, Loop] = {"sklearn": sklearn_loop, "voc": voc_loop, "clip": clip_loop, "lean": lean_loop}


class PeakMemory:
    """Resident memory of this process, watched by a thread: `start`, and `peak` while the block runs, in MB."""

    def __enter__(self) -> "PeakMemory":
        self.start = self.peak = self._now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def sketchy2(repeats: int, sample: int) -> dict[str, Any]:
    """One thread: ours on all queries and every loop on a sample of them, in turn."""
    data = features(SKETCHY2_SKETCHES, SKETCHY2_PHOTOS)
    query, gallery, labels, gallery_labels = data
    rows = np.random.default_rng(1).choice(len(query), sample, replace=False)
    part = (query[rows], gallery, labels[rows], gallery_labels)
    with PeakMemory() as memory:  # first, before anything else has grown the process
        whole = retrieval_metrics(*data)
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *LOOPS)}
    numbers = {"ours": ours(*part)}
    for loop in LOOPS.values():
        loop(query[rows[:20]], gallery, labels[rows[:20]], gallery_labels)
    for _ in tqdm(range(repeats), desc="repeats"):
        seconds["ours"].append(_cpu_seconds(lambda: ours(*data)))
        for name, loop in LOOPS.items():
            start = time.process_time()
            numbers[name] = loop(*part)
            seconds[name].append((time.process_time() - start) * len(query) / sample)
    torchs = retrieval_metrics(*data, arrays=TorchArrays("cpu"))["metrics"]
    tracemalloc.start()
    ours(*data)
    traced = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()

    best = {name: min(values) for name, values in seconds.items()}
    comparable = {name: slice(2, None) if name == "voc" else slice(None) for name in LOOPS}
    return {
        "queries": len(query),
        "photos": len(gallery),
        "width": WIDTH,
        "classes": len(SKETCHY2_PHOTOS),
        "threads": 1,
        "queries_in_loops": sample,
        "repeats": repeats,
        "cpu_seconds": {name: round(value, 2) for name, value in best.items()},
        "matrix_product_cpu_seconds": round(min(_cpu_seconds(lambda: _product(query, gallery)) for _ in range(2)), 2),
        "times_faster_than": {
            name: round(float(np.median(np.array(seconds[name]) / np.array(seconds["ours"]))), 1) for name in LOOPS
        },
        "largest_difference": {
            name: float(np.abs(numbers[name] - numbers["ours"])[comparable[name]].max()) for name in LOOPS
        },
        "torch_differs_by": max(abs(torchs[name] - value) for name, value in whole["metrics"].items()),
        "peak_mb_above_features": {"resident": round(memory.peak - memory.start, 1), "traced": round(traced, 1)},
        "one_ranking": {name: round(whole["metrics"][name], 4) for name in DEFINITIONS} | {"ties": whole["ties"]},
        "map_all_moved_by": half_precision(*part),
    }


def half_precision(
    query: np.ndarray, gallery: np.ndarray, labels: np.ndarray, gallery_labels: np.ndarray
) -> dict[str, float]:
    """How far mAP@all moves when the scores of the same embeddings are rounded to half precision before ranking."""
    scores = torch.from_numpy(query) @ torch.from_numpy(gallery).T
    exact = metrics_from_scores(scores, labels, gallery_labels)["metrics"]["map_all"]
    moved = {}
    for name, kind in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        rounded = metrics_from_scores(scores.to(kind).float(), labels, gallery_labels)
        moved[name] = float(f"{rounded['metrics']['map_all'] - exact:.1e}")
    return moved


def quickdraw() -> dict[str, Any]:
    """Two threads: every metric on the full QuickDraw test set."""
    query, gallery, labels, gallery_labels = features(QUICKDRAW_SKETCHES, QUICKDRAW_PHOTOS)
    start, cpu = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        result = retrieval_metrics(query, gallery, labels, gallery_labels, progress=tqdm)
    return {
        "queries": len(query),
        "photos": len(gallery),
        "width": WIDTH,
        "classes": len(QUICKDRAW_PHOTOS),
        "threads": 2,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": round(memory.peak, 1),
        "peak_mb_above_features": round(memory.peak - memory.start, 1),
        "map_all": result["metrics"]["map_all"],
        "ties": result["ties"],
    }


def _product(query: np.ndarray, gallery: np.ndarray) -> None:
    for start in range(0, len(query), 256):
        query[start : start + 256] @ gallery.T


def _cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickdraw", action="store_true", help="measure at the size of QuickDraw instead")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repeats at the size of Sketchy-2")
    parser.add_argument("--sample", type=int, default=400, help="queries that the loops run on, scaled to all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file; the other size's entry is kept")
    args = parser.parse_args()
    threads = 2 if args.quickdraw else 1
    load = round(os.getloadavg()[0], 1)  # of other programs: wall-clock times grow with it
    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        entry = {"quickdraw": quickdraw()} if args.quickdraw else {"sketchy2": sketchy2(args.repeats, args.sample)}
    for measured in entry.values():
        measured["load_before"] = load
    kept = json.loads(args.output.read_text()) if args.output.exists() else {}
    machine = {"processor": _processor(), "python": platform.python_version(), "numpy": np.__version__}
    report = kept | {"machine": machine | {"torch": torch.__version__}} | entry
    args.output.parent.mkdir(parents=True, exist_ok=True)
    aside = args.output.with_name(args.output.name + ".partial")
    aside.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n")
    os.replace(aside, args.output)
    print(json.dumps(entry, indent=2))


if __name__ == "__main__":
    main()
