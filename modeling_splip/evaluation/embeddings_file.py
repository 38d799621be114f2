"""Anybody's embeddings, measured by the same protocols as a model: arrays in a NumPy file become the two sides."""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.dataset import FINE_GRAINED, paired_rows
from ..metrics.by_class import unit_norm
from ..metrics.inputs import as_labels, as_pair
from .evaluate import Evaluation, Sides, evaluate_sides

EMBEDDINGS = ("query", "gallery")
LABELS = ("query_label", "gallery_label")
INSTANCES = ("query_instance", "gallery_instance")

Arrays = dict[str, np.ndarray]


def evaluate_features(path: Path, protocols: Sequence[str], title: str | None = None) -> list[Evaluation]:
    """Measure the embeddings of a file under several protocols; the method is named after the file.

    A protocol without instances compares the arrays as they are: which items are queries and which are in the gallery,
    seen ones too, is the file's choice, and the name in the record its author's word. A fine-grained protocol takes the
    sketches whose photo is there and the photos that some sketch was drawn of, as for a dataset.

    Args:
        path: .npz file as `load_arrays` wants it.
        protocols: names of `data.PROTOCOLS`.
        title: name of the data in the record; default: the file's.

    Raises:
        FileNotFoundError, ValueError: in one sentence, as `load_arrays`; or where a protocol's arrays are not there.
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
    chosen = [_sides(arrays, protocol, path) for protocol in protocols]
    return [
        evaluate_sides(sides, protocol, sides.query_labels.astype(str), about)
        for protocol, sides in zip(protocols, chosen, strict=True)
    ]


def load_arrays(path: Path) -> Arrays:
    """Read and check the arrays of an .npz file, which is never unpickled.

    Returns:
        `query` (Q, D) and `gallery` (N, D), finite; `query_label` (Q,) and `gallery_label` (N,), both integers or both
        strings; optionally `query_instance` (Q,) and `gallery_instance` (N,), likewise. Others are not read.

    Raises:
        FileNotFoundError, ValueError: naming the file or the array.
    """
    arrays = _read(path)
    as_pair(arrays["query"], arrays["gallery"])
    for names in (LABELS, INSTANCES):
        if names[0] in arrays:
            _check_columns(arrays, names)
    return arrays


def arrays_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Return 16 hex digits that depend on every name, type, shape and value."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def _read(path: Path) -> Arrays:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': --features wants an .npz file that numpy.savez wrote.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"'{path}' is no .npz file, or only a part of one: write it with numpy.savez.")
    wanted = (*EMBEDDINGS, *LABELS, *INSTANCES)
    try:
        with np.load(path, allow_pickle=False) as file:
            held = list(file.files)
            arrays = {name: np.asarray(file[name]) for name in wanted if name in held}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"'{path}' is damaged, or holds Python objects, which are never unpickled ({error}): write plain arrays "
            "with numpy.savez, strings with dtype str."
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


def _check_columns(arrays: Arrays, names: tuple[str, str]) -> None:
    for name, side in zip(names, EMBEDDINGS, strict=True):
        arrays[name] = as_labels(arrays[name], name)
        if len(arrays[name]) != len(arrays[side]):
            raise ValueError(f"{name} has {len(arrays[name])} entries for {len(arrays[side])} rows of {side}")
    if (arrays[names[0]].dtype.kind == "U") != (arrays[names[1]].dtype.kind == "U"):
        raise ValueError(f"{names[0]} and {names[1]} must both be integers or both be strings")


def _sides(arrays: Arrays, protocol: str, path: Path) -> Sides:
    """Return what a protocol compares. Raises ValueError where there is nothing to find."""
    sides = Sides(*(arrays[name] for name in (*EMBEDDINGS, *LABELS)))
    if protocol in FINE_GRAINED:
        return _paired(sides, arrays, protocol, path)
    lost = sides.query_labels[~np.isin(sides.query_labels, sides.gallery_labels)]
    if len(lost) and protocol != "gzs-sempcyc":  # which leaves such queries out and counts them
        names = np.unique(lost).astype(str).tolist()
        raise ValueError(
            f"{len(lost)} of {len(sides.query)} queries in '{path}' have nothing to find, because gallery_label lacks "
            f"{', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}: remove them, or spell both alike."
        )
    return sides


def _paired(sides: Sides, arrays: Arrays, protocol: str, path: Path) -> Sides:
    """Keep the sketches whose photo is there, and the photos that some sketch was drawn of."""
    if INSTANCES[0] not in arrays:
        raise ValueError(f"'{protocol}' needs the arrays {' and '.join(INSTANCES)}, which '{path}' lacks.")
    drawn = _instance_ids(sides.query_labels, arrays[INSTANCES[0]])
    photos = _instance_ids(sides.gallery_labels, arrays[INSTANCES[1]])
    found, wanted = paired_rows(drawn, photos)
    if not found.any():
        raise ValueError(
            f"No sketch in '{path}' has its photo there, so '{protocol}' cannot be evaluated: query_instance and "
            "gallery_instance must name a photo alike, within one class."
        )
    query = sides.query[found], sides.query_labels[found], drawn[found]
    gallery = sides.gallery[wanted], sides.gallery_labels[wanted], photos[wanted]
    return Sides(*(value for pair in zip(query, gallery, strict=True) for value in pair))


def _instance_ids(labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return ids that are unique across classes, "" where unknown: anybody's may be numbered within each class."""
    known = instances.astype(str)
    return np.where(known == "", "", np.char.add(np.char.add(labels.astype(str), "/"), known))
