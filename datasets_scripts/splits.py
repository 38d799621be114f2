"""Seen and unseen classes as data: the named lists in `class_lists/`, or a JSON file of one's own."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modeling_splip.common.text import nearest, quoted, spelling_key

FOLDER = Path(__file__).parent / "class_lists"


@dataclass(frozen=True)
class Split:
    """Which classes are seen in training and which are not.

    Attributes:
        name: for messages and results.
        seen, unseen: class names; `seen` is None where every class that is not unseen is meant.
        source: where the list comes from.
        title: what it is, in a few words.
        dataset: the benchmark whose classes these are, "" for other data.
        lists: folder of the archive's list files that belong to this split, "" where it has none.
    """

    name: str
    seen: tuple[str, ...] | None
    unseen: tuple[str, ...]
    source: str = ""
    title: str = ""
    dataset: str = ""
    lists: str = ""


@dataclass(frozen=True)
class Classes:
    """The classes of a benchmark, from `class_lists/classes-<dataset>.json`.

    Attributes:
        spellings: spelling key of every known folder name -> readable class name.
        counts: readable class name -> part of the archive -> number of files that it is known to hold.
        lists: path of every known list file -> its MD5 checksum.
    """

    spellings: dict[str, str]
    counts: dict[str, dict[str, int]]
    lists: dict[str, str]


def load_classes(dataset: str) -> Classes:
    """Return the classes of "sketchy", "tuberlin" or "quickdraw"."""
    data = json.loads((FOLDER / f"classes-{dataset}.json").read_text("utf-8"))
    spellings = {spelling_key(s): entry["name"] for entry in data["classes"] for s in entry["spellings"]}
    counts = {
        entry["name"]: {part: count for part, count in entry.items() if isinstance(count, int)}
        for entry in data["classes"]
    }
    return Classes(spellings, counts, data["lists"])


def split_names() -> list[str]:
    """Return the names of the splits that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if "unseen" in json.loads(path.read_text("utf-8")))


def load_split(name: str) -> Split:
    """Return the split of that name, or the one in that JSON file `{"seen": [...], "unseen": [...]}`.

    Raises:
        FileNotFoundError: neither a known name nor a file.
        ValueError: the file is not of that form, or names a class on both sides.
    """
    path = FOLDER / f"{name}.json"
    if not path.is_file() or "/" in name:
        path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(split_names())
        raise FileNotFoundError(f"Split '{name}' is neither a file nor one of the known splits: {known}.")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Split file '{path}' is not JSON ({error}).") from error
    return _checked(data, path)


def _checked(data: object, path: Path) -> Split:
    if not isinstance(data, dict) or not _names(data.get("unseen")) or not _names(data.get("seen", [])):
        raise ValueError(f'Split file \'{path}\' must hold {{"seen": [names], "unseen": [names]}}.')
    seen = None if "seen" not in data else tuple(data["seen"])
    about = {key: str(data.get(key, "")) for key in ("source", "title", "dataset", "lists")}
    split = Split(str(data.get("name", path.stem)), seen, tuple(data["unseen"]), **about)
    both = sorted({spelling_key(name) for name in seen or ()} & {spelling_key(name) for name in split.unseen})
    if both:
        raise ValueError(f"Split file '{path}' names {quoted(both)} both as seen and as unseen.")
    return split


def _names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name.strip() for name in value)


def resolve(names: Iterable[str], known: Mapping[str, str], where: str) -> list[str]:
    """Return the known class for every name, in order.

    Args:
        names: class names in any spelling.
        known: spelling key -> class.
        where: what holds the names, for the message.

    Raises:
        ValueError: names that are unknown, with the nearest known spelling of each, or that occur twice.
    """
    names = list(names)
    unknown = [name for name in names if spelling_key(name) not in known]
    if unknown:
        found = {name: nearest(name, known.values()) for name in unknown[:10]}
        hints = [f"'{name}'" + (f" (nearest known: '{near}')" if near else "") for name, near in found.items()]
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise ValueError(f"There is an unknown class among {where}: {', '.join(hints)}{more}.")
    found = [known[spelling_key(name)] for name in names]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"{quoted(twice)} occurs twice among {where}.")
    return found
