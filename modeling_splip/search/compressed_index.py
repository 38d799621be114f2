"""An index for millions of photos: short codes say which may be near, a file of 16-bit floats how near they are.

The codes lie in inverted lists (IVF) and are searched in memory: product quantisation with 4 bits for two numbers, in
the layout that faiss calls fast scan. The first photos by their codes are scored again by their embeddings, which stay
in a file that is mapped. So memory grows by a quarter byte a number, and no score is that of a code.
"""

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets.search import BatchedSearchResults, FaissIndex
from tqdm.auto import tqdm

PARTS = CODES, VECTORS, FACTS = "codes.faiss", "vectors.f16", "facts.json"
DEPTH = 100
# What is measured with queries outside the photos, as sketches are; how `_outside` makes them is a choice of ours.
RECALL_TARGET = 0.98
_QUERIES = 100
_TRAIN_PER_LIST = 256
_LEAST_GAIN = 0.001
_BLOCK = 65_536
# Product quantisation learns 16 codewords; with fewer photos than faiss wants for them, and for widths that have no
# divisor that fits, the lists hold 8 bits a number.
_TRAIN_CODES = 39 * 16
_MOST_PARTS = 256
# Reading a row maps what lies around it, up to 2 MiB where the system caches files in pieces of that size. After so
# many rows the mapping is dropped, not the system's cache.
_MAPPED_ROWS = 4096


