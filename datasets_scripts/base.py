"""What all builders of sketch-photo data share: rows, duplicates, pairs, reading with a check of every image."""

import abc
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import datasets
from PIL import Image

from .archive import Member
from .schema import SPLITS, features

IMAGE_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
SAME_FORMAT = {"MPO": "JPEG"}  # JPEG with a second picture behind the first, as many cameras write
SHARD_BYTES = 64 * 2**20  # the unit of restart and of parallel work
SHARD_ROWS = 5000


class Row(NamedTuple):
    """One row to be, before its image is read. Columns as in `schema.features`, `label` by name."""

    member: Member
    modality: str
    label: str
    instance_id: str
    source: str
    copies: int


@dataclass
class Plan:
    """What a builder will write: classes, rows of every stored split, and what was found on the way.

    - `problems`: kind -> names of files (or classes); reported, and fatal under `--strict`.
    - `report`: facts for `splip_dataset.json`, such as the layout that was recognised.
    """

    seen: list[str]
    unseen: list[str]
    rows: dict[str, list[Row]]
    problems: dict[str, list[str]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """Every class once, in label order: seen, then unseen."""
        return list(dict.fromkeys(self.seen + self.unseen))


class SbirBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders: a subclass says in `make_plan` which file becomes which row."""

    @abc.abstractmethod
    def make_plan(self) -> Plan:
        """List the data folder and return what to write. Reads no image. Raises ValueError, FileNotFoundError."""

    about: ClassVar[dict[str, str]] = {}  # for the dataset card: see `card.dataset_card`

    @cached_property
    def plan(self) -> Plan:
        """The plan, made once."""
        return self.make_plan()

    @cached_property
    def problems(self) -> defaultdict[str, list[str]]:
        """Files that turned out bad while this process generated examples: kind -> names."""
        return defaultdict(list)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=features(self.plan.class_names))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"shards": make_shards(self.plan.rows[split])})
            for split in SPLITS
        ]

    def _generate_examples(self, shards: list[list[Row]]) -> Iterator[tuple[str, dict[str, Any]]]:
        for row in (row for shard in shards for row in shard):
            content = self._checked_bytes(row.member)
            if content is not None:
                columns = {"modality": row.modality, "label": row.label, "instance_id": row.instance_id}
                image = {"bytes": content, "path": row.member.path}
                yield row.member.path, {"image": image, **columns, "source": row.source, "copies": row.copies}

    def _checked_bytes(self, member: Member) -> bytes | None:
        """Return a file's bytes as they are, or None where they are no image that decodes to its end."""
        try:
            content = member.read()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                kind = SAME_FORMAT.get(str(image.format), image.format)
        except Exception as error:  # Pillow raises nearly anything on damaged files
            self.problems["unreadable"].append(f"{member.path} ({type(error).__name__})")
            return None
        if IMAGE_FORMATS.get(suffix(member.name)) != kind:
            self.problems["wrong_extension"].append(f"{member.path} ({kind})")
        return content


def suffix(name: str) -> str:
    """Return a file name's extension in lower case, with its dot, "" where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def stem(name: str) -> str:
    """Return a file name without its extension."""
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


def make_shards(rows: Iterable[Row], most_bytes: int = SHARD_BYTES, most_rows: int = SHARD_ROWS) -> list[list[Row]]:
    """Cut rows, in order, into shards of at most that many bytes and rows (a single larger file is its own shard)."""
    shards: list[list[Row]] = []
    size = 0
    for row in rows:
        if not shards or len(shards[-1]) == most_rows or size + row.member.size > most_bytes:
            shards.append([])
            size = 0
        shards[-1].append(row)
        size += row.member.size
    return shards


def is_image(member: Member) -> bool:
    """Say whether a file is one by its extension or, where that is unknown, by its first bytes."""
    if member.name.startswith(".") or "__MACOSX" in member.path.split("/"):
        return False
    return suffix(member.name) in IMAGE_FORMATS or _starts_as_image(member)


def _starts_as_image(member: Member) -> bool:
    try:
        with Image.open(io.BytesIO(member.read())):
            return True
    except Exception:  # as in `_checked_bytes`
        return False


def photo_id_of(sketch_name: str, separator: str = "-") -> str:
    """Return the photo that a sketch was drawn of: `n02691156_58-1.png` is of `n02691156_58`; "" without a number."""
    photo, _, number = stem(sketch_name).rpartition(separator)
    return photo if number.isdigit() else ""
