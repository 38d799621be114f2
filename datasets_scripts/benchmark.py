"""What the builders of the category-level benchmarks share: from an archive and a named split to rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from modeling_splip.common.text import quoted, spelling_key

from .archive import Member, list_files
from .base import Plan, Row, SbirBuilder, stem
from .layouts import Found, find, list_files_below, read_list
from .splits import Classes, Split, load_classes, load_split
from .verify import Photo, count_differences, list_differences, merge_photos, names_taken_twice

FLAWS = ("error", "ambiguous", "pose", "context")


@dataclass
class BenchmarkConfig(datasets.BuilderConfig):
    """Settings of a benchmark builder; `name` is the split's.

    - `sketch_list`: "all" sketches of the seen classes, or only those on the "archive" list that is in circulation.
    - `drop_flawed`: kinds of flawed sketches to leave out (Sketchy): any of `FLAWS`.
    - `info_dir`: folder or archive with the `invalid-<kind>.txt` lists; the data folder where None.
    - `scratch`: where compressed tar files may be unpacked.
    """

    sketch_list: str = "all"
    drop_flawed: list[str] | None = None
    info_dir: str | None = None
    scratch: str | None = None

    @property
    def split(self) -> Split:
        """The split of that name."""
        return load_split(self.name)

    @property
    def seen(self) -> list[str]:
        """Seen classes, by readable name."""
        return list(self.split.seen or ())

    @property
    def unseen(self) -> list[str]:
        """Unseen classes, by readable name."""
        return list(self.split.unseen)


class BenchmarkBuilder(SbirBuilder):
    """Base of the builders of Sketchy, TU-Berlin and QuickDraw.

    A subclass says which `dataset` it is, what its list files are called, and how to name sources and pairs.
    """

    BUILDER_CONFIG_CLASS = BenchmarkConfig
    config: BenchmarkConfig
    dataset: ClassVar[str]
    photo_lists: ClassVar[tuple[str, ...]]
    train_sketch_list: ClassVar[str]

    def source(self, name: str) -> str:
        """Return the `source` of a photo or sketch by its file name."""
        return self.dataset

    def photo_of(self, name: str) -> str | None:
        """Return the stem of the photo that a sketch was drawn of, None where the dataset has no pairs."""
        return None

    def make_plan(self) -> Plan:
        """List the archive. Raises FileNotFoundError, ValueError: no known layout, unknown or missing classes."""
        if not self.config.data_dir:
            raise ValueError(f"no data folder: --data-dir names the folder or archive that holds {self.dataset}")
        classes, split = load_classes(self.dataset), self.config.split
        files = list_files(self.config.data_dir, self.config.scratch)
        found = find(files, self.dataset, classes.spellings)
        same, other = list_differences(files, classes)
        photos, merged = merge_photos(found)
        problems = {
            "junk": found.junk,
            "too_deep": found.too_deep,
            "different_photos_of_one_name": names_taken_twice(photos),
            "counts_that_differ": count_differences(found, classes),
            "lists_that_differ": other,
        }
        sketches, notes = self._chosen_sketches(found, files, classes)
        copies, problems["listed_but_missing"] = self._copies(photos, found, files, classes)
        rows, problems["unpaired"] = self._rows(photos, sketches, copies)
        report = {
            "split": split.title,
            "split_source": split.source,
            "layout": found.layout,
            "lists_as_known": same,
            **{f"photos_merged_{kind}": names for kind, names in merged.items()},
            "photos_on_no_list": [photo.member.path for photo in photos if not copies[id(photo)]],
            **notes,
            "files_outside_the_layout": dict(found.ignored),
        }
        return Plan(self.config.seen, self.config.unseen, rows, {k: v for k, v in problems.items() if v}, report)

    def _lists(self, files: Sequence[Member], classes: Classes) -> dict[str, Member]:
        """Return the list files of this split, or of another split of the same archive: every photo is on those too."""
        known = dict.fromkeys([self.config.split.lists, *(path.rpartition("/")[0] for path in classes.lists)])
        for folder in filter(None, known):
            lists = list_files_below(files, folder) or list_files_below(files, folder.rpartition("/")[2])
            if any(name in lists for name in self.photo_lists):
                return lists
        return {}

    def _copies(
        self, photos: Sequence[Photo], found: Found, files: Sequence[Member], classes: Classes
    ) -> tuple[dict[int, int], list[str]]:
        """Return how often the archive's lists hold each photo (by `id`), and what they name but the archive lacks.

        Without lists the count is the number of the photo's files in the archive's own gallery, at least 1.
        """
        listed = Counter[tuple[str, str]]()
        for name, member in self._lists(files, classes).items():
            if name in self.photo_lists:
                for (folder, file), count in read_list(member).items():
                    listed[classes.spellings.get(spelling_key(folder), folder), file] += count
        covered = {label for label, _ in listed}
        copies = {}
        for photo in photos:
            if photo.label in covered:
                copies[id(photo)] = sum(listed.pop((photo.label, name), 0) for name in photo.names)
            else:
                copies[id(photo)] = max(1, sum(len(photo.members.get(part, ())) for part in found.gallery))
        return copies, sorted(f"{label}/{file}" for label, file in listed)

    def _chosen_sketches(
        self, found: Found, files: Sequence[Member], classes: Classes
    ) -> tuple[dict[Member, str], dict[str, Any]]:
        """Return the sketches to keep, and what was left out by request."""
        sketches, notes = found.parts["sketch"], {}
        if self.config.sketch_list == "archive":
            listed = self._listed_sketches(files, classes)
            seen = set(self.config.seen)
            kept = {m: c for m, c in sketches.items() if c not in seen or (c, m.name) in listed}
            notes["sketches_not_on_the_archive_list"] = len(sketches) - len(kept)
            sketches = kept
        if self.config.drop_flawed:
            flawed = self._flawed_sketches(files)
            kept = {m: c for m, c in sketches.items() if stem(m.name) not in flawed}
            notes["flawed_sketches_left_out"] = len(sketches) - len(kept)
            sketches = kept
        return sketches, notes

    def _listed_sketches(self, files: Sequence[Member], classes: Classes) -> set[tuple[str, str]]:
        folder = self.config.split.lists
        lists = list_files_below(files, folder) or list_files_below(files, folder.rpartition("/")[2]) if folder else {}
        if self.train_sketch_list not in lists:
            wanted = f"{folder}/{self.train_sketch_list}" if folder else "no list for this split exists"
            raise ValueError(f"--sketch-list archive needs the archive's own list, which is not there: {wanted}")
        listed = read_list(lists[self.train_sketch_list])
        return {(classes.spellings.get(spelling_key(folder), folder), file) for folder, file in listed}

    def _flawed_sketches(self, files: Sequence[Member]) -> set[str]:
        raise ValueError(f"--drop-flawed: {self.dataset} has no lists of flawed sketches; only Sketchy has")

    def _rows(
        self, photos: Sequence[Photo], sketches: Mapping[Member, str], copies: Mapping[int, int]
    ) -> tuple[dict[str, list[Row]], list[str]]:
        rows: dict[str, list[Row]] = {"train": [], "query": [], "gallery": []}
        order = {name: index for index, name in enumerate(self.config.seen + self.config.unseen)}
        seen = len(self.config.seen)
        instances: dict[tuple[str, str], str] = {}  # (class, stem) of every photo's files -> its id
        for photo in photos:
            own = stem(photo.member.name)
            instance = f"{photo.label}/{photo.member.path if (photo.label, own) in instances else own}"
            for name in photo.names:
                instances.setdefault((photo.label, stem(name)), instance)
            source = self.source(photo.member.name)
            row = Row(photo.member, "photo", photo.label, instance, source, copies[id(photo)])
            rows["train" if order[photo.label] < seen else "gallery"].append(row)
        unpaired = []
        for member, label in sketches.items():
            drawn_of = self.photo_of(member.name)
            instance = instances.get((label, drawn_of), "") if drawn_of is not None else ""
            if drawn_of is not None and not instance:
                unpaired.append(member.path)
            row = Row(member, "sketch", label, instance, self.source(member.name), 1)
            rows["train" if order[label] < seen else "query"].append(row)
        for chosen in rows.values():
            chosen.sort(key=lambda row: (order[row.label], row.modality, row.member.path))
        return rows, unpaired


def configs(*names: str) -> list[BenchmarkConfig]:
    """Return one configuration per split name."""
    return [BenchmarkConfig(name=name) for name in names]


def check_flaws(kinds: Sequence[str]) -> None:
    """Raise ValueError for a kind of flawed sketch that does not exist."""
    unknown = [kind for kind in kinds if kind not in FLAWS]
    if unknown:
        raise ValueError(f"--drop-flawed: unknown {quoted(unknown)}; known: {', '.join(FLAWS)}")
