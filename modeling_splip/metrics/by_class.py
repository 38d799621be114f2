"""Retrieval metrics for embeddings or scores: exact, all of them in one pass, with memory flat in the gallery.

Symbols: R = relevant photos of a query (those of its class), h(k) = relevant ones among the first k, S(k) = sum of the
precisions at the ranks of those h(k). For every k of `ks` (docs/protocol.md says which published code computes what):

    map_all        average precision over the whole ranking, equal scores grouped: scikit-learn's
    map_k_prefix   S(k) / h(k), 0 without a hit     map_k_min   S(k) / min(R, k)     map_k_all   S(k) / R
    *_voc          the same with interpolated precision: the largest at this rank or any later one (that counts)
    p_k            h(k) / k     p_k_min   h(k) / min(R, k)     p_k_cut   precision at rank min(R, k)
    recall_k       h(k) / R     acc_k     1 if h(k) > 0

Ties: map_all and map_all_voc group equal scores; everything at k ranks irrelevant photos first among equals, so that no
number owes anything to the order of the files. A photo with n copies counts as n photos with the same score.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .inputs import Array, as_cutoffs, as_labels, as_matrix, as_pair, as_scores, check_missing, shared_codes
from .ranking import GalleryLayout, block_rows, envelope, grouped_counts, rank_relevant, refuse_nan

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
) -> dict[str, Any]:
    """Rank the gallery for every query by dot product and measure it.

    Args:
        query, gallery: embeddings (Q, D) and (N, D), NumPy or torch, with unit-norm rows for cosine (see `unit_norm`).
            Half precision is raised to `dtype` before the product: half-precision scores would be full of ties.
        query_labels, gallery_labels: classes (Q,) and (N,), all integers or all strings.
        gallery_copies: (N,) integers >= 0, how often each photo is in the gallery; the result is that of repeated rows.
        ks: cut-offs of the metrics at k; acc_ks: those of `acc_k`.
        dtype: np.float32 or np.float64, in which scores are computed and ranked. Means are always float64.
        missing: what to do with queries without a relevant photo: "error", or "exclude" them from all means.
        per_class, per_query: also return `per_class`, {label: {metric: mean}}, and `per_query`, {metric: (Q,) float64}
            in the order of the queries, NaN where excluded.
        curve: also return `curve`, the mean over queries of the interpolated precision at 101 levels of recall.
        progress: wraps the iterable of blocks, for example `tqdm`.

    Returns:
        `n_query` (measured), `n_excluded`, `n_gallery` (copies counted), `n_classes` (of the gallery), `metrics`
        (fractions from 0 to 1) and `ties`: `mixed`, relevant photos that share their score with an irrelevant one;
        `relevant`, those that share it with another relevant one; `queries`, the queries with a mixed tie.

    Raises:
        ValueError: wrong shapes, an empty side, NaN or infinite values, labels of two kinds, queries without a
            relevant photo (unless `missing="exclude"`).
    """
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise ValueError(f"dtype is {kind}: rank in float32 or float64, since ties in half precision move mAP")
    queries, photos = as_pair(query, gallery)
    layout = GalleryLayout.of(query_labels, gallery_labels, gallery_copies, len(queries), len(photos), missing)
    photos = photos[layout.order].astype(kind, copy=False)
    results = _Results(layout, ks, acc_ks, with_curve=curve)

    blocks = list(layout.row_blocks(kind.itemsize))
    buffer = np.empty((max(map(len, blocks)), len(photos)), kind)
    for rows in progress(blocks) if progress else blocks:
        scores = np.matmul(queries[rows].astype(kind, copy=False), photos.T, out=buffer[: len(rows)])  # (b, N unique)
        results.add(rows, scores if layout.repeat is None else scores[:, layout.repeat])
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
    """Measure given scores, larger is nearer; the rest is as in `retrieval_metrics`.

    Args:
        scores: an array or tensor (Q, N), or an iterable of its row blocks (b, N) in the order of the queries, so that
            the whole matrix need never exist. Left unchanged. Infinite scores are allowed; NaN and half precision not.
    """
    n_query, n_gallery = len(as_labels(query_labels, "query_labels")), len(as_labels(gallery_labels, "gallery_labels"))
    layout = GalleryLayout.of(query_labels, gallery_labels, gallery_copies, n_query, n_gallery, missing)
    columns = layout.order if layout.repeat is None else layout.order[layout.repeat]  # (N,)
    results = _Results(layout, ks, acc_ks, with_curve=curve)

    done = 0
    for block in [scores] if hasattr(scores, "shape") else scores:
        values = as_scores(block, n_gallery)
        rows = np.arange(done, done + len(values))
        done += len(values)
        if done > n_query:
            break
        for part in layout.row_blocks(values.itemsize, rows):
            results.add(part, values[np.ix_(part - rows[0], columns)])
    if done != n_query:
        more = "more than" if done > n_query else f"{done} rows for"
        raise ValueError(f"scores has {more} {n_query} queries: give one row per entry of query_labels")
    return results.summary(per_class=per_class, per_query=per_query)


def instance_accuracy(
    query: npt.ArrayLike,
    gallery: npt.ArrayLike,
    query_instances: npt.ArrayLike,
    gallery_instances: npt.ArrayLike,
    query_labels: npt.ArrayLike | None = None,
    gallery_labels: npt.ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    *,
    scores: npt.ArrayLike | None = None,
    missing: str = "error",
    per_query: bool = False,
) -> dict[str, Any]:
    """Fine-grained accuracy: the share of sketches whose own photo is among the first k, irrelevant first among equals.

    With both labels, every query is ranked against the photos of its class only (protocol `fg-class`); without, against
    the whole gallery (`fg-pooled`). A sketch whose instance is "" or is not in its gallery has no photo to find.

    Args:
        query, gallery: embeddings (Q, D) and (N, D) as in `retrieval_metrics`, ranked in float32.
        query_instances, gallery_instances: instance ids (Q,) and (N,), all integers or all strings; without labels they
            must be unique across classes.
        scores: (Q, N) to rank by, larger is nearer, instead of the dot products.
        missing: "error", or "exclude" the sketches without a photo from the means.
        per_query: also return `per_query`: `rank` of the sketch's photo from 1 (NaN where excluded) and every `acc_k`.

    Returns:
        `n_query`, `n_excluded`, `n_gallery`, `ties` (`mixed`: sketches whose photo shares its score with another one),
        `metrics`: `acc_k` for every k, and `mrr`, the mean of 1 / rank.
    """
    queries, photos = as_pair(query, gallery)
    if (query_labels is None) != (gallery_labels is None):
        raise ValueError("query_labels and gallery_labels go together: give both (per class) or neither (pooled)")
    query_ids = as_labels(query_instances, "query_instances")
    wanted, instances = shared_codes(query_ids, gallery_instances, "instances", len(queries), len(photos))
    if query_ids.dtype.kind == "U":
        wanted = np.where(query_ids == "", -1, wanted)  # unknown is not a photo's id
    if query_labels is None or gallery_labels is None:
        classes, photo_classes = np.zeros(len(queries), int), np.zeros(len(photos), int)
    else:
        classes, photo_classes = shared_codes(query_labels, gallery_labels, "labels", len(queries), len(photos))

    photos = photos.astype(np.float32, copy=False)
    given = None if scores is None else as_scores(scores, len(photos))
    if given is not None and len(given) != len(queries):
        raise ValueError(f"scores has {len(given)} rows for {len(queries)} queries: give one per row of query")
    rank = np.full(len(queries), np.nan)
    tied = 0
    step = block_rows(len(photos), photos.itemsize)
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        block = queries[rows].astype(np.float32, copy=False) @ photos.T if given is None else given[rows]  # (b, N)
        refuse_nan(block)
        rivals = classes[rows, None] == photo_classes  # (b, N)
        own = (wanted[rows, None] == instances) & rivals
        rivals &= ~own
        best = np.where(own, block, -np.inf).max(axis=1, keepdims=True)  # (b, 1)
        tied += int(((block == best) & rivals).any(axis=1).sum())
        found = own.any(axis=1)
        rank[rows][found] = 1 + ((block >= best) & rivals).sum(axis=1)[found]

    check_missing(np.isnan(rank), query_ids, "instance", missing)
    found = ~np.isnan(rank)
    values = {f"acc_{k}": np.where(found, rank <= k, np.nan) for k in as_cutoffs(ks, "ks")}
    result: dict[str, Any] = {
        "n_query": int(found.sum()),
        "n_excluded": int((~found).sum()),
        "n_gallery": len(photos),
        "ties": {"mixed": tied},
        "metrics": {name: float(value[found].mean()) for name, value in values.items()}
        | {"mrr": float((1 / rank[found]).mean())},
    }
    if per_query:
        result["per_query"] = {"rank": rank, **values}
    return result


def unit_norm(embeddings: npt.ArrayLike, name: str = "embeddings") -> Array:
    """Return (N, D) embeddings with unit-norm rows in float32 (float64 stays), so that dot products are cosines.

    Raises:
        ValueError: a row is zero, or as in `retrieval_metrics`.
    """
    values = as_matrix(embeddings, name)
    values = values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
    peaks = np.abs(values).max(axis=1, keepdims=True)  # (N, 1)
    if not peaks.all():
        raise ValueError(f"{name} has {int((peaks == 0).sum())} zero rows, which have no direction: remove them")
    values = np.ldexp(values, -np.frexp(peaks)[1])  # by a power of two, exact: squares neither overflow nor vanish
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@dataclass
class _Results:
    """Values per query, filled block by block."""

    layout: GalleryLayout
    ks: Sequence[int]
    acc_ks: Sequence[int]
    with_curve: bool
    values: dict[str, Array] = field(default_factory=dict)  # metric -> (Q,), NaN until measured
    ties: dict[str, int] = field(default_factory=lambda: {"queries": 0, "mixed": 0, "relevant": 0})
    curve: Array = field(default_factory=lambda: np.zeros(len(RECALL_LEVELS)))  # sum over the queries

    def __post_init__(self) -> None:
        self.ks, self.acc_ks = as_cutoffs(self.ks, "ks"), as_cutoffs(self.acc_ks, "acc_ks")

    def add(self, rows: Array, scores: Array) -> None:
        """Measure queries `rows` (b,), ordered by class, with scores (b, N) in the layout's order. Overwrites them."""
        codes = self.layout.codes[rows]
        edges = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(rows)]])
        for first, last in pairwise(edges):
            start, stop = self.layout.bounds[codes[first]], self.layout.bounds[codes[first] + 1]
            self._measure(rows[first:last], *rank_relevant(scores[first:last], int(start), int(stop)))

    def _measure(self, rows: Array, relevant: Array, above: Array, mixed: Array) -> None:
        rank = above + np.arange(1, relevant.shape[1] + 1)  # (b, R) irrelevant first among equals
        grouped, tied = grouped_counts(relevant)
        precision = grouped / (grouped + above)  # (b, R)
        interpolated = envelope(precision)
        self._put(rows, "map_all", precision.mean(axis=1))
        self._put(rows, "map_all_voc", interpolated.mean(axis=1))
        for k in self.ks:
            self._measure_at(rows, rank, k)
        for k in self.acc_ks:
            self._put(rows, f"acc_{k}", rank[:, 0] <= k)
        if self.with_curve:
            at = np.maximum(np.ceil(RECALL_LEVELS * relevant.shape[1] - 1e-9).astype(int) - 1, 0)  # (levels,)
            self.curve += interpolated[:, at].sum(axis=0)
        self.ties["queries"] += int(mixed.any(axis=1).sum())
        self.ties["mixed"] += int(mixed.sum())
        self.ties["relevant"] += int(tied.sum())

    def _measure_at(self, rows: Array, rank: Array, k: int) -> None:
        n_relevant = rank.shape[1]
        cut = min(n_relevant, k)
        hit = rank[:, :cut] <= k  # (b, cut) a prefix of every row, since ranks increase
        hits = hit.sum(axis=1)
        precision = np.where(hit, np.arange(1, cut + 1) / rank[:, :cut], 0.0)
        for suffix, total in (("", precision.sum(axis=1)), ("_voc", envelope(precision).sum(axis=1))):
            self._put(rows, f"map_{k}_prefix{suffix}", total / np.maximum(hits, 1))
            self._put(rows, f"map_{k}_min{suffix}", total / cut)
            self._put(rows, f"map_{k}_all{suffix}", total / n_relevant)
        self._put(rows, f"p_{k}", hits / k)
        self._put(rows, f"p_{k}_min", hits / cut)
        self._put(rows, f"p_{k}_cut", (rank[:, :cut] <= cut).sum(axis=1) / cut)
        self._put(rows, f"recall_{k}", hits / n_relevant)

    def _put(self, rows: Array, name: str, value: Array) -> None:
        if name not in self.values:
            self.values[name] = np.full(len(self.layout.codes), np.nan)
        self.values[name][rows] = value

    def summary(self, *, per_class: bool, per_query: bool) -> dict[str, Any]:
        measured = self.layout.relevant > 0  # (Q,)
        sizes = np.diff(self.layout.bounds)
        result: dict[str, Any] = {
            "n_query": int(measured.sum()),
            "n_excluded": int((~measured).sum()),
            "n_gallery": self.layout.n_gallery,
            "n_classes": int((sizes > 0).sum()),
            "ties": dict(self.ties),
            "metrics": {name: float(value[measured].mean()) for name, value in self.values.items()},
        }
        if per_class:
            members = {c: np.flatnonzero(self.layout.codes == c) for c in np.unique(self.layout.codes[measured])}
            result["per_class"] = {
                self.layout.names[c].item(): {name: float(value[rows].mean()) for name, value in self.values.items()}
                for c, rows in members.items()
            }
        if per_query:
            result["per_query"] = self.values
        if self.with_curve:
            precision = self.curve / measured.sum()
            result["curve"] = {"recall": RECALL_LEVELS.tolist(), "precision": precision.tolist()}
        return result
