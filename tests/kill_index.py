"""Builds a gallery again and again, killed by kill -9 one change of the disk later each time.

`kill_index.py MODEL PHOTOS OUT [BEFORE]`; OUT starts as a copy of the gallery BEFORE, or is not there. Prints, for
every kill, the number of photos that OUT had afterwards, null where it was no gallery yet, and after the next build.
"""

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from modeling_splip.loading import load_retriever
from modeling_splip.search.build import build_gallery
from modeling_splip.search.gallery import Gallery

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")


def die_before(change: int) -> Callable[[], int]:
    """Let this process die by kill -9 just before a change of the disk, never where it is negative.

    Returns a function that tells how many changes were made since.
    """
    left = [change]

    def count(event, values):
        writes = event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    sys.addaudithook(count)
    return lambda: change - left[0]


def build_killed(change: int, *arguments, **options) -> bool:
    """Build in a fork that dies just before this change of the disk; return whether it died."""
    child = os.fork()
    if child == 0:
        die_before(change)
        build_gallery(*arguments, **options)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def photos_in(out: Path, pair) -> int | None:
    """Return how many photos a search finds; None where there is no gallery."""
    if not (out / "manifest.json").exists():
        return None
    gallery = Gallery.open(out, pair)
    return len(gallery.search_vectors(gallery.vectors([0]), len(gallery))[0])


def main(model: str, photos: str, out: Path, *before: str) -> None:
    pair, counts = load_retriever(model), []
    arguments, options = (photos, *pair, out), {"model_name": model, "progress": False}
    for change in itertools.count():
        for folder in (out, out.with_name(out.name + ".partial")):
            shutil.rmtree(folder, ignore_errors=True)
        if before:
            shutil.copytree(before[0], out)
        if not build_killed(change, *arguments, **options):
            break
        left = photos_in(out, pair)
        build_gallery(*arguments, **options)
        folders = [path.name for path in out.iterdir() if path.is_dir()]
        clean = len(folders) == 1 and not out.with_name(out.name + ".partial").exists()
        counts.append((left, photos_in(out, pair) if clean else folders))
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
