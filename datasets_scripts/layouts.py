"""Recognise which of the known archive layouts a list of files has, and which file is what."""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from modeling_splip.common.text import quoted, spelling_key

from .archive import Member
from .pictures import is_picture
from .splits import resolve

# The parts of an archive. "original" are the photos that sketches were drawn of, "extended" the photos added later.
PARTS = ("sketch", "original", "extended", "photo")


@dataclass(frozen=True)
class Layout:
    """Where an archive keeps its files.

    Attributes:
        name: for reports.
        places: part -> alternative folders that hold the class folders, the usual one first; "a|b" are folders that
            hold them together.
        gallery: parts that make the archive's own gallery.
    """

    name: str
    places: Mapping[str, tuple[str, ...]]
    gallery: tuple[str, ...] = ("photo",)


@dataclass
class Found:
    """What `find` made of a list of files.

    Attributes:
        layout: name of the layout.
        gallery: parts that make the archive's own gallery.
        parts: part -> image file -> readable class name.
        junk: files in a class folder or beside them that are no images.
        too_deep: files in folders inside of a class folder, which no layout has.
        ignored: folder -> how many files outside the layout it holds.
    """

    layout: str
    gallery: tuple[str, ...]
    parts: dict[str, dict[Member, str]] = field(default_factory=lambda: {part: {} for part in PARTS})
    junk: list[str] = field(default_factory=list)
    too_deep: list[str] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> dict[str, set[str]]:
        """The classes that have sketches, and those that have photos."""
        photos = {name for part in PARTS[1:] for name in self.parts[part].values()}
        return {"sketch": set(self.parts["sketch"].values()), "photo": photos}


def _halves(modality: str) -> tuple[str]:
    return ("|".join(f"{half}/{modality}" for half in ("train", "val", "valid", "test")),)


_FORKS = (
    Layout("ClipPrompt", {"sketch": _halves("sketch"), "photo": _halves("photo")}),
    Layout("CLIP forks", {"sketch": ("sketch",), "photo": ("photo",)}),
)

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "sketchy": (
        Layout(
            "SAKE and ZSE-SBIR",
            {
                "sketch": ("256x256/sketch/tx_000000000000_ready",),
                "original": ("256x256/photo/tx_000000000000_ready",),
                "extended": ("EXTEND_image_sketchy_ready",),
            },
            gallery=("original", "extended"),
        ),
        Layout(
            "sem-pcyc and doodle2search",
            {
                "sketch": ("sketch/tx_000000000000",),
                "original": ("photo/tx_000000000000",),
                "extended": ("extended_photo", "EXTEND_image_sketchy", "EXTEND_image_sketchy_ready"),
            },
            gallery=("extended",),
        ),
        *_FORKS,
    ),
    "tuberlin": (
        Layout("SAKE and ZSE-SBIR", {"sketch": ("png_ready",), "photo": ("ImageResized_ready",)}),
        Layout(
            "sem-pcyc and doodle2search",
            {"sketch": ("sketches", "png"), "photo": ("images", "ImageResized")},
        ),
        *_FORKS,
    ),
    "quickdraw": (
        Layout(
            "ZSE-SBIR and doodle2search",
            {
                "sketch": ("sketches", "QuickDraw_sketches", "QuickDraw_sketches_final"),
                "photo": ("images", "QuickDraw_images", "QuickDraw_images_final", "EXTEND_image_quickdraw"),
            },
        ),
        *_FORKS,
    ),
}


def find(files: Sequence[Member], dataset: str, spellings: Mapping[str, str]) -> Found:
    """Return the files of `dataset`, in the first layout that fits.

    Args:
        files: of the data folder.
        dataset: key of `LAYOUTS`.
        spellings: spelling key of every known class folder -> readable name.

    Raises:
        ValueError: no layout fits; class folders are unknown; two copies of the dataset.
    """
    for layout in LAYOUTS[dataset]:
        found = _try(files, layout, spellings)
        if found.parts["sketch"] and any(found.parts[part] for part in PARTS[1:]):
            return found
    table = _from_table(files, spellings)
    if table is None:
        packed = [member.name for member in files if member.name.lower().endswith((".7z", ".rar"))]
        hint = f"unpack {quoted(packed)} first, or " if packed else ""
        raise ValueError(f"--data-dir has no known layout of {dataset}: {hint}see that it has {_expected(dataset)}.")
    return table


def _expected(dataset: str) -> str:
    """Return the class folders of all layouts, as a person would write them."""
    return "; or ".join(
        " and ".join(f"{places[0].split('|')[0]}/<class>/" for places in layout.places.values()) + f" ({layout.name})"
        for layout in LAYOUTS[dataset]
    )


