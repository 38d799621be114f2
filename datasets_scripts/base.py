"""What every builder of sketch-photo data is, and what it hands to `splip prepare`: a plan of rows."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from .pictures import Picture
from .schema import SPLITS


class Row(NamedTuple):
    """One row to be, before its picture is read. Columns as in `schema.features`, `label` by name."""

    picture: Picture
    modality: str
    label: str
    instance_id: str
    source: str
    copies: int


@dataclass
class Plan:
    """What a builder will write: classes, rows of every stored split, and what was found on the way.

    Attributes:
        seen, unseen: class names, in label order.
        rows: the rows of each of `schema.SPLITS`, in order.
        problems: kind -> names of files (or classes); reported, and fatal under `--strict`.
        report: facts for `splip_dataset.json`, such as the layout that was recognised.
        version: of the data where the builder knows it; otherwise a hash of all that is written.
    """

    seen: list[str]
    unseen: list[str]
    rows: dict[str, list[Row]]
    problems: dict[str, list[str]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def class_names(self) -> list[str]:
        """Every class once, in label order: seen, then unseen."""
        return list(dict.fromkeys(self.seen + self.unseen))


@dataclass
class Builder(abc.ABC):
    """Base of the builders: a subclass says in `plan` which file becomes which row. Its fields are its options.

    Attributes:
        name: which of `names` to build.
        data_dir: folder, zip or tar file with the pictures; only where `needs_data`.
        scratch: folder into which compressed tar files may be unpacked.
    """

    names: ClassVar[tuple[str, ...]]
    about: ClassVar[Mapping[str, str]] = {}  # for the dataset card: see `card.dataset_card`
    needs_data: ClassVar[bool] = True

    name: str
    data_dir: str = ""
    scratch: str = ""

    @abc.abstractmethod
    def plan(self) -> Plan:
        """List the data folder and return what to write. Decodes no picture. Raises ValueError, FileNotFoundError."""

    @property
    def title(self) -> str:
        """The dataset's name, once `plan` was called."""
        return self.name


def empty_rows() -> dict[str, list[Row]]:
    """Return an empty list for every stored split."""
    return {split: [] for split in SPLITS}
