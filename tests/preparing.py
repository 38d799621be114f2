"""Run `splip prepare` as its user would, and read what it wrote."""

import argparse
import json
from pathlib import Path

import datasets
import pyarrow.parquet as pq

from datasets_scripts import prepare


def run(*arguments: str | Path) -> dict:
    """Run the command as its user would and return splip_dataset.json."""
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    assert prepare.run(args) == 0
    return json.loads((Path(args.out) / "splip_dataset.json").read_text("utf-8"))


def rows(out: Path, split: str) -> list[dict]:
    """Return a split's rows with the image's bytes and the label's name."""
    table = []
    for file in sorted((out / "data").glob(f"{split}-*.parquet")):
        features = datasets.Features.from_arrow_schema(pq.read_schema(file))
        for row in pq.read_table(file).to_pylist():
            table.append(row | {"label": features["label"].int2str(row["label"])})
    return table


def tree_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
