"""The inputs of the metrics: each is checked, and brought to one form or refused by the argument's name."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def as_matrix(values: npt.ArrayLike, name: str) -> Array:
    """Return embeddings (rows, D) as a finite floating-point array; a torch tensor leaves its graph and device."""
    if hasattr(values, "detach"):
        tensor = values.detach().cpu()
        values = tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()
    array = np.asarray(values)
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"{name} has shape {array.shape}: expected embeddings (rows, dimensions), at least one of each."
        )
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype} values: expected real numbers.")
    for start in range(0, len(array), 4096):
        if not np.isfinite(array[start : start + 4096]).all():
            bad = start + int(np.flatnonzero(~np.isfinite(array[start : start + 4096]).all(axis=1))[0])
            raise ValueError(f"{name} holds NaN or infinite values, first in row {bad}: embeddings must be finite.")
    return array


def as_pair(query: npt.ArrayLike, gallery: npt.ArrayLike) -> tuple[Array, Array]:
    """Return the embeddings of both sides, (Q, D) and (N, D)."""
    queries, photos = as_matrix(query, "query"), as_matrix(gallery, "gallery")
    if queries.shape[1] != photos.shape[1]:
        raise ValueError(f"query has {queries.shape[1]} dimensions and gallery {photos.shape[1]}: they must be equal.")
    return queries, photos


def unit_norm(embeddings: npt.ArrayLike, name: str = "embeddings") -> Array:
    """Return (N, D) embeddings with unit-norm rows in float32 (float64 stays), so that dot products are cosines.

    Raises:
        ValueError: if a row is zero, or the embeddings have a wrong shape, type, or NaN or infinite values.
    """
    values = as_matrix(embeddings, name)
    values = values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
    peaks = np.abs(values).max(axis=1, keepdims=True)  # (N, 1)
    if not peaks.all():
        raise ValueError(f"{name} has {int((peaks == 0).sum())} zero rows, which have no direction: remove them.")
    # First by a power of two, which is exact: then no square overflows or becomes zero.
    values = np.ldexp(values, -np.frexp(peaks)[1])
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def as_scores(block: Any, n_gallery: int) -> Array:
    """Return a block of scores (b, N) in single precision or better."""
    if hasattr(block, "detach"):
        block = block.detach().cpu()
    check_not_half_precision(block)
    values = np.asarray(block)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"scores hold {values.dtype} values: expected real numbers.")
    if values.ndim != 2 or values.shape[1] != n_gallery:
        raise ValueError(
            f"scores have shape {values.shape}: expected (queries, {n_gallery}), a column per gallery label."
        )
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def check_not_half_precision(scores: Any) -> None:
    """Raise ValueError for scores of 16 bits, in NumPy or torch."""
    if str(getattr(scores, "dtype", "")) in ("float16", "torch.float16", "torch.bfloat16"):
        raise ValueError("scores are in half precision, whose ties move mAP: compute them in float32 from the start.")


def as_labels(values: npt.ArrayLike, name: str) -> Array:
    """Return labels or instance ids (rows,) as integers or strings."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype == object and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iuU":
        raise ValueError(
            f"{name} has shape {array.shape} and type {array.dtype}: expected a list of integers or strings."
        )
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} holds {array.max()}: integers must fit into 64 bits with a sign.")
    return array.astype(np.int64, copy=False)  # NumPy compares signed with unsigned integers as rounded floats


def shared_codes(
    query: npt.ArrayLike, gallery: npt.ArrayLike, what: str, n_query: int, n_gallery: int
) -> tuple[Array, Array]:
    """Return the values as numbers, (Q,) of the queries and (N,) of the gallery: equal values have equal numbers.

    Numbers follow the sorted order of the values of both sides.

    Args:
        query, gallery: the values, such as labels.
        what: what they are, for errors: "labels" or "instances".
        n_query, n_gallery: Q and N.
    """
    sides = []
    for side, values, rows in (("query", query, n_query), ("gallery", gallery, n_gallery)):
        sides.append(as_labels(values, f"{side}_{what}"))
        if len(sides[-1]) != rows:
            raise ValueError(f"{side}_{what} has {len(sides[-1])} entries for {rows} rows of {side}: give one per row.")
    if (sides[0].dtype.kind == "U") != (sides[1].dtype.kind == "U"):
        raise ValueError(f"query_{what} and gallery_{what} must both be integers or both be strings.")
    codes = np.unique(np.concatenate(sides), return_inverse=True)[1]
    return codes[:n_query], codes[n_query:]


def as_copies(values: npt.ArrayLike | None, n_gallery: int) -> Array:
    """Return how often each photo counts (N,), once by default."""
    if values is None:
        return np.ones(n_gallery, np.int64)
    copies = np.asarray(values)
    if copies.shape != (n_gallery,) or copies.dtype.kind not in "iu" or (copies < 0).any():
        raise ValueError(f"gallery_copies must be {n_gallery} integers >= 0, one per photo of the gallery.")
    if not copies.any():
        raise ValueError("gallery_copies are all 0, which leaves the gallery empty.")
    return copies.astype(np.int64)


def as_cutoffs(ks: Sequence[int], name: str) -> tuple[int, ...]:
    """Return the cut-offs k as integers from 1 on."""
    if not isinstance(ks, Iterable) or any(not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise ValueError(f"{name} is {ks!r}: expected a list of integers from 1 on.")
    return tuple(int(k) for k in ks)


def check_missing(absent: Array, values: Array, what: str, missing: str) -> None:
    """Raise ValueError where queries have nothing to find, unless the caller asked to leave them out.

    Args:
        absent: which queries have no relevant photo (Q,).
        values: their labels or instances (Q,).
        what: what these are, for errors: "label" or "instance".
        missing: "error", or "exclude" to allow it; all queries without a relevant photo are refused by both.
    """
    if missing not in ("error", "exclude"):
        raise ValueError(f'missing is {missing!r}: expected "error" or "exclude".')
    if not absent.any() or (missing == "exclude" and not absent.all()):
        return
    names = np.unique(values[absent])
    shown = ", ".join(repr(name.item()) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    advice = 'remove them, or pass missing="exclude" to leave them out of every mean'
    if absent.all():
        advice = f"check that both sides spell each {what} alike"
    raise ValueError(
        f"{int(absent.sum())} of {len(absent)} queries have no relevant photo in the gallery ({what} {shown}): "
        f"{advice}."
    )
