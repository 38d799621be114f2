"""A gallery's index: built from the stored embeddings, and kept in the user's cache where there are many photos.

Native code parses an index file and trusts it. So none is ever read from a gallery's folder, which may come from
elsewhere: the cache holds only what this user built here, under the SHA-256 of the embeddings that it was built from.
"""

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from datasets.search import FaissIndex

from ..common.files import user_cache
from .index import KINDS, build_index, load_index, save_index
from .table import TableReader, check_unit_norm, embedding_array

# With fewer photos an index is built at every opening, which takes less than a second.
KEPT_FROM = 10_000
# The indices that were not opened for longest are removed when all together take more.
MOST_BYTES = 20 << 30
_CHECKED_ROWS = 64
# Some indices hold 16-bit floats: an entry of a unit vector changes by 0.0005 at most.
_ROUNDING = 1e-3


def embeddings_hash(embeddings: np.ndarray) -> str:
    """Return the SHA-256, in hex, of embeddings (N, D) float32 and their shape."""
    digest = hashlib.sha256(repr(embeddings.shape).encode())
    digest.update(np.ascontiguousarray(embeddings, dtype="<f4").data)
    return digest.hexdigest()


def open_index(reader: TableReader, manifest: dict[str, Any]) -> FaissIndex:
    """Return the index of a gallery.

    From `KEPT_FROM` photos on it is looked for in the cache, else built and kept there. The manifest's hash only says
    which file to look at. The file is used if random rows of it are those of the table, and a new one is kept under the
    hash of what it was built from. So a gallery with a false hash can neither be searched by another's index nor put
    its own in another's place.

    Raises:
        ValueError: if the embeddings are not those that the gallery was built with, or not of unit norm.
    """
    kind = manifest["index"].get("kind", "exact")
    if kind not in KINDS:
        raise ValueError(f"index of unknown kind {kind!r}")
    # Galleries of earlier versions name no hash.
    named = manifest.get("embeddings") or embeddings_hash(reader.embeddings())
    kept = kept_index(named, kind) if manifest["count"] >= KEPT_FROM else None
    if kept is not None and _holds(kept, reader, manifest):
        return kept
    embeddings = np.ascontiguousarray(reader.embeddings())
    if embeddings.shape != (manifest["count"], manifest["dim"]):
        raise ValueError(f"embeddings of shape {embeddings.shape}")
    if embeddings_hash(embeddings) != named:
        raise ValueError("embeddings that are not those of the manifest")
    check_unit_norm(embeddings)
    index, _ = build_index(embeddings, kind)
    keep_index(index, named, kind)
    return index


def kept_index(name: str, kind: str) -> FaissIndex | None:
    """Return the index of a kind that this user built from the embeddings of a hash, None if there is none."""
    path = _place(name, kind)
    if path is None or not _is_own(path, stat.S_ISREG) or not _is_own(path.parent, stat.S_ISDIR):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # so that it is not the one that was not opened for longest
    try:
        return load_index(path)
    except (OSError, RuntimeError):  # damaged: it is built again
        return None


def keep_index(index: FaissIndex, name: str, kind: str) -> None:
    """Keep an index of many photos in the cache, if that can be written.

    Args:
        index: to keep.
        name: the hash of the embeddings that it was built from.
        kind: of the index.
    """
    path = _place(name, kind)
    if path is None or index.faiss_index.ntotal < KEPT_FROM:
        return
    with contextlib.suppress(OSError, RuntimeError, filelock.Timeout):  # faiss raises RuntimeError on a full disk
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(path.parent / "lock", timeout=60):
            save_index(index, path)
            _make_room(path)


def _place(name: str, kind: str) -> Path | None:
    cache = user_cache()
    return cache / "indexes" / f"{name}-{kind}.faiss" if cache else None


def _is_own(path: Path, is_kind: Any) -> bool:
    """Return whether a path is of a kind, no link, and written by this user or an administrator only."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return is_kind(facts.st_mode) and (not hasattr(os, "geteuid") or facts.st_uid in (0, os.geteuid()))


def _make_room(newest: Path) -> None:
    """Remove the indices that were not opened for longest until the others fit."""
    facts = {path: path.stat() for path in newest.parent.iterdir() if path != newest and path.name != "lock"}
    left = MOST_BYTES - newest.stat().st_size
    for path in sorted(facts, key=lambda path: -facts[path].st_mtime):
        left -= facts[path].st_size
        if left < 0:
            path.unlink(missing_ok=True)


def _holds(index: FaissIndex, reader: TableReader, manifest: dict[str, Any]) -> bool:
    """Return whether an index has the table's size, and random rows of it are the table's but for rounding."""
    inner, count = index.faiss_index, manifest["count"]
    if (inner.ntotal, inner.d) != (count, manifest["dim"]):
        return False
    # No fixed rows: whoever made the gallery cannot know which ones are looked at.
    rows = np.sort(np.random.default_rng().choice(count, min(_CHECKED_ROWS, count), replace=False))
    stored = embedding_array(reader.take(rows.tolist(), ["embedding"]))  # (M, D)
    return stored.shape == (len(rows), inner.d) and np.allclose(inner.reconstruct_batch(rows), stored, atol=_ROUNDING)
