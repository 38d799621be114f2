"""Photos that a visitor of a server uploads: a gallery in a temporary folder, seen by nobody else."""

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from .gallery import Gallery

_OWN_PREFIX = "splip-own-"
_NAMES_TOLD = 3


@dataclass
class OwnPhotos:
    """A visitor's photos, as a gallery in a temporary folder.

    Attributes:
        files: copies of all that was uploaded, in the folder.
        lock: on the folder, held as long as the process that made it lives.
        gallery: of the files that can be read; None until `build`.
        key: a secret that is made anew with every gallery, for the addresses of its photos.
    """

    folder: tempfile.TemporaryDirectory
    lock: filelock.BaseFileLock
    files: list[Path] = field(default_factory=list)
    gallery: Gallery | None = None
    key: str = ""

    @classmethod
    def empty(cls) -> "OwnPhotos":
        """Return a folder without photos."""
        folder = tempfile.TemporaryDirectory(prefix=_OWN_PREFIX, ignore_cleanup_errors=True)
        lock = filelock.FileLock(Path(folder.name) / "lock", thread_local=False)  # as any thread may delete the photos
        lock.acquire()
        return cls(folder, lock)

    def add(self, files: Sequence[str], model: Any, processor: Any, max_pixels: int) -> None:
        """Make copies of further files searchable; photos that were there are not encoded again.

        Raises:
            ValueError: if none of all the files can be read.
        """
        for file in map(Path, files):
            copy = Path(self.folder.name, "photos", str(len(self.files)), file.name)
            copy.parent.mkdir(parents=True)
            self.files.append(Path(shutil.copy2(file, copy)))
        out, options = Path(self.folder.name) / "gallery", {"workers": 2, "max_pixels": max_pixels, "progress": False}
        self.gallery = Gallery.build(list(self.files), model, processor, out, **options)
        self.key = secrets.token_urlsafe(16)

    def unreadable(self) -> list[str]:
        """Return the names of the files that could not be read."""
        return [Path(entry["path"]).name for entry in self.gallery.manifest["unreadable"]] if self.gallery else []

    def summary(self) -> str:
        """Return how many photos there are, for the visitor."""
        bad = self.unreadable()
        count = len(self.gallery) if self.gallery else 0
        named = ", ".join(bad[:_NAMES_TOLD]) + f" and {len(bad) - _NAMES_TOLD} others" * (len(bad) > _NAMES_TOLD)
        more = f" Could not be read: {named}; JPEG, PNG and WebP can." if bad else ""
        doubt = self.gallery.manifest["doubt"] if self.gallery else ""
        return f"{count} photo{'s' * (count != 1)} of yours can be searched now.{more}{doubt and ' ' + doubt}"

    def delete(self) -> None:
        """Remove everything that was kept of the photos."""
        self.folder.cleanup()

    @staticmethod
    def sweep() -> None:
        """Remove what processes that were killed left of their visitors' photos."""
        # A folder is locked before anything else is in it. An empty one may be a process' that has not locked it yet.
        kept = [
            path
            for name in ("photos", "gallery*")
            for path in Path(tempfile.gettempdir()).glob(f"{_OWN_PREFIX}*/{name}")
        ]
        for folder in {path.parent for path in kept}:
            lock = folder / "lock"
            with contextlib.suppress(OSError):  # the process lives, or the folder is another user's
                if lock.is_file() and not folder.is_symlink():
                    with filelock.FileLock(lock, timeout=0):
                        shutil.rmtree(folder)
