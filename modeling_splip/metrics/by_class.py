"""Retrieval metrics where every photo of the query's class is relevant: exact, and all of them in one pass.

Symbols: R = relevant photos of a query (those of its class), h(k) = relevant ones among the first k, S(k) = sum of the
precisions at the ranks of those h(k). For every k of `ks` (docs/protocol.md says which published code computes which):

    map_all        average precision over the whole ranking, equal scores grouped: scikit-learn's
    map_k_prefix   S(k) / h(k), 0 without a hit     map_k_min   S(k) / min(R, k)     map_k_all   S(k) / R
    map_k_trapezoid   S(k) / h(k) with the mean of the precisions before and at each of these ranks
    *_voc          the same with interpolated precision: the largest at this rank or any later one (that counts)
    p_k            h(k) / k     p_k_min   h(k) / min(R, k)     p_k_cut   precision at rank min(R, k)
    recall_k       h(k) / R     acc_k     1 if h(k) > 0

Ties: map_all and map_all_voc group equal scores; every metric at k puts irrelevant photos first among equal scores. So
no number depends on the order of the files. A photo with n copies counts as n photos with the same score.

Scores are held for a block of queries at a time: memory does not grow with the number of queries times photos.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import NUMPY, NumpyArrays
from .inputs import Array, as_cutoffs, as_labels, as_pair, as_scores
from .ranking import ColumnsByClass, envelope, grouped_counts, rank_relevant

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # of the mean precision-recall curve

Progress = Callable[[Any], Iterable[Any]]


def retrieval_metrics(
    query: npt.ArrayLike,
    gallery: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    *,
    gallery_copies: npt.ArrayLike | None = None,
    ks: Sequence[int] = (100, 200),
    acc_ks: Sequence[int] = (1, 5, 10),
    dtype: npt.DTypeLike = np.float32,
    missing: str = "error",
    per_class: bool = False,
    per_query: bool = False,
    curve: bool = False,
    progress: Progress | None = None,
    arrays: NumpyArrays = NUMPY,
) -> dict[str, Any]:
    """Return the metrics of ranking the gallery for every query by dot product.

    Args:
        query, gallery: embeddings (Q, D) and (N, D), NumPy or torch, with unit-norm rows for cosine (see `unit_norm`).
            Half precision is raised to `dtype` before the product: half-precision scores would be full of ties.
        query_labels, gallery_labels: classes (Q,) and (N,), all integers or all strings.
        gallery_copies: (N,) integers >= 0, how often each photo is in the gallery; the result is that of repeated rows.
        ks: cut-offs of the metrics at k.
        acc_ks: cut-offs of `acc_k`.
        dtype: np.float32 or np.float64, of the ranked scores. Products are added up, and means taken, in float64.
        missing: what to do with queries without a relevant photo: "error", or "exclude" them from all means.
        per_class, per_query: also return `per_class`, {label: {metric: mean}}, and `per_query`, {metric: (Q,) float64}
            in the order of the queries, NaN where excluded.
        curve: also return `curve`, the mean over queries of the interpolated precision at 101 levels of recall.
        progress: wraps the iterable of blocks, for example `tqdm`.
        arrays: what computes: NumPy, or `evaluation.device_arrays.TorchArrays("cuda")` for a GPU.

    Returns:
        `n_query` (measured), `n_excluded`, `n_gallery` (copies counted), `n_classes` (of the gallery), `metrics`
        (fractions from 0 to 1) and `ties`: `mixed`, relevant photos that share their score with an irrelevant one;
        `relevant`, those that share it with another relevant one; `queries`, the queries with a mixed tie.

    Raises:
        ValueError: if an input has a wrong shape or type, or NaN or infinite values; or if queries have no relevant
            photo and `missing` is "error".
    """
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise ValueError(f"dtype is {kind}: rank in float32 or float64, since ties in half precision move mAP.")
    queries, photos = as_pair(query, gallery)
    columns = ColumnsByClass.of(query_labels, gallery_labels, gallery_copies, len(queries), len(photos), missing)
    placed = arrays.array(photos[columns.order].astype(kind, copy=False))
    results = _Results(columns, ks, acc_ks, with_curve=curve, xp=arrays)

    blocks = list(columns.row_blocks(kind.itemsize, scale=arrays.block_scale))
    buffer = arrays.empty((max(map(len, blocks)), len(photos)), placed)
    for rows in progress(blocks) if progress else blocks:
        scores = arrays.product(queries[rows], placed, buffer[: len(rows)])  # (b, N unique)
        results.add(rows, scores if columns.repeat is None else scores[:, columns.repeat])
    return results.summary(per_class=per_class, per_query=per_query)


def metrics_from_scores(
    scores: Any,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    *,
    gallery_copies: npt.ArrayLike | None = None,
    ks: Sequence[int] = (100, 200),
    acc_ks: Sequence[int] = (1, 5, 10),
    missing: str = "error",
    per_class: bool = False,
    per_query: bool = False,
    curve: bool = False,
) -> dict[str, Any]:
    """Return the metrics of given scores, larger is nearer; what is not said here is as in `retrieval_metrics`.

    Args:
        scores: an array or tensor (Q, N), or an iterable of its row blocks (b, N) in the order of the queries, so that
            the whole matrix need never exist. They are left unchanged. Infinite scores are allowed.

    Raises:
        ValueError: as in `retrieval_metrics`; or if scores hold NaN, are in half precision, or have too few or too many
            rows.
    """
    n_query, n_gallery = len(as_labels(query_labels, "query_labels")), len(as_labels(gallery_labels, "gallery_labels"))
    columns = ColumnsByClass.of(query_labels, gallery_labels, gallery_copies, n_query, n_gallery, missing)
    places = columns.order if columns.repeat is None else columns.order[columns.repeat]  # (N,)
    results = _Results(columns, ks, acc_ks, with_curve=curve)

    done = 0
    for block in [scores] if hasattr(scores, "shape") else scores:
        values = as_scores(block, n_gallery)
        rows = np.arange(done, done + len(values))
        done += len(values)
        if done > n_query:
            break
        for part in columns.row_blocks(values.itemsize, rows):
            results.add(part, values[np.ix_(part - rows[0], places)])
    if done != n_query:
        more = "more than" if done > n_query else f"{done} rows for"
        raise ValueError(f"scores has {more} {n_query} queries: give one row per entry of query_labels.")
    return results.summary(per_class=per_class, per_query=per_query)


@dataclass
class _Results:
    """The value of every metric for every query, filled block by block."""

    columns: ColumnsByClass
    ks: Sequence[int]
    acc_ks: Sequence[int]
    with_curve: bool
    values: dict[str, Array] = field(default_factory=dict)  # metric -> (Q,), NaN until measured
    ties: dict[str, int] = field(default_factory=lambda: {"queries": 0, "mixed": 0, "relevant": 0})
    curve: Array = field(default_factory=lambda: np.zeros(len(RECALL_LEVELS)))  # sum over the queries
    xp: NumpyArrays = NUMPY  # the operations of the library that scores are arrays of

    def __post_init__(self) -> None:
        self.ks, self.acc_ks = as_cutoffs(self.ks, "ks"), as_cutoffs(self.acc_ks, "acc_ks")

    def add(self, rows: Array, scores: Any) -> None:
        """Measure some queries; their scores are overwritten.

        Args:
            rows: numbers of the queries (b,), ordered by class.
            scores: (b, N) in the order of the columns.
        """
        codes = self.columns.codes[rows]
        edges = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(rows)]])
        for first, last in pairwise(edges):
            start, stop = self.columns.bounds[codes[first]], self.columns.bounds[codes[first] + 1]
            self._measure(rows[first:last], *rank_relevant(scores[first:last], int(start), int(stop), self.xp))

    def _measure(self, rows: Array, relevant: Any, above: Any, mixed: Any) -> None:
        xp, n_relevant = self.xp, relevant.shape[1]
        rank = above + xp.count(n_relevant)  # (b, R) irrelevant first among equals
        grouped, tied = grouped_counts(relevant, xp)
        precision = xp.divide(grouped, grouped + above)  # (b, R)
        interpolated = envelope(precision, xp)
        self._put(rows, "map_all", precision.mean(axis=1))
        self._put(rows, "map_all_voc", interpolated.mean(axis=1))
        for k in self.ks:
            self._measure_at(rows, rank, k)
        for k in self.acc_ks:
            self._put(rows, f"acc_{k}", rank[:, 0] <= k)
        if self.with_curve:
            at = np.maximum(np.ceil(RECALL_LEVELS * n_relevant - 1e-9).astype(int) - 1, 0)  # (levels,)
            self.curve += xp.numpy(interpolated[:, at].sum(axis=0))
        self.ties["queries"] += int(mixed.any(axis=1).sum())
        self.ties["mixed"] += int(mixed.sum())
        self.ties["relevant"] += int(tied.sum())

    def _measure_at(self, rows: Array, rank: Any, k: int) -> None:
        xp, n_relevant = self.xp, rank.shape[1]
        cut = min(n_relevant, k)
        hit = rank[:, :cut] <= k  # (b, cut) a prefix of every row, since ranks increase
        hits = hit.sum(axis=1)
        precision = xp.where(hit, xp.divide(xp.count(cut), rank[:, :cut]), 0.0)
        for suffix, total in (("", precision.sum(axis=1)), ("_voc", envelope(precision, xp).sum(axis=1))):
            self._put(rows, f"map_{k}_prefix{suffix}", total / (hits + (hits == 0)))
            self._put(rows, f"map_{k}_min{suffix}", total / cut)
            self._put(rows, f"map_{k}_all{suffix}", total / n_relevant)
        number = xp.count(cut) - 1
        # Before the first rank it is 1.
        before = xp.where(rank[:, :cut] == 1, 1.0, xp.divide(number, rank[:, :cut] - 1 + (rank[:, :cut] == 1)))
        trapezoids = xp.where(hit, (before + precision) / 2, 0.0)
        self._put(rows, f"map_{k}_trapezoid", trapezoids.sum(axis=1) / (hits + (hits == 0)))
        self._put(rows, f"p_{k}", xp.divide(hits, k))
        self._put(rows, f"p_{k}_min", xp.divide(hits, cut))
        self._put(rows, f"p_{k}_cut", xp.divide((rank[:, :cut] <= cut).sum(axis=1), cut))
        self._put(rows, f"recall_{k}", xp.divide(hits, n_relevant))

    def _put(self, rows: Array, name: str, value: Any) -> None:
        if name not in self.values:
            self.values[name] = np.full(len(self.columns.codes), np.nan)
        self.values[name][rows] = self.xp.numpy(value)

    def summary(self, *, per_class: bool, per_query: bool) -> dict[str, Any]:
        measured = self.columns.relevant > 0  # (Q,)
        sizes = np.diff(self.columns.bounds)
        result: dict[str, Any] = {
            "n_query": int(measured.sum()),
            "n_excluded": int((~measured).sum()),
            "n_gallery": self.columns.n_gallery,
            "n_classes": int((sizes > 0).sum()),
            "ties": dict(self.ties),
            "metrics": {name: float(value[measured].mean()) for name, value in self.values.items()},
        }
        if per_class:
            members = {c: np.flatnonzero(self.columns.codes == c) for c in np.unique(self.columns.codes[measured])}
            result["per_class"] = {
                self.columns.names[c].item(): {name: float(value[rows].mean()) for name, value in self.values.items()}
                for c, rows in members.items()
            }
        if per_query:
            result["per_query"] = self.values
        if self.with_curve:
            precision = self.curve / measured.sum()
            result["curve"] = {"recall": RECALL_LEVELS.tolist(), "precision": precision.tolist()}
        return result
