"""Vector indices: their kind by the number of photos, their recall against exact search, and their files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets.search import FaissIndex
from tqdm.auto import tqdm

from ..common.files import written_whole
from .compressed_index import CompressedIndex, HalfVectors, build_compressed

KINDS = ("exact", "hnsw", "ivf")
# Exact search over this many photos takes 5 ms on one core at 512 dimensions.
EXACT_UP_TO = 50_000
HNSW_UP_TO = 2_000_000
# More than the 0.98 that sketches shall reach: they lie further from photos than the stored photos that are asked here.
RECALL_TARGET = 0.995
_RECALL_QUERIES = 200
_RECALL_DEPTH = 100
_BLOCK = 65_536
_ADD_ROWS = 10_000


def choose_kind(count: int, kind: str = "auto") -> str:
    """Return the kind of index for so many photos: "exact", "hnsw" or "ivf".

    Raises:
        ValueError: if `kind` is neither one of these nor "auto".
    """
    if kind == "auto":
        return "exact" if count <= EXACT_UP_TO else "hnsw" if count <= HNSW_UP_TO else "ivf"
    if kind not in KINDS:
        raise ValueError(f"Index kind '{kind}' is unknown: use auto, {', '.join(KINDS)}.")
    return kind


def build_index(
    embeddings: np.ndarray | HalfVectors, kind: str, progress: bool = True
) -> tuple[FaissIndex, dict[str, Any]]:
    """Build an inner-product index, searched as deep as the recall target needs.

    HNSW holds the embeddings as 16-bit floats: half the memory, and scores within 0.0005. IVF is described in
    `compressed_index`.

    Args:
        embeddings: (N, D) float32 of unit norm; for "ivf" also 16-bit floats, which may lie in a file.
        kind: "exact", "hnsw" or "ivf".
        progress: show a bar if it takes longer than five seconds.

    Returns:
        The index, and what the manifest records: its kind, the depth of search (HNSW's ef, IVF's probed lists) and the
        recall. That is the measured share of the exact first `recall_at` photos that are found. For HNSW the queries
        are stored photos, so it is an upper estimate for sketches; an index that cannot reach the target is replaced
        by an exact one, and `instead_of` and `its_recall` are recorded too. For IVF they lie outside the photos.
    """
    if kind == "ivf":
        half = embeddings if isinstance(embeddings, HalfVectors) else HalfVectors(embeddings.astype(np.float16))
        return build_compressed(half, progress)
    assert isinstance(embeddings, np.ndarray)
    count, dim = embeddings.shape
    index: Any = faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_fp16, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
    with tqdm(total=count, desc="Indexing", unit="image", delay=5, disable=not progress) as bar:
        for start in range(0, count, _ADD_ROWS):
            block = embeddings[start : start + _ADD_ROWS]
            index.add(block)
            bar.update(len(block))
    depth, recall = _tune(index, kind, embeddings)
    if recall < RECALL_TARGET:  # as where very many photos are equal
        exact, facts = build_index(embeddings, "exact", progress)
        return exact, facts | {"instead_of": kind, "its_recall": round(recall, 4)}
    return FaissIndex(custom_index=index), {
        "kind": kind,
        "depth": depth,
        "recall": round(recall, 4),
        "recall_at": min(_RECALL_DEPTH, count),
    }


def _sample(embeddings: np.ndarray, count: int) -> np.ndarray:
    rows = np.random.default_rng(0).permutation(len(embeddings))[:count]
    return embeddings[np.sort(rows)]


def _tune(index: Any, kind: str, embeddings: np.ndarray) -> tuple[int, float]:
    """Search a quarter deeper each time until the recall target is met; return depth and recall."""
    if kind == "exact":
        return 0, 1.0
    queries, best = _sample(embeddings, _RECALL_QUERIES), min(_RECALL_DEPTH, len(embeddings))
    exact = faiss.knn(queries, embeddings, best, metric=faiss.METRIC_INNER_PRODUCT)[0]  # (Q, best) scores
    deepest = len(embeddings)
    depth = min(64, deepest)
    while True:
        index.hnsw.efSearch = depth
        rows = index.search(queries, best)[1]  # -1 where there are fewer
        scores = np.einsum("qd,qkd->qk", queries, embeddings[rows])
        # Compared by exact score, not by row: of photos with equal scores any is right.
        recall = float(((scores >= exact[:, -1:] - 1e-6) & (rows >= 0)).mean())
        if recall >= RECALL_TARGET or depth == deepest:
            return depth, recall
        depth = min(depth * 5 // 4, deepest)


def stored_vectors(index: FaissIndex, rows: np.ndarray) -> np.ndarray:
    """Return the embeddings (M, D) float32 of rows (M,), as the index holds them."""
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    return index.vectors[rows] if isinstance(index, CompressedIndex) else index.faiss_index.reconstruct_batch(rows)


def search_rows(
    vectors: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, k: int, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Search exactly among some rows.

    Args:
        vectors: returns the embeddings (M, D) of rows (M,).
        queries: (Q, D) float32.
        rows: (M,) the rows allowed, M > 0.

    Returns:
        Scores (Q, min(k, M)), highest first, and rows of the same shape.
    """
    best_scores = np.empty((len(queries), 0), np.float32)
    best_rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), _BLOCK):
        block = np.ascontiguousarray(rows[start : start + _BLOCK], dtype=np.int64)
        scores = queries @ vectors(block).T  # (Q, block)
        best_scores = np.concatenate([best_scores, scores], axis=1)
        best_rows = np.concatenate([best_rows, np.broadcast_to(block, scores.shape)], axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(best_scores, order, axis=1)
        best_rows = np.take_along_axis(best_rows, order, axis=1)
    return best_scores, best_rows


def save_index(index: FaissIndex, path: Path) -> None:
    """Write an index to a file, or a compressed one to a folder, whole or not at all.

    Raises:
        OSError, RuntimeError: if it cannot be written.
    """
    with written_whole(path) as partial:
        if isinstance(index, CompressedIndex):
            index.save(partial)
        else:
            faiss.write_index(index.faiss_index, str(partial))


def load_index(path: Path) -> FaissIndex:
    """Read an index that `save_index` wrote. Never pass one from elsewhere: native code parses and trusts it.

    The file is mapped, not copied, so that opening a large one takes no time; codes of a compressed one are read.

    Raises:
        OSError, RuntimeError, ValueError, KeyError: if it is damaged.
    """
    if path.is_dir():
        return CompressedIndex.load(path)
    return FaissIndex(custom_index=faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))
