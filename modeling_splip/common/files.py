"""Files and folders that are written whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What file managers, git and the Hub's client leave in folders: it does not make an output another thing.
SIDE_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini", ".directory", ".gitattributes", ".cache", ".git"})


def is_side_file(path: Path) -> bool:
    """Return whether a file or folder is one that programs leave without being asked, such as `.DS_Store`."""
    return path.name.lower() in SIDE_FILES or path.name.startswith("._")


def check_writable(path: Path) -> None:
    """Raise OSError before any long work if a file cannot be written there; makes nothing."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"Cannot write the file '{path}': choose another path.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file or a folder to, and rename it to `path` at the end.

    Where writing fails, what was there before stays, and nothing is left beside it. Folders above are made. A folder
    that is replaced is moved away first, since the system renames a folder only to an empty place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(f"{path.name}.{ending}") for ending in ("partial", "old"))
    remove(partial)
    try:
        yield partial
        if path.is_dir():
            remove(old)
            os.replace(path, old)
        os.replace(partial, path)
        remove(old)
    except BaseException:
        remove(partial)
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise


def disk_is_full(error: BaseException | None) -> bool:
    """Return whether an error, or one that it was raised from, says that a disk or a user's share of it is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def user_cache() -> Path | None:
    """Return the folder of what is kept for this user, `splip` in the system's cache; None for one without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splip"
    except RuntimeError:
        return None


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; a link goes, not what it points to. Nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
