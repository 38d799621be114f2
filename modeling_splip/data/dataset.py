"""A prepared dataset and its views: which sketches query which photos under each protocol.

The stored splits are `train` (seen classes), `query` (unseen sketches) and `gallery` (unseen photos); everything else
is a choice of their rows, by name and seed. docs/protocol.md says who uses which protocol.
"""

import dataclasses
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from huggingface_hub import hf_hub_download

from ..common.text import hint, spelling_key

INFO_FILE = "splip_dataset.json"
SPLITS = ("train", "query", "gallery")
PROTOCOLS = ("zs", "gzs-distractors", "gzs-sempcyc", "gzs-ocean", "gzs-drclip", "fg-class", "fg-pooled")
FINE_GRAINED = ("fg-class", "fg-pooled")
# Columns that are read at once; the types hold for an empty split too.
_COLUMNS = {"modality": str, "label": int, "instance_id": str, "copies": int}


class Part(NamedTuple):
    """Some rows of one stored split."""

    split: str
    rows: np.ndarray


class View(NamedTuple):
    """Queries (sketches) and gallery (photos) of one protocol."""

    protocol: str
    query: tuple[Part, ...]
    gallery: tuple[Part, ...]


@dataclass(frozen=True)
class SbirDataset:
    """A prepared dataset.

    Attributes:
        name, version: of the data; results of different versions are never compared.
        train, query, gallery: the stored splits, with the columns image, modality, label, instance_id, source, copies.
        seen, unseen: readable class names.
        removed: unseen classes that `without` left out.
    """

    name: str
    version: str
    train: datasets.Dataset
    query: datasets.Dataset
    gallery: datasets.Dataset
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    removed: tuple[str, ...] = ()

    @property
    def class_names(self) -> list[str]:
        """All classes, in label order."""
        return list(self.train.features["label"].names)

    @cached_property
    def columns(self) -> dict[str, dict[str, np.ndarray]]:
        """The columns other than the image, as arrays: columns[split][name]."""
        splits = {split: getattr(self, split) for split in SPLITS}
        return {
            split: {name: np.array(rows.select_columns([name])[:][name], kind) for name, kind in _COLUMNS.items()}
            for split, rows in splits.items()
        }

    def rows(self, split: str, modality: str, classes: list[str] | tuple[str, ...] | None = None) -> np.ndarray:
        """Return the row numbers of one modality, of some classes or of all."""
        columns = self.columns[split]
        keep = columns["modality"] == modality
        if classes is not None:
            names = self.class_names
            keep &= np.isin(columns["label"], [names.index(name) for name in classes])
        return np.flatnonzero(keep)

    def seen_by(self, class_names: Iterable[str]) -> list[str]:
        """Return the unseen classes that a model trained on `class_names` has seen, whatever the spelling.

        Names are compared without case, spaces, hyphens and underscores; synonyms are not recognised. A class that this
        dataset itself has on both sides, because it splits by instance, does not count.
        """
        trained, both = {spelling_key(name) for name in class_names}, set(self.seen)
        return [name for name in self.unseen if spelling_key(name) in trained and name not in both]

    def resolve_unseen(self, names: Iterable[str]) -> list[str]:
        """Return this dataset's unseen classes of these names, in any spelling.

        Raises:
            ValueError: for a name that is no unseen class, with the nearest one.
        """
        known = {spelling_key(name): name for name in self.unseen}
        for name in names:
            if spelling_key(name) not in known:
                raise ValueError(
                    f"Only unseen classes of dataset '{self.name}' can be left out, and '{name}' is none"
                    f"{hint(name, self.unseen)}"
                )
        return [known[spelling_key(name)] for name in names]

    def without(self, classes: Iterable[str]) -> "SbirDataset":
        """Return this dataset without some unseen classes; `train` stays as it is.

        Raises:
            ValueError: if no unseen class would be left.
        """
        gone = set(classes)
        kept = tuple(name for name in self.unseen if name not in gone)
        removed = tuple(name for name in self.unseen if name in gone)
        if not kept:
            raise ValueError(
                f"Every unseen class of dataset '{self.name}' was seen in training or is to be left out, so nothing is "
                "left to evaluate: take another dataset, or --seen-classes keep."
            )
        query = self.query.select(self.rows("query", "sketch", kept))
        gallery = self.gallery.select(self.rows("gallery", "photo", kept))
        return dataclasses.replace(self, query=query, gallery=gallery, unseen=kept, removed=(*self.removed, *removed))

    def hold_back(self, count: int, seed: int) -> tuple[list[str], list[str]]:
        """Split the seen classes into those trained on and `count` held back for validation, by seed.

        Raises:
            ValueError: if there are not so many, or none at all.
        """
        if not self.seen:
            raise ValueError(
                f"Dataset '{self.name}' is a test set without seen classes, so nothing can be trained on it: take a "
                "dataset that has them."
            )
        if not 0 <= count < len(self.seen):
            raise ValueError(f"validation_classes must be between 0 and {len(self.seen) - 1}, got {count}.")
        held = set(np.random.default_rng(seed).choice(len(self.seen), count, replace=False).tolist())
        train = [name for index, name in enumerate(self.seen) if index not in held]
        return train, [name for index, name in enumerate(self.seen) if index in held]

    def validation_view(self, classes: list[str], protocol: str = "zs") -> View:
        """Return seen classes, held back from training, as if unseen: for choosing checkpoints."""
        query, gallery = self.rows("train", "sketch", classes), self.rows("train", "photo", classes)
        if protocol in FINE_GRAINED:
            return self._paired(protocol, Part("train", query), Part("train", gallery))
        return View(protocol, (Part("train", query),), (Part("train", gallery),))

    def view(self, protocol: str, seed: int = 0) -> View:
        """Return the rows of a protocol.

        `zs`: unseen sketches, unseen photos. `gzs-distractors`: all seen photos join the gallery. `gzs-sempcyc`: seen
        items join both sides, 20 % of the unseen ones' number. `gzs-ocean`: whole seen classes join both sides, 20 % of
        the number of unseen classes; `gzs-drclip`: 20 % of the number of seen classes. `fg-class`, `fg-pooled`: photos
        that some sketch was drawn of.

        Args:
            protocol: one of `PROTOCOLS`.
            seed: chooses the seen items or classes, where a protocol samples them.

        Raises:
            ValueError: if there is no such protocol, or this dataset lacks what it needs.
        """
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'.")
        query = Part("query", self.rows("query", "sketch"))
        gallery = Part("gallery", self.rows("gallery", "photo"))
        if protocol == "zs":
            return View(protocol, (query,), (gallery,))
        if protocol in FINE_GRAINED:
            return self._paired(protocol, query, gallery)
        sketches, photos = self._seen_items(protocol, len(query.rows), len(gallery.rows), seed)
        if not len(photos):
            raise ValueError(
                f"'{protocol}' adds no seen photos to dataset '{self.name}' ({len(self.seen)} seen classes, "
                f"{len(self.unseen)} unseen ones), so it would be 'zs' by another name: evaluate 'zs', or another "
                "generalised protocol."
            )
        queries = (query, Part("train", sketches)) if len(sketches) else (query,)
        return View(protocol, queries, (gallery, Part("train", photos)))

    def _seen_items(self, protocol: str, n_query: int, n_gallery: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of `train` that join the queries and the gallery under a generalised protocol."""
        if not self.seen:
            raise ValueError(
                f"Dataset '{self.name}' is a test set without seen classes, and '{protocol}' adds seen photos to the "
                "gallery: evaluate 'zs'."
            )
        sketches, photos = self.rows("train", "sketch"), self.rows("train", "photo")
        rng = np.random.default_rng(seed)
        if protocol == "gzs-distractors":
            return sketches[:0], photos
        if protocol == "gzs-sempcyc":
            counts = min(int(0.2 * n_query), len(sketches)), min(int(0.2 * n_gallery), len(photos))
            return np.sort(rng.choice(sketches, counts[0], replace=False)), np.sort(
                rng.choice(photos, counts[1], replace=False)
            )
        share = len(self.unseen) if protocol == "gzs-ocean" else len(self.seen)
        classes = rng.choice(list(self.seen), min(round(0.2 * share), len(self.seen)), replace=False).tolist()
        return self.rows("train", "sketch", classes), self.rows("train", "photo", classes)

    def _paired(self, protocol: str, query: Part, gallery: Part) -> View:
        """Keep the photos that some sketch names, and the sketches whose photo is there."""
        drawn = self.columns[query.split]["instance_id"][query.rows]
        photos = self.columns[gallery.split]["instance_id"][gallery.rows]
        found, wanted = paired_rows(drawn, photos)
        if not found.any():
            raise ValueError(
                f"Dataset '{self.name}' has no sketch whose photo is known, so '{protocol}' cannot be evaluated: "
                "prepare it with instance pairs (splip prepare folder --pairs)."
            )
        kept = Part(query.split, query.rows[found]), Part(gallery.split, gallery.rows[wanted])
        return View(protocol, (kept[0],), (kept[1],))


def paired_rows(drawn: np.ndarray, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say which sketches have their photo (Q,) and which photos some sketch was drawn of (N,), by instance ids.

    An empty id is unknown.
    """
    return (drawn != "") & np.isin(drawn, photos), (photos != "") & np.isin(photos, drawn)


def open_dataset(path: str | os.PathLike) -> SbirDataset:
    """Open a dataset that `splip prepare` wrote: a folder, or the id of one pushed to the Hub.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if a folder's files are missing or damaged.
    """
    folder = Path(path)
    if not folder.is_dir() and (folder.is_absolute() or str(path).count("/") != 1 or str(path).startswith(".")):
        raise FileNotFoundError(
            f"There is no dataset at '{path}': prepare the data first: splip prepare NAME --out {path}."
        )
    if folder.is_dir() and not (folder / INFO_FILE).is_file():
        raise FileNotFoundError(
            f"'{path}' holds no {INFO_FILE}, so it is no prepared dataset: prepare the data first: splip prepare "
            f"folder --data-dir {path} --out OUT."
        )
    try:
        info = json.loads((folder / INFO_FILE).read_text("utf-8")) if folder.is_dir() else _hub_info(str(path))
        splits = _load_folder(folder) if folder.is_dir() else datasets.load_dataset(str(path))
        for split, counts in info["counts"].items():
            if not counts:  # a test set has no rows of seen classes, and no file for them
                splits[split] = splits["gallery"].select([])
            if len(splits[split]) != sum(counts.values()):
                raise ValueError(f"'{split}' has {len(splits[split])} rows instead of {sum(counts.values())}")
        return SbirDataset(
            name=info["name"],
            version=info["version"],
            train=splits["train"],
            query=splits["query"],
            gallery=splits["gallery"],
            seen=tuple(info["seen"]),
            unseen=tuple(info["unseen"]),
        )
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        if folder.is_dir():
            raise ValueError(
                f"'{path}' is a prepared dataset, but files are missing or damaged ({type(error).__name__}): prepare "
                "it again with --overwrite."
            ) from error
        raise FileNotFoundError(
            f"'{path}' is no local folder and could not be read from the Hub or its cache: check the name and the "
            "network, or prepare the data first: splip prepare NAME --out OUT."
        ) from error


def _load_folder(folder: Path) -> datasets.DatasetDict:
    """Load the stored splits by their files.

    `load_dataset(folder)` would take the folder's and the configuration's name for the dataset's identity, and answer
    from its cache with another folder's rows of the same names; files are told apart by path and time.
    """
    files = {split: sorted(map(str, (folder / "data").glob(f"{split}-*.parquet"))) for split in SPLITS}
    return datasets.load_dataset("parquet", data_files={split: paths for split, paths in files.items() if paths})


def _hub_info(repo: str) -> dict:
    return json.loads(Path(hf_hub_download(repo, INFO_FILE, repo_type="dataset")).read_text("utf-8"))
