"""A prepared dataset: opening it, its columns, its classes, and which of them to hold back or leave out.

The stored splits are `train` (seen classes), `query` (unseen sketches) and `gallery` (unseen photos). What a protocol
compares is a choice of their rows, made in `protocols`.
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import hf_hub_download
from PIL import Image, ImageOps

from ..common.hub import is_hub_id
from ..common.images import doubt, open_image, sample
from ..common.text import hint, spelling_key

INFO_FILE = "splip_dataset.json"
SPLITS = ("train", "query", "gallery")
# Columns that are small enough to keep in memory, with their types, which an empty split would not tell.
_COLUMNS = {"modality": str, "label": int, "instance_id": str, "copies": int}


@dataclass(frozen=True)
class SbirDataset:
    """A prepared dataset.

    Attributes:
        name: of the data, such as "sketchy2".
        version: hash of the data's content; results of different versions are never compared.
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
    def drawn(self) -> bool:
        """Whether the pictures are of the drawn world."""
        return is_drawn_world(self.name)

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
        """Return the row numbers of one modality in a stored split.

        Args:
            split: "train", "query" or "gallery".
            modality: "sketch" or "photo".
            classes: readable names; None for all classes.
        """
        columns = self.columns[split]
        keep = columns["modality"] == modality
        if classes is not None:
            names = self.class_names
            keep &= np.isin(columns["label"], [names.index(name) for name in classes])
        return np.flatnonzero(keep)

    def doubt(self, *splits: str) -> str:
        """Return a line of doubt if most sketches or photos of these splits do not look like such; "" otherwise."""
        pictures: dict[str, list[Image.Image]] = {}
        for modality in ("sketch", "photo"):
            rows = [(split, int(row)) for split in splits for row in self.rows(split, modality)]
            chosen = [rows[number] for number in sample(len(rows))]
            pictures[modality] = [getattr(self, split)[row]["image"] for split, row in chosen]
        wrong = doubt(pictures["sketch"], pictures["photo"])
        return wrong and f"Dataset '{self.name}': {wrong}: are its sketches and photos swapped?"

    def seen_by(self, class_names: Iterable[str]) -> list[str]:
        """Return the unseen classes that a model trained on `class_names` has seen.

        Names are compared by `spelling_key`: case, spaces, hyphens, underscores and the Unicode form of a letter do not
        matter. Synonyms are not recognised. A class that this dataset has among the seen and the unseen ones, because
        it splits by instance, does not count.
        """
        trained, both = {spelling_key(name) for name in class_names}, set(self.seen)
        return [name for name in self.unseen if spelling_key(name) in trained and name not in both]

    def resolve_unseen(self, names: Iterable[str]) -> list[str]:
        """Return the unseen classes that these names mean, as this dataset spells them.

        Args:
            names: in any spelling that `spelling_key` takes for equal.

        Raises:
            ValueError: if a name is no unseen class.
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

        Args:
            classes: names as this dataset spells them (`resolve_unseen`).

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
        """Return the seen classes in two parts: those to train on, and `count` held back for validation.

        Args:
            count: at least 0, and fewer than all.
            seed: chooses the classes.

        Raises:
            ValueError: if `count` is not in this range, or there are no seen classes.
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


def is_drawn_world(name: str) -> bool:
    """Return whether a dataset of this name holds pictures that a program drew: `mini-fold0`, say."""
    return name.startswith("mini")


def open_dataset(path: str | os.PathLike) -> SbirDataset:
    """Open a dataset that `splip prepare` wrote.

    Args:
        path: a folder, or the Hub id of a dataset that was pushed.

    Raises:
        FileNotFoundError: if it is neither.
        ValueError: if a folder's files are missing or damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        return _open_from_hub(str(path))
    if not (folder / INFO_FILE).is_file():
        raise FileNotFoundError(
            f"'{path}' holds no {INFO_FILE}, so it is no prepared dataset: prepare the data first: "
            f"`splip prepare folder --data-dir {shlex.quote(str(path))} --unseen A,B --out OUT`."
        )
    try:
        return _dataset(_read_info(folder / INFO_FILE), _load_folder(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"'{path}' is a prepared dataset, but files are missing or damaged ({type(error).__name__}): prepare "
            "it again with --overwrite."
        ) from error


def _open_from_hub(name: str) -> SbirDataset:
    if not is_hub_id(name):
        raise FileNotFoundError(
            f"There is no dataset at '{name}': prepare the data first: `splip prepare NAME --out {shlex.quote(name)}`."
        )
    try:
        info = _read_info(Path(hf_hub_download(name, INFO_FILE, repo_type="dataset")))
        return _dataset(info, datasets.load_dataset(name))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise FileNotFoundError(
            f"'{name}' is no local folder and could not be read from the Hub or its cache: check the name and the "
            "network, or prepare the data first: `splip prepare NAME --out OUT`."
        ) from error


def _dataset(info: dict[str, Any], splits: datasets.DatasetDict) -> SbirDataset:
    """Put a dataset together. Raises ValueError where a split has other rows than its summary counts."""
    for split, counts in info["counts"].items():
        if not counts:  # a test set has no rows of seen classes, and no file for them
            splits[split] = splits["gallery"].select([])
        if len(splits[split]) != sum(counts.values()):
            raise ValueError(f"'{split}' has {len(splits[split])} rows instead of {sum(counts.values())}.")
    splits = datasets.DatasetDict({split: _read_here(rows) for split, rows in splits.items()})
    about = {"name": info["name"], "version": info["version"]}
    classes = {"seen": tuple(info["seen"]), "unseen": tuple(info["unseen"])}
    return SbirDataset(**about, **{split: splits[split] for split in SPLITS}, **classes)


def _read_here(rows: datasets.Dataset) -> datasets.Dataset:
    """Return rows whose images are decoded by the one reader, and by no path or address that a cell may name."""
    if not isinstance(rows.features.get("image"), datasets.Image):
        return rows
    return rows.cast_column("image", datasets.Image(decode=False)).with_transform(decode_cells)


def decode_cells(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch of rows whose image cells became upright PIL images.

    Raises:
        ValueError: if a cell holds no picture, or one that cannot be read.
    """
    if "image" in batch:
        batch = batch | {"image": [_decode(cell) for cell in batch["image"]]}
    return batch


def _decode(cell: dict[str, Any] | None) -> Image.Image:
    if not cell or cell["bytes"] is None:  # a path there is never followed: it may name any file, or an address
        raise ValueError("A row of the dataset holds no picture itself: prepare the data again.")
    try:
        return ImageOps.exif_transpose(open_image(cell["bytes"]))
    except ValueError as error:
        raise ValueError(f"A picture of the dataset cannot be read ({error}): prepare the data again.") from error


def _read_info(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} nests too deep") from None


def _load_folder(folder: Path) -> datasets.DatasetDict:
    """Load the stored splits from their files.

    `load_dataset(folder)` would identify the dataset by the names of folder and configuration, and could answer from
    its cache with the rows of another folder of the same names. Files are identified by path and time.
    """
    files = {split: sorted(map(str, (folder / "data").glob(f"{split}-*.parquet"))) for split in SPLITS}
    return datasets.load_dataset("parquet", data_files={split: paths for split, paths in files.items() if paths})
