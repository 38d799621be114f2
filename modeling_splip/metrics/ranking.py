"""Ranks of the relevant photos: the gallery is ordered by class, so that sorting score values alone gives them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import NUMPY, NumpyArrays
from .inputs import Array, as_copies, as_labels, check_missing, shared_codes

BLOCK_BYTES = 16 << 20  # of the scores that are in memory at a time


@dataclass(frozen=True)
class ColumnsByClass:
    """Where the photos of each class stand among the columns of the scores: next to each other, ordered by class.

    So the relevant photos of a query are one slice of columns.
    """

    names: Array  # (C,) classes of queries and gallery, sorted
    codes: Array  # (Q,) class of every query, an index into names
    order: Array  # (N unique,) photos by class
    repeat: Array | None  # (N,) for every column its position in `order`; None where each photo counts once
    bounds: Array  # (C + 1,) class c owns the columns bounds[c]:bounds[c + 1]

    @classmethod
    def of(
        cls,
        query_labels: npt.ArrayLike,
        gallery_labels: npt.ArrayLike,
        copies: npt.ArrayLike | None,
        n_query: int,
        n_gallery: int,
        missing: str,
    ) -> "ColumnsByClass":
        """Order the gallery by class; the arguments are those of `retrieval_metrics`."""
        query_array = as_labels(query_labels, "query_labels")
        gallery_array = as_labels(gallery_labels, "gallery_labels")
        codes, photo_codes = shared_codes(query_array, gallery_array, "labels", n_query, n_gallery)
        names = np.unique(np.concatenate([query_array, gallery_array]))
        count = as_copies(copies, n_gallery)
        order = np.argsort(photo_codes, kind="stable")
        repeat = None if (count[order] == 1).all() else np.repeat(np.arange(len(order)), count[order])
        sizes = np.bincount(photo_codes, weights=count, minlength=len(names)).astype(np.int64)  # (C,)
        check_missing(sizes[codes] == 0, query_array, "label", missing)
        return cls(names, codes, order, repeat, np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def n_gallery(self) -> int:
        """N, copies counted."""
        return int(self.bounds[-1])

    @property
    def relevant(self) -> Array:
        """R of every query (Q,)."""
        return np.diff(self.bounds)[self.codes]

    def row_blocks(self, itemsize: int, rows: Array | None = None, scale: int = 1) -> Iterator[Array]:
        """Return the numbers of the queries that have a relevant photo, ordered by class and cut into blocks.

        Args:
            itemsize: bytes of a score.
            rows: only of these queries; None for all.
            scale: how many times `BLOCK_BYTES` a block has.
        """
        rows = np.arange(len(self.codes)) if rows is None else rows
        rows = rows[self.relevant[rows] > 0]
        rows = rows[np.argsort(self.codes[rows], kind="stable")]
        step = block_rows(self.n_gallery, itemsize, scale)
        return (rows[start : start + step] for start in range(0, len(rows), step))


def rank_relevant(scores: Any, start: int, stop: int, xp: NumpyArrays = NUMPY) -> tuple[Any, Any, Any]:
    """Rank the relevant columns `start` to `stop` of scores (b, N) by sorting values only. The scores are overwritten.

    Args:
        scores, start, stop: as above.
        xp: the operations of the library whose array the scores are.

    Returns:
        Three (b, R) arrays: the relevant scores, highest first; for each, how many irrelevant photos score at least as
        high; and whether an irrelevant photo ties with it.
    """
    relevant = xp.sort(scores[:, start:stop])  # (b, R) ascending
    scores[:, start:stop] = -np.inf  # placeholders sort to the front, where they are cut off
    irrelevant = xp.sort_in_place(scores)[:, stop - start :]  # (b, N - R) ascending
    check_no_nan(xp.numpy(relevant[:, -1]))  # NaN sorts last
    check_no_nan(xp.numpy(irrelevant[:, -1:]))
    shape = tuple(relevant.shape)
    if not irrelevant.shape[1]:
        return xp.flip(relevant), xp.zeros(shape, int), xp.zeros(shape, bool)
    below = xp.below(irrelevant, relevant)
    next_up = xp.at(irrelevant, below)  # (b, R)
    return xp.flip(relevant), irrelevant.shape[1] - xp.flip(below), next_up == relevant


def check_no_nan(scores: Array) -> None:
    """Raise ValueError if scores, of any shape, hold NaN."""
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN, which has no rank: look for broken embeddings or a division by zero.")


def grouped_counts(relevant: Any, xp: NumpyArrays = NUMPY) -> tuple[Any, Any]:
    """For each score, count the scores at least as high (itself included), and say whether another score equals it.

    Args:
        relevant: scores (b, R), highest first in every row.
        xp: the operations of the library whose array the scores are.

    Returns:
        The counts and the answers, (b, R) each.
    """
    shape = tuple(relevant.shape)
    n_relevant = shape[1]
    equal = relevant[:, 1:] == relevant[:, :-1]  # (b, R - 1)
    tied = xp.zeros(shape, bool)
    tied[:, 1:] |= equal
    tied[:, :-1] |= equal
    last = xp.zeros(shape, int) + n_relevant
    last[:, :-1] = xp.where(equal, n_relevant, xp.count(n_relevant - 1))
    return xp.flip(xp.running_min(xp.flip(last))), tied


def envelope(precision: Any, xp: NumpyArrays = NUMPY) -> Any:
    """Return, for every position, the largest precision there or later, (b, R): the interpolation of PASCAL VOC."""
    return xp.flip(xp.running_max(xp.flip(precision)))


def block_rows(n_gallery: int, itemsize: int, scale: int = 1) -> int:
    """Return how many queries to score at a time, so that a block of scores has about `scale` x `BLOCK_BYTES`."""
    return min(1024, max(8, scale * BLOCK_BYTES // (n_gallery * itemsize)))
