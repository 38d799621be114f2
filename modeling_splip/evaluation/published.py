"""Published numbers beside ours, each beside our number by the definition that its paper most likely used."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..common.text import markdown_table

COLUMNS = ("method", "metric", "published", "ours", "definition", "sure", "gallery", "source")
FILE = Path(__file__).parent / "published_results.json"


def published_table(record: Mapping[str, Any]) -> str:
    """Return a Markdown table of the numbers published on a record's split and protocol, beside the record's own.

    Returns:
        The table with its legend and warnings, or "" where nothing is published.
    """
    known = _known()
    rows = [
        row for row in known["results"] if row["split"] == record["dataset"] and record["protocol"] in row["protocols"]
    ]
    if not rows:
        return ""
    cells = [
        (
            row["method"],
            row["metric"],
            f"{row['percent']:.2f}".removesuffix("0"),
            f"{100 * record['metrics'][row['definition']]:.2f}",
            f"`{row['definition']}`",
            row["sure"],
            row["gallery"],
            row["source"],
        )
        for row in rows
    ]
    parts = [markdown_table(COLUMNS, cells, aligned=True), *_warnings(record, known)]
    for column in ("sure", "gallery", "source"):
        used = dict.fromkeys(row[column] for row in rows)
        parts.append(f"{column}: " + "; ".join(f"{word} = {known[column][word]}" for word in used) + ".")
    notes = dict.fromkeys(f"- {row['method']}: {row['note']}." for row in rows if row["note"])
    return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)


def _warnings(record: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Return sentences on where the measured data differ from the benchmark's, as far as their sizes tell."""
    lines = ["Rows of different definitions, galleries or training data are not comparable with each other."]
    sizes = known["sizes"][record["dataset"]]
    if record["n_query"] + record["n_excluded"] != sizes["queries"]:
        lines.append(
            f"Not the whole benchmark: {record['n_query']:,} queries were measured, {sizes['queries']:,} are known."
        )
    photos = sizes[record["gallery"]]
    if record["protocol"] == "zs" and record["n_gallery"] not in photos:
        lines.append(f"Not its gallery: {record['n_gallery']:,} photos were ranked, {photos[0]:,} are known.")
    return lines


@cache
def _known() -> dict[str, Any]:
    return json.loads(FILE.read_text("utf-8"))