def _try(files: Sequence[Member], layout: Layout, spellings: Mapping[str, str]) -> Found:
    """Sort the files into the parts of one layout; the parts stay empty where it does not fit."""
    found = Found(layout.name, gallery=layout.gallery)
    patterns = [(part, place, _pattern(place)) for part, places in layout.places.items() for place in places]
    roots: dict[str, dict[str, list[tuple[Member, str]]]] = {part: defaultdict(list) for part in layout.places}
    for member in files:
        fits = ((part, place, m) for part, place, pattern in patterns if (m := pattern.fullmatch(member.path)))
        part, place, match = next(fits, ("", "", None))
        if match and "__MACOSX" not in member.path:
            roots[part][f"{match['root'] or ''}{place.split('|')[0]}"].append((member, match["folder"] or ""))
        else:
            found.ignored[_top(member)] += 1
    if roots["sketch"] and any(by_root for part, by_root in roots.items() if part != "sketch"):
        for part, by_root in roots.items():
            chosen = _best_root(by_root, part, spellings)
            _take(found, part, by_root.pop(chosen, []), spellings)
            for members in by_root.values():
                found.ignored.update(_top(member) for member, _ in members)
    return found


def _top(member: Member) -> str:
    """Return the upper folders of a file: enough to say what was not used, in a few lines."""
    return "/".join(member.path.split("/")[:-1][:3])


def _pattern(place: str) -> re.Pattern[str]:
    folders = "|".join(map(re.escape, place.split("|")))
    return re.compile(rf"(?P<root>(?:.*/)?)(?:{folders})/(?:(?P<folder>.+)/)?[^/]+", re.IGNORECASE)


def _best_root(roots: Mapping[str, list[tuple[Member, str]]], part: str, spellings: Mapping[str, str]) -> str:
    """Return the place whose class folders are most of this dataset's: other datasets may lie beside it."""
    known = {
        root: len({spellings.get(spelling_key(folder)) for _, folder in members} - {None})
        for root, members in roots.items()
    }
    best = sorted(known, key=lambda root: known[root], reverse=True)
    if len(best) > 1 and 0 < known[best[0]] == known[best[1]]:
        raise ValueError(
            f"There are {part} folders of {known[best[0]]} classes in both {quoted(best[:2])}: keep one of them in "
            "--data-dir."
        )
    return best[0] if best else ""


def _take(found: Found, part: str, members: Sequence[tuple[Member, str]], spellings: Mapping[str, str]) -> None:
    """Sort one part's files into images and junk. Raises ValueError for class folders that are unknown."""
    images = []
    for member, folder in members:
        if "/" in folder:
            found.too_deep.append(member.path)
        elif folder and is_picture(member):
            images.append((member, folder))
        else:
            found.junk.append(member.path)
    folders = sorted({folder for _, folder in images})
    unknown = [folder for folder in folders if spelling_key(folder) not in spellings]
    if unknown:
        resolve(unknown, spellings, f"the {part} folders")
    names = {folder: spellings[spelling_key(folder)] for folder in folders}
    found.parts[part] = {member: names[folder] for member, folder in images}


def check_complete(found: Found, names: Iterable[str]) -> None:
    """Raise ValueError where a class among `names` has no sketch or no photo."""
    for modality, have in found.classes.items():
        missing = [name for name in names if name not in have]
        if missing:
            raise ValueError(f"There is no {modality} in a folder for {quoted(missing)} (layout: {found.layout}).")


def _from_table(files: Sequence[Member], spellings: Mapping[str, str]) -> Found | None:
    """Return what CSV files with the columns img_path and m1 (0 photo, 1 sketch) list, as MA-ZS-SBIR has them.

    Their paths are those of another machine: a row is the file that shares its last three parts.
    """
    rows = [row for member in files if member.name.endswith(".csv") for row in _table_rows(member)]
    if not rows:
        return None
    found = Found("MA-ZS-SBIR table", gallery=("photo",))
    by_tail: dict[str, list[Member]] = defaultdict(list)
    for member in files:
        by_tail["/".join(member.path.split("/")[-3:])].append(member)
    missing = []
    taken: dict[str, list[tuple[Member, str]]] = {"photo": [], "sketch": []}
    for path, modality in rows:
        tail = path.replace("\\", "/").split("/")[-3:]
        match = by_tail.get("/".join(tail), [])
        if len(match) == 1:
            taken[modality].append((match[0], tail[-2]))
        else:
            missing.append(path)
    if missing:
        raise ValueError(f"{len(missing)} files of the CSV table are not in --data-dir, such as {quoted(missing, 2)}.")
    for modality, members in taken.items():
        _take(found, modality, members, spellings)
    listed = {member for members in taken.values() for member, _ in members}
    found.ignored.update(_top(member) for member in files if member not in listed)
    return found


def _table_rows(member: Member) -> Iterator[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(member.read().decode("utf-8", "replace")))
    if {"img_path", "m1"} <= set(reader.fieldnames or ()):
        for row in reader:
            yield row["img_path"], "sketch" if row["m1"].strip() == "1" else "photo"


def read_list(member: Member) -> Counter[tuple[str, str]]:
    """Return how often a list file `<path> <class id>` names each (class folder, file name).

    The path may hold spaces: only the last one separates.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for line in member.read().decode("utf-8", "replace").splitlines():
        path = line.rstrip().rpartition(" ")[0]
        if "/" in path:
            counts[tuple(path.split("/")[-2:])] += 1  # type: ignore[index]
    return counts


def list_files_below(files: Sequence[Member], folder: str) -> dict[str, Member]:
    """Return the files directly in a folder whose path ends in `folder`: name -> file."""
    suffix = f"/{folder}/"
    return {m.name: m for m in files if f"/{m.path}".endswith(suffix + m.name)}
