"""One's own data: `sketch/<class>/*` and `photo/<class>/*`, as categories or as instance pairs."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modeling_splip.common.text import quoted, readable, spelling_key

from .archive import Member, list_files
from .base import Builder, Plan
from .pictures import Picture, has_text_name, is_picture, photo_id_of, stem, suffix
from .rows import make_rows
from .splits import Split, load_split, resolve
from .strokes import STROKE_FILES, SvgDrawing, list_ndjson
from .verify import Photo, merge_equal_bytes

PLACE = re.compile(r"(?:^|/)(sketch(?:es)?|photos?|images?)/(?:([^/]+)/)?([^/]+)$", re.IGNORECASE)
NOT_IN_NAMES = r"[<>:/\\|?*]"  # what `datasets` refuses in the name of a configuration
PAIRED_SHARE = 0.9  # instance pairs are assumed where at least this share of the sketches names a photo


@dataclass
class Folder(Builder):
    """Builder of `splip prepare folder`.

    Attributes:
        split: name of a packaged split, or path of a JSON file `{"seen": [...], "unseen": [...]}`.
        unseen: instead of `split`, the unseen classes, all others are seen; ["all"] for a test set.
        pairs: whether sketch `<id>-<k>` was drawn of photo `<id>`; None finds out.
        own_title: the dataset's name; the split's or the data folder's where "".
    """

    names = ("folder",)

    split: str = ""
    unseen: Sequence[str] = ()
    pairs: bool | None = None
    own_title: str = ""

    def __post_init__(self) -> None:
        if re.search(NOT_IN_NAMES, self.own_title):
            raise ValueError(
                f"--title '{self.own_title}' holds one of < > : / \\ | ? *, which no dataset's name may hold."
            )

    @property
    def title(self) -> str:
        """The name that was given, or the split's, or the data folder's."""
        name = load_split(self.split).name if self.split else Path(self.data_dir).absolute().name
        return self.own_title or re.sub(NOT_IN_NAMES, "-", name)

    def plan(self) -> Plan:
        """List `data_dir`. Raises FileNotFoundError, ValueError: no folder, no images, wrong split, missing photos."""
        found = _find(self.data_dir, self.scratch)
        names = _one_spelling(found)
        split = self._split(names)
        unseen = resolve(split.unseen, names, f"the unseen classes of '{split.name}'")
        if split.seen is None:
            seen = [name for name in sorted(set(names.values())) if name not in unseen]
        else:
            seen = resolve(split.seen, names, f"the seen classes of '{split.name}'")
        _check_both(found, seen, unseen)
        paired = is_paired(found.sketches, found.photos, self.pairs)
        merged: list[str] = []
        photos = [Photo(member, name, {"photo": [member]}) for member, name in found.photos.items()]
        photos = merge_equal_bytes(photos, merged)
        for photo in photos:
            photo.copies = len(photo.members["photo"])
        rows, unpaired = make_rows(
            photos, found.sketches, seen, unseen, lambda name: "user", photo_id_of if paired else None
        )
        drawn = set(found.sketches.values())
        problems = {
            **found.problems,
            "classes_without_sketches": [name for name in unseen if name not in drawn],
            "classes_in_no_list": sorted(set(names.values()) - {*seen, *unseen}),
            "unpaired": unpaired,
        }
        report = {
            "split": split.name,
            "split_source": split.source,
            "instance_pairs": paired,
            "photos_merged_same_bytes": merged,
            "drawings_not_recognised_left_out": found.not_recognised.total(),
            "files_outside_sketch_and_photo": found.outside,
        }
        return Plan(seen, unseen, rows, {k: v for k, v in problems.items() if v}, report)

    def _split(self, names: Mapping[str, str]) -> Split:
        """Return the split that was asked for; `names` are those of the folders, by spelling key."""
        if self.split and self.unseen:
            raise ValueError("Give either a split or --unseen, not both.")
        if self.split:
            return load_split(self.split)
        if not self.unseen:
            raise ValueError(
                "There is no split: give --unseen a,b,c, --unseen all (a test set), --split NAME or --split-file FILE."
            )
        all_of_them = [spelling_key(name) for name in self.unseen] == ["all"] and "all" not in names
        unseen = sorted(set(names.values())) if all_of_them else self.unseen
        return Split("--unseen", None, tuple(unseen))


@dataclass
class Found:
    """What lies in a data folder.

    Attributes:
        sketches, photos: picture -> readable class name.
        problems: kind -> names of files.
        not_recognised: file of strokes -> how many drawings Quick, Draw! did not recognise.
        outside: files that lie neither below `sketch/` nor below `photo/`.
    """

    sketches: dict[Picture, str] = field(default_factory=dict)
    photos: dict[Member, str] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    not_recognised: Counter[str] = field(default_factory=Counter)
    outside: list[str] = field(default_factory=list)


def _find(data_dir: str, scratch: str) -> Found:
    found, others = Found(), []
    places: dict[str, set[str]] = {"sketch": set(), "photo": set()}
    for member in list_files(data_dir, scratch):
        match = PLACE.search(member.path)
        if not match:
            others.append(member.path)
            continue
        modality = "sketch" if match[1].lower().startswith("sketch") else "photo"
        if _take(found, member, modality, match[2]):
            places[modality].add(member.path[: match.end(1)])
        else:
            found.problems["junk"].append(member.path)
    for modality, taken in (("sketch", found.sketches), ("photo", found.photos)):
        if not taken:
            raise ValueError(
                f"There are no images in {modality}/<class>/ below '{data_dir}': it must hold sketch/ and photo/."
            )
        if len(places[modality]) > 1:
            which = quoted(sorted(places[modality]))
            raise ValueError(
                f"There are {modality} folders in several places ({which}): keep one of them in --data-dir."
            )
    inside = tuple(f"{place}/" for found_places in places.values() for place in found_places)
    found.problems["too_deep"] = [path for path in others if path.startswith(inside)]
    found.outside = [path for path in others if not path.startswith(inside)]
    return found


def _take(found: Found, member: Member, modality: str, folder: str | None) -> bool:
    """Add a file's pictures, and return whether the file is of a kind that is wanted."""
    strokes = modality == "sketch" and suffix(member.name) in STROKE_FILES and has_text_name(member)
    if strokes and suffix(member.name) == ".ndjson":
        _take_drawings(found, member, folder)
        return True
    if not folder or not (strokes or is_picture(member)):
        return False
    if modality == "photo":
        found.photos[member] = readable(folder)
    else:
        found.sketches[SvgDrawing(member) if strokes else member] = readable(folder)
    return True


