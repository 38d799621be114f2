"""The protocols by name, and the rows that each one compares: which sketches query which photos.

The rows are a choice from a dataset's stored splits, by the protocol's name and a seed. docs/protocol.md says who uses
which protocol.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..processing_splip import to_rgb
from .dataset import SbirDataset

SEEN_SHARE = 0.2  # of seen items or classes that the sampling protocols add

Rows = tuple[np.ndarray, np.ndarray]


class Part(NamedTuple):
    """Some rows of one stored split."""

    split: str
    rows: np.ndarray


class View(NamedTuple):
    """Queries (sketches) and gallery (photos) of one protocol."""

    protocol: str
    query: tuple[Part, ...]
    gallery: tuple[Part, ...]


def _all_photos(dataset: SbirDataset, unseen: Rows, rng: np.random.Generator) -> Rows:
    """Return no sketch and every photo of the seen classes."""
    return dataset.rows("train", "sketch")[:0], dataset.rows("train", "photo")


def _items(dataset: SbirDataset, unseen: Rows, rng: np.random.Generator) -> Rows:
    """Return sketches and photos of seen classes, each a share of the number of unseen ones."""
    seen = dataset.rows("train", "sketch"), dataset.rows("train", "photo")
    counts = [min(int(SEEN_SHARE * len(theirs)), len(ours)) for ours, theirs in zip(seen, unseen, strict=True)]
    sketches, photos = (np.sort(rng.choice(ours, n, replace=False)) for ours, n in zip(seen, counts, strict=True))
    return sketches, photos


def _classes_by_unseen(dataset: SbirDataset, unseen: Rows, rng: np.random.Generator) -> Rows:
    """Return all items of some seen classes, a share of the number of unseen classes."""
    return _whole_classes(dataset, len(dataset.unseen), rng)


def _classes_by_seen(dataset: SbirDataset, unseen: Rows, rng: np.random.Generator) -> Rows:
    """Return all items of a share of the seen classes."""
    return _whole_classes(dataset, len(dataset.seen), rng)


def _whole_classes(dataset: SbirDataset, of: int, rng: np.random.Generator) -> Rows:
    count = min(round(SEEN_SHARE * of), len(dataset.seen))
    classes = rng.choice(list(dataset.seen), count, replace=False).tolist()
    return dataset.rows("train", "sketch", classes), dataset.rows("train", "photo", classes)


class Protocol(NamedTuple):
    """What tells a protocol from the others.

    Attributes:
        title: a few words for tables.
        level: "category", where a photo of the sketch's class is relevant, or "fine_grained", where only the photo that
            was drawn is.
        seen_items: returns the rows of `train` that join the queries and the gallery; None where none do.
        within_class: a sketch is compared with the photos of its own class only.
        may_lack: seen sketches and seen photos are drawn apart, so that a sketch may have no relevant photo; such
            sketches are left out of the means and counted.
        reported: the papers of the methods here most likely report this one.
    """

    title: str
    level: str = "category"
    seen_items: Callable[[SbirDataset, Rows, np.random.Generator], Rows] | None = None
    within_class: bool = False
    may_lack: bool = False
    reported: bool = False

    @property
    def metric(self) -> str:
        """The metric that stands for the protocol, as result records name it."""
        return "acc_1" if self.level == "fine_grained" else "map_all"

    @property
    def metric_title(self) -> str:
        """The same, as tables name it."""
        return "Acc@1" if self.level == "fine_grained" else "mAP@all"

    @property
    def heading(self) -> str:
        """Title and metric, above a column of a table."""
        return f"{self.title} {self.metric_title}"


PROTOCOLS = {
    "zs": Protocol("zero-shot", reported=True),
    "gzs-distractors": Protocol("generalised", seen_items=_all_photos, reported=True),
    "gzs-sempcyc": Protocol("generalised (sem-pcyc)", seen_items=_items, may_lack=True),
    "gzs-ocean": Protocol("generalised (OCEAN)", seen_items=_classes_by_unseen),
    "gzs-drclip": Protocol("generalised (Dr. CLIP)", seen_items=_classes_by_seen),
    "fg-class": Protocol("fine-grained", "fine_grained", within_class=True, reported=True),
    "fg-pooled": Protocol("fine-grained, pooled", "fine_grained", reported=True),
}
# How the held-back classes are searched that choose a checkpoint, by the level of the training.
VALIDATION = {"category": "zs", "fine_grained": "fg-class"}


def protocol_view(dataset: SbirDataset, protocol: str, seed: int = 0) -> View:
    """Return the rows of a dataset that a protocol compares.

    `zs`: unseen sketches, unseen photos. `gzs-distractors`: all seen photos join the gallery. `gzs-sempcyc`: seen items
    join both sides, 20 % of the number of unseen ones. `gzs-ocean`: whole seen classes join both sides, 20 % of the
    number of unseen classes; `gzs-drclip`: 20 % of the number of seen classes. `fg-class`, `fg-pooled`: photos that
    some sketch was drawn of, and the sketches whose photo is there.

    Args:
        dataset: a prepared dataset.
        protocol: one of `PROTOCOLS`.
        seed: chooses the seen items or classes, where a protocol samples them.

    Raises:
        ValueError: if there is no such protocol, or the dataset lacks what it needs.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'.")
    rule = PROTOCOLS[protocol]
    query = Part("query", dataset.rows("query", "sketch"))
    gallery = Part("gallery", dataset.rows("gallery", "photo"))
    if rule.level == "fine_grained":
        return _paired_view(dataset, protocol, query, gallery)
    if rule.seen_items is None:
        return View(protocol, (query,), (gallery,))
    if not dataset.seen:
        raise ValueError(
            f"Dataset '{dataset.name}' is a test set without seen classes, and '{protocol}' adds seen photos to the "
            "gallery: evaluate 'zs'."
        )
    sketches, photos = rule.seen_items(dataset, (query.rows, gallery.rows), np.random.default_rng(seed))
    if not len(photos):
        raise ValueError(
            f"'{protocol}' adds no seen photos to dataset '{dataset.name}' ({len(dataset.seen)} seen classes, "
            f"{len(dataset.unseen)} unseen ones), so it would be 'zs' by another name: evaluate 'zs', or another "
            "generalised protocol."
        )
    queries = (query, Part("train", sketches)) if len(sketches) else (query,)
    return View(protocol, queries, (gallery, Part("train", photos)))


