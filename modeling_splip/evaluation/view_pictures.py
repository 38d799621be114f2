"""Pictures of a view: some of its queries with their first photos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.protocols import PROTOCOLS, View, view_columns, view_image
from .embedder import Embedder
from .pictures import retrieval_grid


def retrieval_picture(
    embedder: Embedder,
    view: View,
    path: str | Path,
    queries: int = 6,
    k: int = 8,
    seed: int = 0,
    scores: np.ndarray | None = None,
) -> None:
    """Save a picture of some queries, from as many classes as possible, with their first photos.

    Args:
        queries: how many.
        seed: chooses them.
        embedder, view, path, k, scores: as in `queries_picture`.
    """
    labels = view_columns(embedder.dataset, view.query)["label"]
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), int)  # how many queries of its class come before a query
    for label in np.unique(labels):
        own = np.flatnonzero(labels[order] == label)
        turn[own] = np.arange(len(own))
    chosen = order[np.argsort(turn, kind="stable")][:queries]
    queries_picture(embedder, view, chosen.tolist(), path, k, scores=scores)


def queries_picture(
    embedder: Embedder,
    view: View,
    chosen: Sequence[int],
    path: str | Path,
    k: int = 8,
    notes: Sequence[str] = (),
    scores: np.ndarray | None = None,
) -> None:
    """Save a picture of chosen queries with their first photos; frames tell hits from misses.

    Args:
        embedder: has embedded the view.
        view: the queries and the gallery.
        chosen: numbers of the queries, in the order of the view.
        path: a .png, .jpg or .webp file.
        k: how many photos to show for each query.
        notes: for each query a text that is written before its class; with notes, every photo has its class above it.
        scores: (Q, N) to rank by; None for cosines.
    """
    dataset, names = embedder.dataset, embedder.dataset.class_names
    query, photo = view_columns(dataset, view.query), view_columns(dataset, view.gallery)
    protocol = PROTOCOLS[view.protocol]
    key = "instance_id" if protocol.level == "fine_grained" else "label"
    if scores is None:
        scores = embedder(view.query, "sketch")[chosen] @ embedder(view.gallery, "photo").T  # (queries, N)
    else:
        scores = scores[chosen]
    if protocol.within_class:
        scores[query["label"][chosen][:, None] != photo["label"][None]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    top = [row[values[row] > -np.inf] for row, values in zip(order, scores, strict=True)]
    titles = [names[query["label"][index]] for index in chosen]
    retrieval_grid(
        [view_image(dataset, view.query, index) for index in chosen],
        [[view_image(dataset, view.gallery, int(index)) for index in row] for row in top],
        [(photo[key][row] == query[key][index]).tolist() for index, row in zip(chosen, top, strict=True)],
        Path(path),
        titles=[f"{note} {title}" for title, note in zip(titles, notes, strict=True)] if notes else titles,
        captions=[[names[photo["label"][index]] for index in row] for row in top] if notes else None,
    )
