"""One list of files for a folder, a zip file or a tar file, read without unpacking where that is possible."""

import contextlib
import functools
import lzma
import os
import posixpath
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from modeling_splip.common.files import written_whole
from modeling_splip.common.text import printable

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)  # of a torn download, mostly
MOST_LINKS = 40  # from link to link, as operating systems allow
# What an archive may unpack to: this many times its own size, or this many bytes where that is more. Pictures are
# compressed already, so that honest archives hold little more than their size.
MOST_TIMES, ALWAYS_BYTES = 100, 2**30
ENTRY_BYTES = 512  # what an entry counts at least


class Member(NamedTuple):
    """A file of a data folder, or inside one of its archives.

    Attributes:
        path: POSIX path below the data folder or inside the archive, for matching and for messages.
        size: bytes.
        container: "" for a plain file, otherwise the zip or tar file that holds it.
        key: the plain file's path, the name in the zip, or the offset in the tar.
    """

    path: str
    size: int
    container: str
    key: str | int

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rsplit("/", 1)[-1]

    def read(self) -> bytes:
        """Return the file's bytes. Raises OSError or zipfile.BadZipFile where they cannot be read."""
        if not self.container:
            path = Path(str(self.key))
            if path.exists() and not path.is_file():
                raise OSError("no regular file")  # a pipe waits, and a device may never end
            return path.read_bytes()
        if isinstance(self.key, int):
            with open(self.container, "rb") as archive:
                archive.seek(self.key)
                return archive.read(self.size)
        return _zip_file(self.container, os.getpid()).read(self.key)


def list_files(root: str | Path, scratch: str | Path = "") -> list[Member]:
    """Return every file below `root`, sorted by path.

    Args:
        root: a folder, a zip file, or a tar file. Zip and tar files that lie directly in a folder are looked into as
            well, as folders of their own name without the suffix, unless such a folder lies beside them.
        scratch: folder into which compressed tar files are unpacked, because they cannot be read at random; "" for
            none.

    Raises:
        FileNotFoundError: `root` does not exist.
        ValueError: `root` is empty, a file that is neither zip nor tar, or a damaged archive.
    """
    root = Path(root).expanduser().absolute()
    if not root.exists():
        raise FileNotFoundError(f"There is no data folder '{root}': check --data-dir.")
    if root.is_dir():
        files = list(tqdm(_walk(root), desc=printable(f"listing {root.name}"), unit="file", delay=2))
        for archive in [Path(str(f.key)) for f in files if "/" not in f.path and f.name.endswith(ARCHIVE_SUFFIXES)]:
            stem = _stem(archive)
            if not (root / stem).is_dir():
                files += [f._replace(path=f"{stem}/{f.path}") for f in _members(archive, scratch)]
    else:
        files = _members(root, scratch)
    if not files:
        raise ValueError(f"'{root}' is empty: --data-dir must name a folder or an archive with images in it.")
    return sorted(files)


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


def _members(archive: Path, scratch: str | Path) -> list[Member]:
    try:
        if zipfile.is_zipfile(archive):
            return _zip_members(archive)
        if archive.stat().st_size and tarfile.is_tarfile(archive):
            plain = _is_plain_tar(archive)
            return _tar_members(archive) if plain else list(_walk(_unpack(archive, scratch)))
    except DAMAGED as error:
        raise ValueError(f"'{archive}' is damaged or incomplete ({error}): get the file again.") from error
    raise ValueError(
        f"'{archive}' is neither a folder, a zip file nor a tar file, or only a part of one: get the file again, or "
        "unpack it and name its folder."
    )


def _zip_members(archive: Path) -> list[Member]:
    """Return the files of a zip file; of entries of one name the last one counts, as when it is unpacked."""
    members, budget = {}, _Budget(archive)
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            budget.spend(info.file_size)
            path = _clean(_utf8_name(info))
            if not path.endswith("/"):
                members[path] = Member(path, info.file_size, str(archive), info.filename)
    return list(members.values())


def _utf8_name(info: zipfile.ZipInfo) -> str:
    """Return an entry's name; some packers write it in UTF-8 without saying so, and it is read as code page 437."""
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _is_plain_tar(archive: Path) -> bool:
    try:
        with tarfile.open(archive, "r:"):
            return True
    except tarfile.ReadError:
        return False


def _tar_members(archive: Path) -> list[Member]:
    """Return the files of an uncompressed tar file; a link is the file that it names, or unreadable without one."""
    with tarfile.open(archive, "r:") as opened:
        listed = tqdm(opened, desc=printable(f"listing {archive.name}"), unit="file")
        infos = {posixpath.normpath(info.name): info for info in listed}
        with open(archive, "rb") as file:  # tarfile takes a torn header, and the end of the file, for the archive's end
            file.seek(opened.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it does not end as a tar file does")
    members = []
    for info in infos.values():
        file = _linked(info, infos)
        if info.isreg() or info.issym() or info.islnk():
            size, offset = (file.size, file.offset_data) if file is not None else (0, 0)
            members.append(Member(_clean(info.name), size, str(archive), offset))
    return members


def _linked(info: tarfile.TarInfo | None, infos: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Return the file that a member is, or links to within the archive; None where there is none."""
    for _ in range(MOST_LINKS):
        if info is None or info.isreg():
            return info
        name = posixpath.join(posixpath.dirname(info.name), info.linkname) if info.issym() else info.linkname
        info = infos.get(posixpath.normpath(name))
    return None


def _unpack(archive: Path, scratch: str | Path) -> Path:
    """Unpack a compressed tar file below `scratch` and return the folder; a finished one is used again."""
    if not scratch:
        raise ValueError(f"'{archive}' is a compressed tar file: unpack it and name its folder.")
    target = Path(scratch) / f"{_stem(archive)}-{archive.stat().st_size}"
    if not target.is_dir():
        with written_whole(target) as aside:
            aside.mkdir()
            budget = _Budget(archive, shutil.disk_usage(aside).free)
            with tarfile.open(archive) as opened:
                for info in tqdm(opened, desc=printable(f"unpacking {archive.name}"), unit="file"):
                    budget.spend(info.size)
                    opened.extract(info, aside, filter="data")
    return target


class _Budget:
    """How much more an archive may unpack to."""

    def __init__(self, archive: Path, free: int | None = None):
        self._archive, self._free = archive, free
        self._most = max(MOST_TIMES * archive.stat().st_size, ALWAYS_BYTES)
        self._used = 0

    def spend(self, size: int) -> None:
        """Count an entry. Raises ValueError where all that was counted is too much, or has no room on the disk."""
        self._used += max(size, ENTRY_BYTES)
        if self._used > self._most:
            raise ValueError(
                f"'{self._archive}' unpacks to more than {MOST_TIMES} times its size, which no archive of pictures "
                "does: if you trust it, unpack it yourself and name its folder."
            )
        if self._free is not None and self._used > self._free:
            raise ValueError(
                f"'{self._archive}' unpacks to more than the {self._free:,d} bytes that are free beside --out: choose "
                "another --out, or unpack it elsewhere and name its folder."
            )


def _clean(name: str) -> str:
    """Drop a leading `./` or `/` and use `/` everywhere, as some packers do not."""
    return name.replace("\\", "/").removeprefix("./").lstrip("/")


# A handle that crosses a fork shares its file position with the parent: hence one handle per process.
@functools.lru_cache(maxsize=8)
def _zip_file(path: str, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)
