"""Which files below a folder are photos, and which are left out."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from PIL import Image, UnidentifiedImageError

from ..common.text import printable
from ..image_files import image_formats, image_suffixes

# What systems and programs keep for themselves: thumbnails of a NAS, recycle bins, leftovers of a file system.
SYSTEM_FOLDERS = frozenset(
    {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
)
_HEIC = "(pip install 'splip[heic]' lets them be read)"  # only without it are they left out
_CONVERT = "(convert to JPEG)"
_CONVERTIBLE = (".jxl", ".psd", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2")
# What to do about pictures that are not read.
_ADVICE = dict.fromkeys((".heic", ".heif", ".hif"), _HEIC) | dict.fromkeys(_CONVERTIBLE, _CONVERT)
_KINDS_TOLD = 10


def list_photos(root: Path) -> tuple[list[Path], dict[str, int]]:
    """Return the photos below a folder, and how many other files there are of each kind.

    A file is a photo by its suffix, or by its content where it has no suffix. Hidden files and folders do not count,
    nor do the folders in `SYSTEM_FOLDERS`. A linked folder is followed once; a link back to a folder above is not.

    Args:
        root: an absolute folder.

    Returns:
        The photos: the folder's own in sorted order, then those behind links. And suffix in lower case -> number of
        files, "" for those without suffix.

    Raises:
        OSError: if a folder cannot be read, since its photos would count as removed.
    """
    photos: list[Path] = []
    left_out: Counter[str] = Counter()
    for file in _walk(root):
        suffix = file.suffix.lower()
        if suffix in image_suffixes() or (not suffix and _may_be_image(file)):
            photos.append(file)
        else:
            left_out[suffix] += 1
    return photos, dict(left_out)


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Return how many files were left out, by kind: "3 files left out: 1 .nef (convert to JPEG), 2 .mp4"."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    told = [
        f"{count:,d} {printable(suffix) or 'without suffix'} {_ADVICE.get(suffix, '')}".rstrip()
        for suffix, count in kinds[:_KINDS_TOLD]
    ]
    rest = sum(count for _, count in kinds[_KINDS_TOLD:])
    total = sum(left_out.values())
    return f"{total:,d} file{'s' * (total != 1)} left out: {', '.join([*told, *[f'{rest:,d} others'] * bool(rest)])}"


def _walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder: first what lies there itself, then what links to folders lead to."""
    # A link to a folder above would lead round in a circle.
    seen = {_identity(folder) for folder in root.parents}
    starts = [str(root)]
    for start in starts:  # grows by the links that are met
        for folder, folders, files in os.walk(start, onerror=_refuse):
            if _identity(folder) in seen:
                folders.clear()
                continue
            seen.add(_identity(folder))
            folders[:] = sorted(name for name in folders if name[0] != "." and name.lower() not in SYSTEM_FOLDERS)
            starts += [path for path in (os.path.join(folder, name) for name in folders) if os.path.islink(path)]
            yield from (Path(folder, name) for name in sorted(files) if name[0] != ".")


def _identity(folder: str | Path) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise OSError(
        f"Folder '{error.filename}' cannot be read ({error.strerror}), so it is not known which photos it holds: make "
        f"it readable, or move it elsewhere."
    ) from error


def _may_be_image(file: Path) -> bool:
    """Return whether a file starts as an image. Where that cannot be seen it may be one: reading it tells why not."""
    if not file.is_file():
        return False
    try:
        with Image.open(file, formats=image_formats()):
            return True
    except UnidentifiedImageError:
        return False
    except Exception:  # no permission, or a decoder that stumbles over a damaged header
        return True
