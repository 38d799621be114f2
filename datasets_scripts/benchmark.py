"""What the builders of the category-level benchmarks share: from an archive and a named split to rows."""

import abc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from modeling_splip.common.text import spelling_key

from .archive import Member, list_files
from .base import Builder, Plan
from .layouts import Found, check_complete, find, list_files_below, read_list
from .pictures import stem
from .rows import make_rows
from .splits import Classes, Split, load_classes, load_split
from .verify import Photo, count_differences, list_differences, merge_photos, names_taken_twice


@dataclass
class BenchmarkBuilder(Builder, abc.ABC):
    """Base of the builders of Sketchy, TU-Berlin and QuickDraw; `name` is the split's.

    A subclass says which `dataset` it is, what its list files are called, and how to name sources and pairs.

    Attributes:
        sketch_list: "all" sketches of the seen classes, or only those on the "archive" list that is in circulation.
    """

    dataset: ClassVar[str]
    photo_lists: ClassVar[tuple[str, ...]]
    train_sketch_list: ClassVar[str]

    photo_of: ClassVar[Callable[[str], str] | None] = None  # the stem of a sketch's photo, by the sketch's file name

    sketch_list: str = "all"

    def source(self, name: str) -> str:
        """Return the `source` of a photo or sketch by its file name."""
        return self.dataset

    def flawed_sketches(self, files: Sequence[Member]) -> set[str] | None:
        """Return the stems of the sketches to leave out as flawed; None where that was not asked for."""
        return None

    @property
    def title(self) -> str:
        """The split's own name, which may not be the builder's: `sketchy21` is `sketchy2` without seen classes."""
        return load_split(self.name).name

    def plan(self) -> Plan:
        """List the archive. Raises FileNotFoundError, ValueError: no known layout, unknown or missing classes."""
        classes, split = load_classes(self.dataset), load_split(self.name)
        files = list_files(self.data_dir, self.scratch)
        found = find(files, self.dataset, classes.spellings)
        seen, unseen = _seen_there(found, split), list(split.unseen)
        check_complete(found, seen + unseen)
        same, other = list_differences(files, classes)
        photos, merged = merge_photos(found)
        problems = {
            "junk": found.junk,
            "too_deep": found.too_deep,
            "different_photos_of_one_name": names_taken_twice(photos),
            "counts_that_differ": count_differences(found, classes, seen + unseen),
            "lists_that_differ": other,
        }
        sketches, notes = self._chosen_sketches(found, files, classes, seen)
        missing = self._count_copies(photos, found, files, classes)
        problems["listed_but_missing"] = [f"{label}/{file}" for label, file in missing if label in seen + unseen]
        rows, problems["unpaired"] = make_rows(photos, sketches, seen, unseen, self.source, self.photo_of)
        report = {
            "split": split.title,
            "split_source": split.source,
            "layout": found.layout,
            "lists_as_known": same,
            **{f"photos_merged_{kind}": names for kind, names in merged.items()},
            "photos_on_no_list": [photo.member.path for photo in photos if not photo.copies],
            **notes,
            "gallery_as_published": _published(found, classes, unseen, len(rows["gallery"])),
            "files_outside_the_layout": dict(found.ignored),
        }
        return Plan(seen, unseen, rows, {k: v for k, v in problems.items() if v}, report)

    def _lists(self, files: Sequence[Member], classes: Classes) -> dict[str, Member]:
        """Return the list files of this split, or of another split of the same archive: every photo is on those too."""
        known = dict.fromkeys([load_split(self.name).lists, *(path.rpartition("/")[0] for path in classes.lists)])
        for folder in filter(None, known):
            lists = list_files_below(files, folder) or list_files_below(files, folder.rpartition("/")[2])
            if any(name in lists for name in self.photo_lists):
                return lists
        return {}

    def _count_copies(
        self, photos: Sequence[Photo], found: Found, files: Sequence[Member], classes: Classes
    ) -> list[tuple[str, str]]:
        """Set how often the archive's lists hold each photo, and return (class, file) that they name but it lacks.

        Without lists the count is the number of the photo's files in the archive's own gallery, at least 1.
        """
        listed = Counter[tuple[str, str]]()
        for name, member in self._lists(files, classes).items():
            if name in self.photo_lists:
                for (folder, file), count in read_list(member).items():
                    listed[classes.spellings.get(spelling_key(folder), folder), file] += count
        covered = {label for label, _ in listed}
        for photo in photos:
            if photo.label in covered:
                photo.copies = sum(listed.pop((photo.label, name), 0) for name in photo.names)
            else:
                photo.copies = max(1, sum(len(photo.members.get(part, ())) for part in found.gallery))
        return sorted(listed)

    def _chosen_sketches(
        self, found: Found, files: Sequence[Member], classes: Classes, seen: Sequence[str]
    ) -> tuple[dict[Member, str], dict[str, Any]]:
        """Return the sketches to keep, and what was left out by request."""
        sketches, notes = found.parts["sketch"], {}
        if self.sketch_list == "archive":
            listed = self._listed_sketches(files, classes)
            kept = {m: c for m, c in sketches.items() if c not in seen or (c, m.name) in listed}
            notes["sketches_not_on_the_archive_list"] = len(sketches) - len(kept)
            sketches = kept
        flawed = self.flawed_sketches(files)
        if flawed is not None:
            kept = {m: c for m, c in sketches.items() if stem(m.name) not in flawed}
            notes["flawed_sketches_left_out"] = len(sketches) - len(kept)
            sketches = kept
        return sketches, notes

    def _listed_sketches(self, files: Sequence[Member], classes: Classes) -> set[tuple[str, str]]:
        folder = load_split(self.name).lists
        lists = list_files_below(files, folder) or list_files_below(files, folder.rpartition("/")[2]) if folder else {}
        if self.train_sketch_list not in lists:
            wanted = f"{folder}/{self.train_sketch_list}" if folder else "no list for this split exists"
            raise ValueError(f"--sketch-list archive needs the archive's own list, which is not there ({wanted}).")
        listed = read_list(lists[self.train_sketch_list])
        return {(classes.spellings.get(spelling_key(folder), folder), file) for folder, file in listed}


def _seen_there(found: Found, split: Split) -> list[str]:
    """Return the seen classes, none where the archive has no picture of any: it is for testing only."""
    seen = list(split.seen or ())
    return seen if set(seen) & (found.classes["sketch"] | found.classes["photo"]) else []


def _published(found: Found, classes: Classes, unseen: Sequence[str], rows: int) -> str:
    """Return how many unseen photos there are if every class has as many as are known, otherwise ""."""
    known = {name: classes.counts[name].get("extended", classes.counts[name].get("photo")) for name in unseen}
    for part in ("extended", "photo"):
        have = Counter(found.parts[part].values())
        if all(have[name] == count for name, count in known.items()):
            return f"{sum(known.values()):,} photos, {rows:,} of them different"
    return ""
