"""Fine-grained accuracy: the rank of the photo that a sketch was drawn of. In a tie irrelevant photos come first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .inputs import Array, as_cutoffs, as_labels, as_pair, as_scores, check_missing, shared_codes
from .ranking import block_rows, check_no_nan


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
    """Return the share of sketches whose own photo is among the first k.

    With both labels, a sketch is compared with the photos of its class only (protocol `fg-class`); without, with the
    whole gallery (`fg-pooled`). A sketch whose instance is "", or is not in its gallery, has no photo to find.

    Args:
        query, gallery: embeddings (Q, D) and (N, D) as in `retrieval_metrics`, ranked in float32.
        query_instances, gallery_instances: instance ids (Q,) and (N,), all integers or all strings; without labels they
            must be unique across classes.
        query_labels, gallery_labels: classes (Q,) and (N,), all integers or all strings; both or neither.
        ks: cut-offs of `acc_k`.
        scores: (Q, N) to rank by, larger is nearer, instead of the dot products.
        missing: "error", or "exclude" the sketches without a photo from the means.
        per_query: also return `per_query`: `rank` of the sketch's photo from 1 (NaN where excluded) and every `acc_k`.

    Returns:
        `n_query`, `n_excluded`, `n_gallery`, `ties` (`mixed`: sketches whose photo shares its score with another one),
        `metrics`: `acc_k` for every k, and `mrr`, the mean of 1 / rank.

    Raises:
        ValueError: if an input has a wrong shape or type, or a sketch has no photo to find and `missing` is "error".
    """
    queries, photos = as_pair(query, gallery)
    query_ids = as_labels(query_instances, "query_instances")
    wanted, instances = shared_codes(query_ids, gallery_instances, "instances", len(queries), len(photos))
    if query_ids.dtype.kind == "U":
        wanted = np.where(query_ids == "", -1, wanted)  # unknown is not a photo's id
    if (query_labels is None) != (gallery_labels is None):
        raise ValueError("query_labels and gallery_labels go together: give both (per class) or neither (pooled).")
    if query_labels is None or gallery_labels is None:
        classes, photo_classes = np.zeros(len(queries), int), np.zeros(len(photos), int)
    else:
        classes, photo_classes = shared_codes(query_labels, gallery_labels, "labels", len(queries), len(photos))
    given = None if scores is None else as_scores(scores, len(photos))
    if given is not None and len(given) != len(queries):
        raise ValueError(f"scores has {len(given)} rows for {len(queries)} queries: give one per row of query.")
    rank, tied = _ranks(queries, photos, (wanted, instances), (classes, photo_classes), given)
    check_missing(np.isnan(rank), query_ids, "instance", missing)
    return _summary(rank, tied, len(photos), as_cutoffs(ks, "ks"), per_query)


def _ranks(
    queries: Array, photos: Array, instances: tuple[Array, Array], classes: tuple[Array, Array], scores: Array | None
) -> tuple[Array, int]:
    """Return the rank of each sketch's photo, from 1, (Q,) with NaN where there is none, and the number of ties.

    Args:
        queries, photos: embeddings (Q, D) and (N, D).
        instances, classes: codes of the sketches (Q,) and of the photos (N,).
        scores: (Q, N) instead of dot products, or None.
    """
    photos = photos.astype(np.float32, copy=False)
    rank = np.full(len(queries), np.nan)
    tied = 0
    step = block_rows(len(photos), photos.itemsize)
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        block = queries[rows].astype(np.float32, copy=False) @ photos.T if scores is None else scores[rows]  # (b, N)
        check_no_nan(block)
        rivals = classes[0][rows, None] == classes[1]  # (b, N)
        own = (instances[0][rows, None] == instances[1]) & rivals
        rivals &= ~own
        best = np.where(own, block, -np.inf).max(axis=1, keepdims=True)  # (b, 1)
        tied += int(((block == best) & rivals).any(axis=1).sum())
        found = own.any(axis=1)
        rank[rows][found] = 1 + ((block >= best) & rivals).sum(axis=1)[found]
    return rank, tied


def _summary(rank: Array, tied: int, n_gallery: int, ks: tuple[int, ...], per_query: bool) -> dict[str, Any]:
    found = ~np.isnan(rank)
    values = {f"acc_{k}": np.where(found, rank <= k, np.nan) for k in ks}
    metrics = {name: float(value[found].mean()) for name, value in values.items()}
    result: dict[str, Any] = {
        "n_query": int(found.sum()),
        "n_excluded": int((~found).sum()),
        "n_gallery": n_gallery,
        "ties": {"mixed": tied},
        "metrics": metrics | {"mrr": float((1 / rank[found]).mean())},
    }
    return result | {"per_query": {"rank": rank, **values}} if per_query else result
