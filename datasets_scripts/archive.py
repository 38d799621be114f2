"""One list of files for a folder, a zip file or a tar file, read without unpacking where that is possible."""

import functools
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Member(NamedTuple):
    """A file of a data folder, or inside one of its archives.

    - `path`: POSIX path below the data folder or inside the archive, for matching and for messages.
    - `size`: bytes.
    - `container`: "" for a plain file, otherwise the zip or tar file that holds it.
    - `key`: the plain file's path, the name in the zip, or the offset in the tar.
    """

    path: str
    size: int
    container: str
    key: str | int

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]


def list_files(root: str | Path, scratch: str | Path | None = None) -> list[Member]:
    """Return every file below `root`, sorted by path.

    Args:
        root: a folder, a zip file, or a tar file. Zip and tar files that lie directly in a folder are looked into as
            well, as folders of their own name without the suffix, unless such a folder lies beside them.
        scratch: folder into which compressed tar files are unpacked, because they cannot be read at random.

    Raises:
        FileNotFoundError: `root` does not exist.
        ValueError: `root` is empty, or a file that is neither zip nor tar.
    """
    root = Path(root).expanduser().absolute()
    if not root.exists():
        raise FileNotFoundError(f"data folder '{root}' does not exist; check --data-dir")
    if root.is_dir():
        files = list(tqdm(_walk(root), desc=f"listing {root.name}", unit="file", delay=2))
        for archive in [Path(str(f.key)) for f in files if "/" not in f.path and f.name.endswith(ARCHIVE_SUFFIXES)]:
            stem = _stem(archive)
            if not (root / stem).is_dir():
                files += [f._replace(path=f"{stem}/{f.path}") for f in _members(archive, scratch)]
    else:
        files = _members(root, scratch)
    if not files:
        raise ValueError(f"'{root}' is empty; --data-dir wants a folder or an archive with images in it")
    return sorted(files)


def read_member(member: Member) -> bytes:
    """Return the bytes of one file. Raises OSError or zipfile.BadZipFile where they cannot be read."""
    if not member.container:
        return Path(str(member.key)).read_bytes()
    if isinstance(member.key, int):
        with open(member.container, "rb") as archive:
            archive.seek(member.key)
            return archive.read(member.size)
    return _zip_file(member.container, os.getpid()).read(member.key)


def _stem(archive: Path) -> str:
    suffix = next(s for s in sorted(ARCHIVE_SUFFIXES, key=len, reverse=True) if archive.name.endswith(s))
    return archive.name[: -len(suffix)]


def _walk(root: Path) -> Iterator[Member]:
    """Yield plain files below `root`, following links to folders once."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        for name in names:
            path = os.path.join(folder, name)
            size = os.path.getsize(path) if os.path.exists(path) else 0  # a broken link is reported as unreadable
            yield Member(prefix + name, size, "", path)


def _members(archive: Path, scratch: str | Path | None) -> list[Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
        return [Member(_clean(info.filename), info.file_size, str(archive), info.filename) for info in infos]
    if archive.stat().st_size and tarfile.is_tarfile(archive):
        return _tar_members(archive, scratch)
    raise ValueError(f"'{archive}' is neither a folder, a zip file nor a tar file; unpack it and name its folder")


def _tar_members(archive: Path, scratch: str | Path | None) -> list[Member]:
    try:
        with tarfile.open(archive, "r:") as opened:
            infos = [info for info in tqdm(opened, desc=f"listing {archive.name}", unit="file") if info.isreg()]
    except tarfile.ReadError:
        return list(_walk(_unpack(archive, scratch)))
    return [Member(_clean(info.name), info.size, str(archive), info.offset_data) for info in infos]


def _unpack(archive: Path, scratch: str | Path | None) -> Path:
    """Unpack a compressed tar file below `scratch` and return the folder; a finished one is used again."""
    if scratch is None:
        raise ValueError(f"'{archive}' is a compressed tar file; unpack it and name its folder")
    target = Path(scratch) / f"{_stem(archive)}-{archive.stat().st_size}"
    if not target.is_dir():
        aside = target.with_name(target.name + ".partial")
        aside.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as opened:
            for info in tqdm(opened, desc=f"unpacking {archive.name}", unit="file"):
                opened.extract(info, aside, filter="data")
        os.replace(aside, target)
    return target


def _clean(name: str) -> str:
    """Drop a leading `./` or `/` and use `/` everywhere, as some packers do not."""
    return name.replace("\\", "/").removeprefix("./").lstrip("/")


# A handle that crosses a fork shares its file position with the parent: hence one handle per process.
@functools.lru_cache(maxsize=8)
def _zip_file(path: str, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