def _take_drawings(found: Found, member: Member, folder: str | None) -> None:
    """Add the drawings of a Quick, Draw! file: of the folder's class, or of the word that each was drawn for."""
    for drawing, fields in list_ndjson(member):
        if isinstance(fields, ValueError):
            found.problems["unreadable"].append(f"{drawing.path} ({fields})")
        elif not fields.get("recognized", True):
            found.not_recognised[member.path] += 1
        elif not (label := readable(folder or str(fields.get("word", "")))):
            found.problems["unreadable"].append(f"{drawing.path} (neither a word nor a class folder)")
        else:
            found.sketches[drawing] = label


def _one_spelling(found: Found) -> dict[str, str]:
    """Return spelling key -> readable name; the photo folder's spelling wins, and spellings are made one."""
    names: dict[str, str] = {}
    for taken in (found.photos, found.sketches):
        for name in taken.values():
            names.setdefault(spelling_key(name), name)
        taken.update({picture: names[spelling_key(name)] for picture, name in taken.items()})
    return names


def _check_both(found: Found, seen: list[str], unseen: list[str]) -> None:
    """Raise ValueError where a class has no photos, or a seen class no sketches."""
    photographed, drawn = set(found.photos.values()), set(found.sketches.values())
    no_photo = [name for name in seen + unseen if name not in photographed]
    if no_photo:
        raise ValueError(
            f"There are no photos for {quoted(no_photo)}: add photo/<class>/ or leave the class out of the split."
        )
    no_sketch = [name for name in seen if name not in drawn]
    if no_sketch:
        raise ValueError(
            f"There are no sketches for seen {quoted(no_sketch)}: add sketch/<class>/ or leave it out of the split."
        )


def is_paired(sketches: Mapping[Picture, str], photos: Mapping[Member, str], wanted: bool | None) -> bool:
    """Return whether sketches name the photo that they were drawn of.

    Raises:
        ValueError: if that is wanted, and none does.
    """
    if wanted is False:
        return False
    known = {(label, stem(member.name)) for member, label in photos.items()}
    paired = sum((label, photo_id_of(sketch.name)) in known for sketch, label in sketches.items())
    if wanted and not paired:
        raise ValueError(
            "--pairs finds no sketch that names a photo: sketch/<class>/<id>-<k>.png belongs to photo/<class>/<id>.*."
        )
    return bool(wanted) or paired >= PAIRED_SHARE * len(sketches)
