"""The photos in Parquet files and in tars (WebDataset's or any), in groups, without loading a whole file."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NoReturn

import datasets
import pyarrow.parquet as pq

from ...common.text import composed
from ...image_files import image_suffixes
from ...image_memory import MAX_BYTES
from ..photo_files import SYSTEM_FOLDERS
from ..photos import NOT_A_FILE, Photo, PhotoColumns, cell_bytes


@dataclass
class Group:
    """Photos that go into one shard, and how many other files of each suffix lay among them."""

    photos: list[Photo]
    left_out: dict[str, int] = field(default_factory=dict)


def parquet_groups(
    fs: Any, path: str, part: int, first: int, prefix: str, columns: PhotoColumns, follow_paths: bool, size: int
) -> Iterator[Group]:
    """Yield the photos of one row group of a Parquet file.

    Args:
        fs: the file system (fsspec) that `path` lies in.
        part: the number of the row group.
        first: the number that its first row has in the photos' paths, `prefix/number`.
        columns: of the photos.
        follow_paths: whether a cell that names a file is read from there.
        size: photos in a group.

    Raises:
        OSError: in one sentence, if the file cannot be read.
    """
    with reading(path), fs.open(path, "rb") as file:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        for batch in table.iter_batches(size, row_groups=[part], columns=[columns.image, *columns.scalars]):
            rows = batch.to_pylist()
            yield Group(
                [_row_photo(row, f"{prefix}/{first + at:07d}", columns, follow_paths) for at, row in enumerate(rows)]
            )
            first += len(rows)


def _row_photo(row: dict[str, Any], path: str, columns: PhotoColumns, follow_paths: bool) -> Photo:
    cell = row.pop(columns.image)
    cell = {"bytes": cell, "path": None} if isinstance(cell, bytes) else cell
    return columns.photo(path, row, partial(cell_bytes, cell, follow_paths))


def with_image_column(features: datasets.Features) -> datasets.Features:
    """Return the columns of a Parquet file where one that holds encoded pictures, as a rule, counts as such.

    Files that `datasets` wrote say which one it is. In others it is the first of the form {bytes, path}, or of bytes.
    """
    if any(isinstance(feature, datasets.Image) for feature in features.values()):
        return features
    cells = [name for name, kind in features.items() if isinstance(kind, dict) and {"bytes", "path"} <= set(kind)]
    binary = ("binary", "large_binary")
    cells += [name for name, kind in features.items() if getattr(kind, "dtype", None) in binary]
    return datasets.Features({**features, **dict.fromkeys(cells[:1], datasets.Image())})


def tar_groups(fs: Any, path: str, name: str, size: int) -> Iterator[Group]:
    """Yield the photos of a tar, read once from front to back.

    A photo's path is the tar's `name` and its own there. Its label is the text of the `.cls` file of the same sample,
    as WebDataset has it, and without one the folder that it lies in.

    Args:
        fs: the file system (fsspec) that `path` lies in.
        size: photos in a group, or a few more.

    Raises:
        OSError: in one sentence, if the file cannot be read, or is damaged or cut off.
    """
    group = Group([], Counter())
    # An end mark does not end it, since tars are joined by `cat`.
    options: dict[str, Any] = {"mode": "r|*", "tarinfo": _strict_member(), "ignore_zeros": True}
    with reading(path), fs.open(path, "rb") as file, tarfile.open(fileobj=file, **options) as tar:
        for sample in _samples(tar):
            label = next((read() for suffix, _, read in sample if suffix == ".cls"), None)
            for suffix, member, read in sample:
                if PurePosixPath(member).suffix.lower() in image_suffixes():
                    folder = PurePosixPath(member).parent.name
                    own = folder if label is None else label.decode("utf-8", "replace").strip()
                    group.photos.append(Photo(f"{name}/{member}", composed(own), 0, NOT_A_FILE, read))
                elif suffix != ".cls":
                    group.left_out[suffix] += 1
            if len(group.photos) >= size:
                yield group
                group = Group([], Counter())
    if group.photos or group.left_out:
        yield group


# The suffix of a member, its name, and what returns its content.
_Member = tuple[str, str, Callable[[], bytes]]


def _samples(tar: tarfile.TarFile) -> Iterator[Sequence[_Member]]:
    """Yield the members that follow one another and have the same name up to its first dot, read into memory."""
    sample: list[_Member] = []
    before = None
    for member in tar:
        name = PurePosixPath(member.name)
        hidden = any(part[0] == "." or part.lower() in SYSTEM_FOLDERS for part in name.parts if part != ".")
        if member.isdir() or hidden or not name.name:
            continue
        stem, _, suffix = name.name.lower().partition(".")
        key = str(name.parent / stem)
        if key != before and sample:
            yield sample
            sample = []
        before = key
        sample.append((f".{suffix}" if suffix else "", str(name), _reader(tar, member)))
    if sample:
        yield sample


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], bytes]:
    if not member.isfile():
        return partial(_refused, "no regular file")
    if member.size > MAX_BYTES:
        return partial(_refused, f"{member.size:,d} bytes, more than {MAX_BYTES:,d}")
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    return lambda: content


def _refused(reason: str) -> NoReturn:
    raise ValueError(reason)


def _strict_member() -> type[tarfile.TarInfo]:
    """Return a class for the members of one tar, of which none is lost.

    `tarfile` takes a damaged header, or the end of a file without an end mark, for the end of the tar.
    """

    class Member(tarfile.TarInfo):
        ended = False

        @classmethod
        def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
            try:
                found = super().fromtarfile(tar)
            except tarfile.EOFHeaderError:
                cls.ended = True
                raise
            except tarfile.EmptyHeaderError:
                if cls.ended:
                    raise
                raise OSError("it ends too soon") from None
            except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
                raise OSError(f"a header is damaged: {error}") from error
            cls.ended = False
            return found

    return Member


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what reading an archive raises into one sentence with its name."""
    try:
        yield
    except GeneratorExit:
        raise
    except Exception as error:  # the libraries of a dozen stores and formats
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise OSError(
            f"'{path}' cannot be read ({reason}): replace or remove it, and run the same command again, it goes on "
            "where it stopped."
        ) from error
