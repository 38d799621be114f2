"""What is encoded on Ray, cut into parts that one process reads: folders, Parquet files, tars, Hub data sets.

A place is a folder, a file or a pattern with `*`, of this machine or behind an address that fsspec knows, such as
`s3://bucket/photos`; or the Hub id of a data set. Every machine of the cluster must be able to read it.
"""

import hashlib
import json
import os
import posixpath
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.parquet as pq

from ...common.hub import is_hub_id
from ...common.text import composed
from ...data.dataset import INFO_FILE
from ...image_files import image_suffixes
from ...image_memory import MAX_BYTES
from ..photo_files import SYSTEM_FOLDERS, left_out_sentence
from ..photos import NOT_A_FILE, Photo, PhotoSource, find_photos, folder_photos, photo_columns
from .archives import Group, parquet_groups, reading, tar_groups, with_image_column

_TARS = (".tar", ".tar.gz", ".tgz")
_AT_ONCE = 16  # files whose facts are asked for at once
# What stores say about a file that is another one when its content has changed.
_STAMPS = ("size", "ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "blob_id")
_TIMES = ("LastModified", "last_modified", "mtime", "updated")


@dataclass(frozen=True)
class Part:
    """Photos that one process reads.

    Attributes:
        key: hex digits that stand for the files, their state and the cut.
        groups: returns the photos, always the same ones in the same order and groups; each group becomes a shard.
        count: of the photos; None where only reading tells.
    """

    key: str
    groups: Callable[[], Iterator[Group]]
    count: int | None = None


@dataclass(frozen=True)
class PartedSource(PhotoSource):
    """Photos that are not listed one by one, in parts."""

    parts: list[Part] = field(default_factory=list)


def find_source(place: str, split: str | None, follow_paths: bool, size: int) -> PhotoSource:
    """List the photos of a place, or the parts of its Parquet files or tars.

    In a folder its photos count; only where there is none its Parquet files, or else its tars.

    Args:
        place: a folder, file or pattern; or a Hub id.
        split: of a data set; default: `gallery` where there is one, otherwise the only one or `train`.
        follow_paths: whether an image cell that names a file of its machine is read from there.
        size: photos of a shard.

    Raises:
        FileNotFoundError, ValueError, OSError: in one sentence, if there is no such place or no photo in it.
    """
    place = place.removeprefix("file://")
    local = Path(place).expanduser()
    if (local / INFO_FILE).is_file():
        found = find_photos(place, split, follow_paths)  # checks the split and its files
        files = sorted(map(str, (local / "data").glob(f"{split or 'gallery'}-*.parquet")))
        prefixes = [split or "gallery"] * len(files)
        return _parquet_source(place, fsspec.filesystem("file"), files, prefixes, follow_paths, size, found.drawn)
    if local.is_dir() and (found := folder_photos(local)).photos:
        return found
    if "://" not in place and not local.exists() and "*" not in place:
        if is_hub_id(place):
            return _hub_source(place, split, follow_paths, size)
        find_photos(place)  # refuses it
    return _place_source(place, follow_paths, size)


def listed_parts(photos: Sequence[Photo], size: int) -> list[Part]:
    """Cut listed photos into parts of about `size`, at most twice as many, each of them one group.

    Whether a part ends at a photo depends on its path. So when a photo is added or removed, few parts change.
    """
    parts: list[Part] = []
    chunk: list[Photo] = []
    for photo in photos:
        chunk.append(photo)
        if len(chunk) == 2 * size or zlib.crc32(os.fsencode(photo.path)) % size == 0:
            parts.append(_listed_part(chunk))
            chunk = []
    return [*parts, _listed_part(chunk)] if chunk else parts


def _listed_part(photos: list[Photo]) -> Part:
    key = _key([(os.fsencode(photo.path).hex(), photo.label, photo.size, photo.mtime_ns) for photo in photos])
    return Part(key, partial(_one_group, photos), len(photos))


def _one_group(photos: list[Photo]) -> Iterator[Group]:
    yield Group(photos)


def _place_source(place: str, follow_paths: bool, size: int) -> PhotoSource:
    """Return the photos, Parquet files or tars in a folder, of a pattern or file, wherever fsspec reads."""
    fs, root, files = _listed(place)
    names = [posixpath.relpath(file, root) for file in files]
    shown = {
        file: name
        for file, name in zip(files, names, strict=True)
        if not any(part[0] == "." or part.lower() in SYSTEM_FOLDERS for part in name.split("/"))
    }
    photos = [file for file in shown if file.lower().endswith(image_suffixes())]
    tables = [file for file in shown if file.lower().endswith(".parquet")]
    tars = [file for file in shown if file.lower().endswith(_TARS)]
    taken = set(photos or tables or tars)
    left_out = dict(Counter(posixpath.splitext(file)[1].lower() for file in shown if file not in taken))
    if not taken:
        others = f" ({left_out_sentence(left_out)})" if left_out else ""
        raise ValueError(f"'{place}' has no photo, Parquet file or tar at any depth{others}: check the address.")
    if photos:
        listed = [_remote_photo(fs, file, shown[file], files[file]) for file in photos]
        return PhotoSource(place, "", listed, {}, left_out)
    if tables:
        prefixes = [shown[file] for file in tables]
        return _parquet_source(place, fs, tables, prefixes, follow_paths, size, left_out=left_out)
    stamps = _ask(fs.info, tars)
    parts = [
        Part(_key([shown[file], _stamp(info), size]), partial(tar_groups, fs, file, shown[file], size))
        for file, info in zip(tars, stamps, strict=True)
    ]
    return PartedSource(place, "", [], {}, left_out, parts=parts)


def _listed(place: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """Return the file system of a place, its folder there, and path -> facts of its files, sorted."""
    try:
        fs, path = fsspec.core.url_to_fs(place if "://" in place else os.path.abspath(os.path.expanduser(place)))
    except (ImportError, ValueError) as error:  # fsspec says which package to install, or that it knows no such address
        raise OSError(f"'{place}' cannot be read ({' '.join(str(error).split()).rstrip('.')}).") from error
    with reading(place):
        if "*" in path:
            files = fs.glob(path, detail=True)
        else:
            files = fs.find(path, detail=True) if fs.isdir(path) else {path: fs.info(path)} if fs.exists(path) else {}
    files = {name: files[name] for name in sorted(files) if files[name]["type"] == "file"}
    if not files:
        raise FileNotFoundError(f"There is nothing at '{place}': check the address, and the rights to read it.")
    whole = not files.keys() <= {path} and "*" not in path
    root = path if whole else posixpath.commonpath([posixpath.dirname(name) for name in files])
    return fs, root.rstrip("/") or "/", files


def _remote_photo(fs: Any, path: str, name: str, facts: Mapping[str, Any]) -> Photo:
    changed = next((facts[key] for key in _TIMES if isinstance(facts.get(key), datetime)), None)
    mtime_ns = NOT_A_FILE if changed is None else int(changed.timestamp() * 1e9)
    label = composed(posixpath.basename(posixpath.dirname(name)))
    full = fs.unstrip_protocol(path)
    return Photo(full, label, facts.get("size") or 0, mtime_ns, partial(_remote_bytes, fs, path))


def _remote_bytes(fs: Any, path: str) -> bytes:
    with fs.open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,d} bytes")
    return content


def _parquet_source(
    place: str,
    fs: Any,
    files: list[str],
    prefixes: list[str],
    follow_paths: bool,
    size: int,
    drawn: bool = False,
    left_out: dict[str, int] | None = None,
) -> PartedSource:
    """Return the row groups of Parquet files; rows are numbered through all files of one prefix."""
    tables = _ask(partial(_footer, fs), files)
    first = tables[0][0]
    features = with_image_column(datasets.Features.from_arrow_schema(first))
    columns, parts, row = photo_columns(place, features), [], Counter[str]()
    for file, prefix, (schema, counts, stamp) in zip(files, prefixes, tables, strict=True):
        if not schema.equals(first):
            raise ValueError(f"'{file}' has other columns than '{files[0]}': pass Parquet files of the same columns.")
        for group, count in enumerate(counts):
            key = _key([file, stamp, group, prefix, row[prefix], sorted(columns.scalars), follow_paths, size])
            groups = partial(parquet_groups, fs, file, group, row[prefix], prefix, columns, follow_paths, size)
            parts += [Part(key, groups, count)] if count else []
            row[prefix] += count
    if not parts:
        raise ValueError(f"The Parquet files of '{place}' are empty: pass some with photos.")
    return PartedSource(place, "", [], columns.metadata, left_out or {}, drawn, parts)


def _footer(fs: Any, file: str) -> tuple[Any, list[int], str]:
    """Return the columns of a Parquet file, the rows of its row groups, and what changes with its content."""
    with reading(file), fs.open(file, "rb") as opened:
        facts = pq.ParquetFile(opened)
        counts = [facts.metadata.row_group(group).num_rows for group in range(facts.num_row_groups)]
        return facts.schema_arrow, counts, _stamp(fs.info(file))


def _hub_source(name: str, split: str | None, follow_paths: bool, size: int) -> PartedSource:
    """Return the parts of a data set on the Hub: its machines read the files there, nothing is downloaded before."""
    try:
        files = datasets.load_dataset_builder(name).config.data_files or {}
    except Exception as error:  # the Hub client raises a dozen kinds: offline, gated, unknown, script-based
        raise OSError(
            f"'{name}' is no folder here, and no data set came from the Hub ({type(error).__name__}): check the name "
            "and the network."
        ) from error
    chosen = split or next((known for known in ("gallery", "train") if known in files), next(iter(files), "train"))
    if chosen not in files:
        raise ValueError(f"Dataset '{name}' has no split '{chosen}', only {', '.join(files)}: pass one of them.")
    urls = list(map(str, files[chosen]))
    fs = fsspec.core.url_to_fs(urls[0])[0]
    paths = [fs._strip_protocol(url) for url in urls]
    if all(path.endswith(".parquet") for path in paths):
        return _parquet_source(name, fs, paths, [chosen] * len(paths), follow_paths, size)
    if all(path.endswith(_TARS) for path in paths):
        names = [posixpath.basename(path) for path in paths]
        keys = [_key([path, _stamp(info), size]) for path, info in zip(paths, _ask(fs.info, paths), strict=True)]
        cuts = zip(keys, paths, names, strict=True)
        parts = [Part(key, partial(tar_groups, fs, path, own, size)) for key, path, own in cuts]
        return PartedSource(name, "", [], {}, parts=parts)
    raise ValueError(
        f"Split '{chosen}' of '{name}' is neither in Parquet files nor in tars: index it without --on ray, or pass "
        f"the Hub's conversion, such as 'hf://datasets/{name}@refs/convert/parquet/default/{chosen}'."
    )


def _ask(question: Callable[[str], Any], files: Sequence[str]) -> list[Any]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(question, files))


def _stamp(facts: Mapping[str, Any]) -> str:
    return repr([str(facts[name]) for name in _STAMPS if name in facts])


def _key(facts: Any) -> str:
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()
