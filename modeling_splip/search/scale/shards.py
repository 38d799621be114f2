"""Encoded photos as Parquet shards: each is written once, under a name that says of what, and read back in order.

A shard has the columns of a gallery's table, embeddings in 16 bits. Its Parquet metadata name the photos that cannot be
read, and say whether it is the last one of its part. The folder is named by the model's fingerprint and the columns.
What lies there under its own name is finished, so that the folder itself is the list of what is done.
"""

import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...common.files import remove
from ..table import DAMAGED, GROUP_ROWS, TableReader
from .sources import Part

_FACTS = b"splip"


@dataclass
class ShardFacts:
    """What a shard says besides its rows.

    Attributes:
        last: whether the part has no further shard.
        unreadable: path and reason of photos that cannot be read.
        left_out: suffix -> number of other files.
    """

    last: bool
    unreadable: list[dict[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def shard_bytes(rows: Sequence[dict[str, Any]], features: datasets.Features, facts: ShardFacts) -> bytes:
    """Return a shard as the content of a Parquet file.

    Args:
        rows: of the gallery's columns, `embedding` (D,) float32 of unit norm.
        features: the gallery's columns.
        facts: what the shard says besides.
    """
    dim = features["embedding"].length
    half = datasets.List(datasets.Value("float16"), length=dim)
    schema = datasets.Features({**features, "embedding": half}).arrow_schema
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in features if name != "embedding"}
    vectors = np.array([row["embedding"] for row in rows], np.float16).reshape(-1)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float16()), dim)
    schema = schema.with_metadata({**schema.metadata, _FACTS: json.dumps(facts.__dict__).encode()})
    content = io.BytesIO()
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    pq.write_table(table, content, row_group_size=GROUP_ROWS, write_page_checksum=True)
    return content.getvalue()


class ShardFolder:
    """The shards of one model and one set of columns.

    Attributes:
        folder: where they lie, in folders by the first letters of their names.
        facts: key of a part -> number of a shard -> what it says. Finished ones are found when this is opened.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, dict[int, ShardFacts]] = {}
        for file in folder.glob("*/*"):
            key, _, number = file.stem.partition("-")
            facts = _read_facts(file) if file.suffix == ".parquet" else None
            if facts is None:  # half written, or damaged: it is encoded again
                remove(file)
            else:
                self.facts.setdefault(key, {})[int(number)] = facts

    def file(self, key: str, number: int) -> Path:
        """Return the file of a part's shard."""
        return self.folder / key[:2] / f"{key}-{number:06d}.parquet"

    def add(self, key: str, number: int, content: bytes) -> None:
        """Write a shard; its name appears only when it is complete."""
        file = self.file(key, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".tmp").write_bytes(content)
        os.replace(file.with_suffix(".tmp"), file)
        facts = _read_facts(file)
        assert facts is not None
        self.facts.setdefault(key, {})[number] = facts

    def is_finished(self, part: Part) -> bool:
        """Return whether all shards of a part are there."""
        found = self.facts.get(part.key, {})
        return any(facts.last and number + 1 == len(found) for number, facts in found.items())

    def reader(self, parts: Sequence[Part]) -> TableReader:
        """Return a reader of all rows of finished parts, in their order."""
        return TableReader([self.file(part.key, at) for part in parts for at in sorted(self.facts[part.key])], False)

    def summary(self, parts: Sequence[Part]) -> tuple[list[dict[str, str]], Counter[str]]:
        """Return the photos of finished parts that cannot be read, and how many files were left out by suffix."""
        unreadable: list[dict[str, str]] = []
        left_out: Counter[str] = Counter()
        for part in parts:
            for number in sorted(self.facts[part.key]):
                unreadable += self.facts[part.key][number].unreadable
                left_out.update(self.facts[part.key][number].left_out)
        return unreadable, left_out

    def keep_only(self, parts: Sequence[Part]) -> None:
        """Remove the shards of other parts: of photos that are gone or have changed, and of other models."""
        keys = {part.key for part in parts}
        for other in self.folder.parent.glob("*"):
            if other != self.folder:
                remove(other)
        for key in self.facts.keys() - keys:
            for number in self.facts.pop(key):
                self.file(key, number).unlink()


def _read_facts(file: Path) -> ShardFacts | None:
    try:
        return ShardFacts(**json.loads(pq.read_schema(file).metadata[_FACTS]))
    except (*DAMAGED, TypeError):
        return None
