"""A gallery's index: built from the stored embeddings, and kept in the user's cache where there are many photos.

Native code parses an index file and trusts it. So none is ever read from a gallery's folder, which may come from
elsewhere: the cache holds only what this user built here, under the SHA-256 of the embeddings that it was built from.
A compressed index is a folder there, in which the embeddings lie too, as 16-bit floats that searches map.
"""

import contextlib
import hashlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from datasets.search import FaissIndex

from ..common.files import remove, user_cache
from .compressed_index import PARTS, VECTORS, CompressedIndex, HalfVectors
from .index import KINDS, build_index, load_index, save_index, stored_vectors
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
    digest = _digest_of(embeddings.shape)
    digest.update(np.ascontiguousarray(embeddings, dtype="<f4").data)
    return digest.hexdigest()


def _digest_of(shape: tuple[int, ...]) -> Any:
    return hashlib.sha256(repr(shape).encode())


def _checked_blocks(reader: TableReader, digest: Any) -> Iterator[np.ndarray]:
    """Yield a table's embeddings in blocks, each added to a digest. Raises ValueError for one not of unit norm."""
    first = 0
    for block in map(embedding_array, reader.blocks(["embedding"])):
        check_unit_norm(block, first)
        first += len(block)
        digest.update(np.ascontiguousarray(block, dtype="<f4").data)
        yield block


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
    named = manifest.get("embeddings") or table_hash(reader, manifest["dim"])
    kept = kept_index(named, kind) if manifest["count"] >= KEPT_FROM else None
    if kept is not None and _holds(kept, reader, manifest):
        return kept
    return index_table(reader, manifest["dim"], kind, named)[0]


def table_hash(reader: TableReader, dim: int) -> str:
    """Return the hash of a table's embeddings of this width, as `embeddings_hash` does; it is read in blocks.

    Raises:
        ValueError: if one is not of unit norm.
    """
    digest = _digest_of((len(reader), dim))
    for _ in _checked_blocks(reader, digest):
        pass
    return digest.hexdigest()


def index_table(
    reader: TableReader, dim: int, kind: str, named: str | None = None, progress: bool = True
) -> tuple[FaissIndex, dict[str, Any], str, np.ndarray | HalfVectors]:
    """Build the index of a table, and keep it. A compressed one needs no more memory than a block of the table.

    Args:
        reader: of the table.
        dim: width of the embeddings.
        kind: of the index.
        named: the hash that the embeddings must have, None for any.
        progress: show a bar if it takes longer than five seconds.

    Returns:
        The index, what the manifest records of it, the hash of the embeddings, and the embeddings, by rows.

    Raises:
        ValueError: if the embeddings are of another hash, or not of unit norm.
    """
    work = None
    if kind == "ivf":
        embeddings, digest, work = _half_vectors(reader, dim)
    else:
        embeddings = np.ascontiguousarray(reader.embeddings())
        digest = embeddings_hash(embeddings)
    try:
        if named not in (None, digest):
            raise ValueError("embeddings that are not those of the manifest")
        if isinstance(embeddings, np.ndarray):
            check_unit_norm(embeddings)
        index, facts = build_index(embeddings, kind, progress)
        keep_index(index, digest, facts["kind"])
    finally:
        if work is not None:
            with contextlib.suppress(OSError):
                remove(work)  # by now it is kept under its name, or cannot be
    return index, facts, digest, embeddings


def _half_vectors(reader: TableReader, dim: int) -> tuple[HalfVectors, str, Path | None]:
    """Return a table's embeddings as 16-bit floats, their hash as 32-bit floats, and the folder of the file, if any.

    They lie in a file in the cache, which is mapped; where none can be written, in memory.
    """
    digest, cache = _digest_of((len(reader), dim)), user_cache()
    if cache is not None and len(reader) >= KEPT_FROM:
        work = cache / "indexes" / f"building-{uuid.uuid4().hex}"
        try:
            work.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            work.mkdir(mode=0o700)
            with (work / VECTORS).open("wb") as file:
                for block in _checked_blocks(reader, digest):
                    block.astype(np.float16).tofile(file)
            return HalfVectors.open(work / VECTORS, dim), digest.hexdigest(), work
        except BaseException as error:
            with contextlib.suppress(OSError):
                remove(work)
            if not isinstance(error, OSError):
                raise
    digest = _digest_of((len(reader), dim))
    halves = [block.astype(np.float16) for block in _checked_blocks(reader, digest)]
    return HalfVectors(np.concatenate(halves)), digest.hexdigest(), None


def kept_index(name: str, kind: str) -> FaissIndex | None:
    """Return the index of a kind that this user built from the embeddings of a hash, None if there is none."""
    path = _place(name, kind)
    if path is None or not _is_own(path.parent, stat.S_ISDIR):
        return None
    inside = [path / part for part in PARTS] if kind == "ivf" else []
    if not _is_own(path, stat.S_ISDIR if inside else stat.S_ISREG):
        return None
    if not all(_is_own(part, stat.S_ISREG) for part in inside):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # so that it is not the one that was not opened for longest
    try:
        return load_index(path)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # damaged: it is built again
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
            if isinstance(index, CompressedIndex) and index.vectors.path is not None:
                index.save(index.vectors.path.parent)  # beside the embeddings, which are not copied
                remove(path)
                os.replace(index.vectors.path.parent, path)
                index.vectors.path = path / VECTORS
            else:
                save_index(index, path)
            _make_room(path)


def _place(name: str, kind: str) -> Path | None:
    cache = user_cache()
    return cache / "indexes" / (f"{name}-{kind}" if kind == "ivf" else f"{name}-{kind}.faiss") if cache else None


def _is_own(path: Path, is_kind: Any) -> bool:
    """Return whether a path is of a kind, no link, and written by this user or an administrator only."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return is_kind(facts.st_mode) and (not hasattr(os, "geteuid") or facts.st_uid in (0, os.geteuid()))


def _make_room(newest: Path) -> None:
    """Remove the indices that were not opened for longest until the others fit."""
    facts = {path: path.lstat() for path in newest.parent.iterdir() if path != newest and path.name != "lock"}
    left = MOST_BYTES - _size(newest)
    for path in sorted(facts, key=lambda path: -facts[path].st_mtime):
        left -= _size(path)
        if left < 0:
            remove(path)


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in ([path] if not path.is_dir() else path.iterdir()))


def _holds(index: FaissIndex, reader: TableReader, manifest: dict[str, Any]) -> bool:
    """Return whether an index has the table's size, and random rows of it are the table's but for rounding."""
    inner, count = index.faiss_index, manifest["count"]
    if (inner.ntotal, inner.d) != (count, manifest["dim"]):
        return False
    # No fixed rows: whoever made the gallery cannot know which ones are looked at.
    rows = np.sort(np.random.default_rng().choice(count, min(_CHECKED_ROWS, count), replace=False))
    stored = embedding_array(reader.take(rows.tolist(), ["embedding"]))  # (M, D)
    return stored.shape == (len(rows), inner.d) and np.allclose(stored_vectors(index, rows), stored, atol=_ROUNDING)
