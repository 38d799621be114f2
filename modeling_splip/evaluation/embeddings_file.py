"""Embeddings that somebody stored in a NumPy file, measured by the same protocols as a model."""

import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..common.text import one_line
from ..data.protocols import PROTOCOLS, paired_rows
from ..metrics.inputs import as_labels, as_pair, unit_norm
from .evaluate import Evaluation, Sides, evaluate_sides

EMBEDDINGS = ("query", "gallery")
LABELS = ("query_label", "gallery_label")
INSTANCES = ("query_instance", "gallery_instance")

Arrays = dict[str, np.ndarray]


def evaluate_embeddings(path: Path, protocols: Sequence[str], title: str | None = None) -> list[Evaluation]:
    """Measure the embeddings in a file under several protocols. The method is named after the file.

    The file decides which items are queries and gallery; the protocol name in the record is only what its author
    claims. From these items a fine-grained protocol takes the sketches whose photo is there and the photos that some
    sketch was drawn of, as for a dataset.

    Args:
        path: an .npz file with the arrays that `load_arrays` returns.
        protocols: names of `PROTOCOLS`.
        title: name of the data in the record; None for the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `load_arrays`; or if the arrays that a protocol needs are not in the file.
    """
    arrays = load_arrays(path)
    about = {
        "method": path.stem,
        "fingerprint": arrays_hash(arrays),
        "dataset": title or path.stem,
        "dataset_version": arrays_hash({name: arrays[name] for name in arrays if name not in EMBEDDINGS}),
        "split": "given",
        "gallery": "unique",
        "seed": None,
        "classes_removed": [],
        "seen_classes_kept": None,  # nobody here knows what the embeddings' model was trained on
    }
    arrays |= {name: unit_norm(arrays[name], name) for name in EMBEDDINGS}
    chosen = [_sides(arrays, protocol, path) for protocol in protocols]  # all, before any long work
    return [evaluate_sides(sides, sides.query_labels.astype(str), about) for sides in chosen]


def load_arrays(path: Path) -> Arrays:
    """Read the arrays of an .npz file and check them. Nothing is unpickled.

    Returns:
        `query` (Q, D) and `gallery` (N, D), finite; `query_label` (Q,) and `gallery_label` (N,), both integers or both
        strings; where the file has them, `query_instance` (Q,) and `gallery_instance` (N,), likewise. Other arrays are
        not read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no .npz file, is damaged, or an array is missing or has a wrong shape or type.
    """
    arrays = _read(path)
    as_pair(arrays["query"], arrays["gallery"])
    for names in (LABELS, INSTANCES):
        if names[0] in arrays:
            _check_columns(arrays, names)
    return arrays


def arrays_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Return a hash of 16 hex digits of the names, types, shapes and values of arrays."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': --features takes an .npz file that numpy.savez wrote.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}' is no .npz file, or only a part of one: write it with numpy.savez.")
    wanted = (*EMBEDDINGS, *LABELS, *INSTANCES)
    try:
        _check_size(path, wanted)
        with np.load(path, allow_pickle=False) as file:
            held = list(file.files)
            arrays = {name: np.asarray(file[name]) for name in wanted if name in held}
    except Exception as error:  # numpy and zipfile raise nearly anything: encrypted, unknown compression, damaged
        raise ValueError(
            f"'{path}' is damaged, or holds Python objects, which are never unpickled ({one_line(error)}): write plain "
            "arrays with numpy.savez, strings with dtype str."
        ) from error
    missing = [name for name in (*EMBEDDINGS, *LABELS) if name not in arrays]
    if missing:
        raise ValueError(
            f"'{path}' lacks {' and '.join(missing)}; it holds {', '.join(held) or 'nothing'}, and query, gallery, "
            "query_label and gallery_label are needed."
        )
    if (INSTANCES[0] in arrays) != (INSTANCES[1] in arrays):
        raise ValueError(f"'{path}' has only one of {' and '.join(INSTANCES)}: give both or neither.")
    return arrays


def _check_size(path: Path, wanted: Sequence[str]) -> None:
    """Raise ValueError if the wanted arrays, unpacked, would fill the memory. A small file may unpack to any size."""
    with zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist() if entry.filename.removesuffix(".npy") in wanted)
    if size > _memory() / 2:
        raise ValueError(f"it unpacks to {size:,d} bytes, more than half of this machine's memory")


def _memory() -> int:
    """Return this machine's memory in bytes; where the system does not tell, 16 GiB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 16 * 2**30


def _check_columns(arrays: Arrays, names: tuple[str, str]) -> None:
    for name, side in zip(names, EMBEDDINGS, strict=True):
        arrays[name] = as_labels(arrays[name], name)
        if len(arrays[name]) != len(arrays[side]):
            raise ValueError(
                f"{name} has {len(arrays[name])} entries for {len(arrays[side])} rows of {side}: give one per row."
            )
    if (arrays[names[0]].dtype.kind == "U") != (arrays[names[1]].dtype.kind == "U"):
        raise ValueError(f"{names[0]} and {names[1]} must both be integers or both be strings.")


def _sides(arrays: Arrays, protocol: str, path: Path) -> Sides:
    """Return what a protocol compares. Raises ValueError if queries have nothing to find."""
    sides = Sides(protocol, *(arrays[name] for name in (*EMBEDDINGS, *LABELS)))
    if PROTOCOLS[protocol].level == "fine_grained":
        return _paired(sides, arrays, path)
    lost = sides.query_labels[~np.isin(sides.query_labels, sides.gallery_labels)]
    if len(lost) and not PROTOCOLS[protocol].may_lack:
        names = np.unique(lost).astype(str).tolist()
        raise ValueError(
            f"{len(lost)} of {len(sides.query)} queries in '{path}' have nothing to find, because gallery_label lacks "
            f"{', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}: remove them, or spell both alike."
        )
    return sides


def _paired(sides: Sides, arrays: Arrays, path: Path) -> Sides:
    """Return the sketches whose photo is there, and the photos that some sketch was drawn of."""
    if INSTANCES[0] not in arrays:
        raise ValueError(f"'{sides.protocol}' needs the arrays {' and '.join(INSTANCES)}, which '{path}' lacks.")
    drawn = _instance_ids(sides.query_labels, arrays[INSTANCES[0]])
    photos = _instance_ids(sides.gallery_labels, arrays[INSTANCES[1]])
    found, wanted = paired_rows(drawn, photos)
    if not found.any():
        raise ValueError(
            f"No sketch in '{path}' has its photo there, so '{sides.protocol}' cannot be evaluated: query_instance and "
            "gallery_instance must name a photo alike, within one class."
        )
    return Sides(
        protocol=sides.protocol,
        query=sides.query[found],
        gallery=sides.gallery[wanted],
        query_labels=sides.query_labels[found],
        gallery_labels=sides.gallery_labels[wanted],
        query_instances=drawn[found],
        gallery_instances=photos[wanted],
    )


def _instance_ids(labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return ids that are unique across classes, "" where unknown; those in a file may start anew in each class."""
    known = instances.astype(str)
    return np.where(known == "", "", np.char.add(np.char.add(labels.astype(str), "/"), known))