def validation_view(dataset: SbirDataset, classes: list[str], level: str = "category") -> View:
    """Return seen classes that were held back from training, as if they were unseen: for choosing checkpoints.

    Args:
        dataset: a prepared dataset.
        classes: the held-back classes.
        level: of the training, "category" or "fine_grained"; `VALIDATION` has the protocol of each.
    """
    protocol = VALIDATION[level]
    query = Part("train", dataset.rows("train", "sketch", classes))
    gallery = Part("train", dataset.rows("train", "photo", classes))
    if level == "fine_grained":
        return _paired_view(dataset, protocol, query, gallery)
    return View(protocol, (query,), (gallery,))


def _paired_view(dataset: SbirDataset, protocol: str, query: Part, gallery: Part) -> View:
    """Return the sketches whose photo is there, and the photos that some sketch was drawn of."""
    drawn = dataset.columns[query.split]["instance_id"][query.rows]
    photos = dataset.columns[gallery.split]["instance_id"][gallery.rows]
    found, wanted = paired_rows(drawn, photos)
    if not found.any():
        raise ValueError(
            f"Dataset '{dataset.name}' has no sketch whose photo is known, so '{protocol}' cannot be evaluated: "
            "prepare it with instance pairs: `splip prepare folder --data-dir D --unseen A,B --pairs --out OUT`."
        )
    return View(protocol, (Part(query.split, query.rows[found]),), (Part(gallery.split, gallery.rows[wanted]),))


def paired_rows(drawn: np.ndarray, photos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which sketches have their photo (Q,) and which photos some sketch was drawn of (N,), both boolean.

    Args:
        drawn: for every sketch the id of the photo that it was drawn of (Q,), "" where unknown.
        photos: the id of every photo (N,), "" where unknown.
    """
    return (drawn != "") & np.isin(drawn, photos), (photos != "") & np.isin(photos, drawn)


def view_columns(dataset: SbirDataset, parts: Iterable[Part]) -> dict[str, np.ndarray]:
    """Return the columns other than the image, the rows of one part after those of the other: name -> (N,)."""
    columns = [{name: value[part.rows] for name, value in dataset.columns[part.split].items()} for part in parts]
    return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}


def view_image(dataset: SbirDataset, parts: Iterable[Part], index: int) -> Image.Image:
    """Return the image of row `index`, counted over the parts, as RGB on white.

    Raises:
        IndexError: if the parts have fewer rows.
    """
    for part in parts:
        if index < len(part.rows):
            return to_rgb(getattr(dataset, part.split)[int(part.rows[index])]["image"])
        index -= len(part.rows)
    raise IndexError(f"The parts have fewer rows than asked for, by {index + 1}.")
