"""QMUL ShoeV2 and ChairV2: sketches of single shoes and chairs, split by instance."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .archive import Member, list_files
from .base import Builder, Plan, Row, empty_rows
from .pictures import is_picture, photo_id_of, stem

# (photos, sketches) of the training and the test half, by who counted them.
COUNTS = {
    "shoe": {
        "the online archive": ((1800, 5982), (200, 666)),
        "the ZSE-SBIR paper": ((1800, 6051), (200, 679)),
    },
    "chair": {
        "the online archive": ((300, 964), (100, 311)),
        "the ZSE-SBIR paper": ((300, 951), (100, 324)),
    },
}
HALVES = {"trainA": ("sketch", "train"), "trainB": ("photo", "train"), "testA": ("sketch", "test")}
HALVES |= {"testB": ("photo", "test")}


@dataclass
class Qmul(Builder):
    """Builder of `splip prepare shoev2 | chairv2`.

    The one class is seen and unseen at once: what is unseen are the instances.
    """

    names = ("shoev2", "chairv2")
    about: ClassVar = {
        "title": "QMUL ShoeV2 and ChairV2 for fine-grained sketch-based image retrieval",
        "description": "Sketches of single shoes or chairs with their photos. Training and test data share the class "
        "and differ in the instances.",
        "license": "other",
        "licence_note": "The archive states no explicit licence; research use.",
    }

    @property
    def label(self) -> str:
        """The one class."""
        return self.name.removesuffix("v2")

    def plan(self) -> Plan:
        """List the archive. Raises FileNotFoundError, ValueError: no known layout, no lists, SVG sketches only."""
        files = _below(list_files(self.data_dir, self.scratch), self.label)
        halves = {name: _in_folder(files, name) for name in HALVES}
        if all(halves.values()):
            layout, found = "trainA, trainB, testA, testB", _from_halves(halves)
        else:
            layout, found = "photo and sketch folders with lists", _from_lists(files, self.label)
        rows, unpaired = self._rows(found)
        problems = {"junk": found.junk, "on_no_list": found.unlisted, "unpaired": unpaired}
        report = {
            "split": "by instance",
            "layout": layout,
            "counts_are_those_of": _known_counts(rows, self.label),
        }
        if not report["counts_are_those_of"]:
            problems["counts_that_differ"] = [_count_line(rows, self.label)]
        return Plan(
            [self.label], [self.label], rows, {kind: names for kind, names in problems.items() if names}, report
        )

    def _rows(self, found: "_Found") -> tuple[dict[str, list[Row]], list[str]]:
        label = self.label
        rows = empty_rows()
        for photo, half in found.photos.items():
            row = Row(photo, "photo", label, f"{label}/{stem(photo.name)}", "qmul", 1)
            rows["train" if half == "train" else "gallery"].append(row)
        half_of = {stem(photo.name): half for photo, half in found.photos.items()}
        unpaired = []
        for sketch in found.sketches:
            photo_id = photo_id_of(sketch.name, "_")
            if photo_id in half_of:
                row = Row(sketch, "sketch", label, f"{label}/{photo_id}", "qmul", 1)
                rows["train" if half_of[photo_id] == "train" else "query"].append(row)
            else:
                unpaired.append(sketch.path)
        for chosen in rows.values():
            chosen.sort(key=lambda row: (row.modality, row.picture.name))
        return rows, unpaired


@dataclass
class _Found:
    photos: dict[Member, str]  # -> "train" or "test"
    sketches: list[Member]
    junk: list[str]
    unlisted: list[str]


def _below(files: Sequence[Member], label: str) -> list[Member]:
    """Return the files of one of the two datasets where both lie in the data folder."""
    other = "chair" if label == "shoe" else "shoe"
    mine = [f for f in files if re.search(rf"(?:^|/)[^/]*{label}", f.path.rpartition("/")[0], re.IGNORECASE)]
    return mine or [f for f in files if not re.search(other, f.path, re.IGNORECASE)]


def _in_folder(files: Sequence[Member], folder: str) -> list[Member]:
    return [f for f in files if f"/{f.path}".endswith(f"/{folder}/{f.name}")]


def _from_halves(halves: Mapping[str, Sequence[Member]]) -> _Found:
    found = _Found({}, [], [], [])
    for name, (modality, half) in HALVES.items():
        for member in halves[name]:
            if not is_picture(member):
                found.junk.append(member.path)
            elif modality == "photo":
                found.photos[member] = half
            else:
                found.sketches.append(member)
    return found


def _from_lists(files: Sequence[Member], label: str) -> _Found:
    """Use `*_photo/`, `*_sketch_png/` or `*_sketch/`, and photo_train.txt and photo_test.txt."""
    found = _Found({}, [], [], [])
    photos = [f for f in files if re.search(r"(?:^|[/_])photo/[^/]+$", f.path, re.IGNORECASE)]
    sketches = [f for f in files if re.search(r"(?:^|[/_])sketch(?:_png)?/[^/]+$", f.path, re.IGNORECASE)]
    if not photos or not sketches:
        raise ValueError(
            f"--data-dir has no known layout of {label}v2: it must have trainA/, trainB/, testA/ and testB/, or "
            f"{label.title()}V2_photo/ and {label.title()}V2_sketch_png/ with photo_train.txt and photo_test.txt."
        )
    half_of = _halves_of_lists(files)
    for member in photos:
        if not is_picture(member):
            found.junk.append(member.path)
        elif stem(member.name) not in half_of:
            found.unlisted.append(member.path)
        else:
            found.photos[member] = half_of[stem(member.name)]
    drawn = [member for member in sketches if is_picture(member)]
    if not drawn:
        raise ValueError(f"The sketches of {label}v2 are SVG files: render them to PNG files of the same name first.")
    found.sketches = drawn
    found.junk += [m.path for m in sketches if not is_picture(m) and not m.name.lower().endswith(".svg")]
    return found


def _halves_of_lists(files: Sequence[Member]) -> dict[str, str]:
    half_of = {}
    for half in ("train", "test"):
        member = next((f for f in files if f.name == f"photo_{half}.txt"), None)
        if member is None:
            raise ValueError(
                f"photo_{half}.txt is missing: it says which photos are for {half}ing. Put it beside them."
            )
        names = member.read().decode("utf-8", "replace").split()
        half_of.update({stem(name.rpartition("/")[2]): half for name in names})
    return half_of


def _tally(rows: Mapping[str, Sequence[Row]]) -> tuple[tuple[int, int], tuple[int, int]]:
    train = Counter(row.modality for row in rows["train"])
    return (train["photo"], train["sketch"]), (len(rows["gallery"]), len(rows["query"]))


def _known_counts(rows: Mapping[str, Sequence[Row]], label: str) -> str:
    return next((who for who, counts in COUNTS[label].items() if counts == _tally(rows)), "")


def _count_line(rows: Mapping[str, Sequence[Row]], label: str) -> str:
    known = [
        f"{counts[0][0]}/{counts[0][1]} and {counts[1][0]}/{counts[1][1]} ({who})"
        for who, counts in COUNTS[label].items()
    ]
    train, test = _tally(rows)
    return f"photos/sketches: {train[0]}/{train[1]} and {test[0]}/{test[1]}; known {' or '.join(known)}"