class HalfVectors:
    """Embeddings as 16-bit floats, in memory or in a file that is mapped; indexing with rows returns 32-bit floats.

    Args:
        values: (N, D) float16.
        mapped: the mapping that `values` lies in, None for memory.
        path: the file that is mapped.
    """

    def __init__(self, values: np.ndarray, mapped: mmap.mmap | None = None, path: Path | None = None):
        self.values, self.path = values, path
        self.shape = values.shape
        self._mapped, self._read = mapped, 0

    @classmethod
    def open(cls, path: Path, dim: int) -> "HalfVectors":
        """Map a file of rows of this width.

        Raises:
            OSError, ValueError: if there is none, or it does not hold whole rows.
        """
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        vectors = cls(np.frombuffer(mapped, np.float16).reshape(-1, dim), mapped, path)
        vectors._advise("MADV_RANDOM")
        return vectors

    def _advise(self, name: str) -> None:
        """Tell the system how the file is read, where it can be told."""
        if self._mapped is not None and hasattr(mmap, name):
            self._mapped.madvise(getattr(mmap, name))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = self.values[rows].astype(np.float32)
        self._read += found.size // self.shape[1]
        if self._read > _MAPPED_ROWS:
            self._read = 0
            self._advise("MADV_DONTNEED")
        return found

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all rows in order, as blocks (M, D) float32."""
        self._advise("MADV_SEQUENTIAL")
        try:
            for start in range(0, len(self), _BLOCK):
                yield self[start : start + _BLOCK]
        finally:
            self._advise("MADV_RANDOM")


class CompressedIndex(FaissIndex):
    """Codes and embeddings of the same photos.

    Args:
        codes: faiss' IVF index, whose `nprobe` says how many lists a search opens.
        vectors: the embeddings.
        wide: so many times the photos wanted are scored again.
    """

    def __init__(self, codes: Any, vectors: HalfVectors, wide: int):
        super().__init__(custom_index=codes)
        self.vectors, self.wide = vectors, wide

    def search_batch(self, queries: np.ndarray, k: int = 10, **kwargs: Any) -> BatchedSearchResults:
        """Return scores (Q, k), highest first, and rows of the same shape; row -1 where there are fewer.

        The scores are dot products with the embeddings as 16-bit floats. For few photos at least as many are scored
        again as for the depth at which recall was measured.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        wanted = min(self.wide * max(k, DEPTH), len(self.vectors))
        scores = np.full((len(queries), k), np.finfo(np.float32).min, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, found in enumerate(self.faiss_index.search(queries, wanted)[1]):
            found = found[found >= 0]
            exact = self.vectors[found] @ queries[number]  # (M,)
            order = np.argsort(-exact, kind="stable")[:k]
            scores[number, : len(order)], rows[number, : len(order)] = exact[order], found[order]
        return BatchedSearchResults(scores, rows)

    def save(self, folder: Path) -> None:
        """Write codes, embeddings and facts into a folder; embeddings that lie there already are not written again."""
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.faiss_index, str(folder / CODES))
        if self.vectors.path != folder / VECTORS:
            self.vectors.values.tofile(folder / VECTORS)
        (folder / FACTS).write_text(json.dumps({"wide": self.wide}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "CompressedIndex":
        """Read a folder that `save` wrote. Never pass one from elsewhere: native code parses and trusts it.

        Raises:
            OSError, RuntimeError, ValueError, KeyError: if it is damaged.
        """
        codes = faiss.read_index(str(folder / CODES), faiss.IO_FLAG_MMAP_IFC)
        vectors = HalfVectors.open(folder / VECTORS, codes.d)
        if len(vectors) != codes.ntotal:
            raise ValueError(f"{len(vectors)} embeddings, {codes.ntotal} codes")
        return cls(codes, vectors, int(json.loads((folder / FACTS).read_text("utf-8"))["wide"]))


def build_compressed(vectors: HalfVectors, progress: bool = True) -> tuple[CompressedIndex, dict[str, Any]]:
    """Build an index whose recall is measured with queries outside the photos, searched as deep as the target needs.

    Training and adding read the embeddings in blocks. There are as many lists as the root of the number of photos, so
    that the cost of training grows as the number of photos does.

    Args:
        vectors: N embeddings of unit norm.
        progress: show a bar if it takes longer than five seconds.

    Returns:
        The index, and what the manifest records: kind, depth (lists that are opened), `rescored` (how many times the
        photos wanted are scored again), the recall measured and its depth.
    """
    count, dim = vectors.shape
    lists = _lists(count)
    codes = faiss.index_factory(dim, f"IVF{lists},{_code(count, dim)}", faiss.METRIC_INNER_PRODUCT)
    codes.cp.spherical = True
    codes.train(_sample(vectors, max(lists * _TRAIN_PER_LIST, _TRAIN_CODES)))
    with tqdm(total=count, desc="Indexing", unit="image", delay=5, disable=not progress) as bar:
        for block in vectors.blocks():
            codes.add(block)
            bar.update(len(block))
    index = CompressedIndex(codes, vectors, 4)
    recall = _tune(index)
    return index, {
        "kind": "ivf",
        "depth": codes.nprobe,
        "rescored": index.wide,
        "recall": round(recall, 4),
        "recall_at": min(DEPTH, count),
    }


def nearest_exactly(queries: np.ndarray, blocks: Iterator[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores (Q, k), highest first, and rows of the largest dot products among all rows of some blocks.

    Args:
        queries: (Q, D) float32.
        blocks: (M, D) float32 each, at least k rows together.
    """
    heap, start = faiss.ResultHeap(len(queries), k, keep_max=True), 0
    for block in blocks:
        scores, rows = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, rows.astype(np.int64) + start)
        start += len(block)
    heap.finalize()
    return heap.D, heap.I


def _lists(count: int) -> int:
    return int(max(1, min(count**0.5, count // 39)))  # 39 vectors a list is where faiss begins to warn


def _code(count: int, dim: int) -> str:
    """Return the code of a vector, as faiss' factory names it: of residuals from the list's centroid."""
    parts = max((m for m in range(1, min(_MOST_PARTS, dim // 2) + 1) if dim % m == 0), default=0)
    return f"PQ{parts}x4fsr" if count >= _TRAIN_CODES and 8 * parts >= dim else "SQ8"


def _sample(vectors: HalfVectors, count: int) -> np.ndarray:
    rows = np.random.default_rng(0).permutation(len(vectors))[:count]
    return vectors[np.sort(rows)]


def _outside(vectors: HalfVectors) -> np.ndarray:
    """Return queries (Q, D) outside the photos: photos turned by 45 degrees, each in a direction of its own."""
    photos = _sample(vectors, _QUERIES)
    noise = np.random.default_rng(1).standard_normal(photos.shape, dtype=np.float32)
    queries = photos + noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def _tune(index: CompressedIndex) -> float:
    """Search deeper until the recall target is met, or nothing gains any more; return the recall.

    A photo is missed because its list was not opened, or because too few photos were scored again. Both are tried, and
    what helps more is doubled.
    """
    count, codes = len(index.vectors), index.faiss_index
    queries, best = _outside(index.vectors), min(DEPTH, count)
    least = nearest_exactly(queries, index.vectors.blocks(), best)[0][:, -1:] - 1e-6  # (Q, 1)

    def recall(depth: int, wide: int) -> float:
        codes.nprobe, index.wide = depth, wide
        scores, rows = index.search_batch(queries, best)
        # Compared by score, not by row: of photos with equal scores any is right.
        return float(((scores >= least) & (rows >= 0)).mean())

    depth, wide = min(8, codes.nlist), 4
    reached = recall(depth, wide)
    gained = 1.0
    while reached < RECALL_TARGET and gained >= _LEAST_GAIN and (depth < codes.nlist or wide * DEPTH < count):
        tries = [(min(2 * depth, codes.nlist), wide), (depth, 2 * wide)]
        found, better = max((recall(*each), each) for each in tries)
        gained = found - reached
        if gained >= _LEAST_GAIN:
            reached, (depth, wide) = found, better
    return recall(depth, wide)
