"""Write the tables of README.md and docs from the committed results: `python benchmarks/render.py`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; a test holds that it says what the results say.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def demo(metrics: dict[str, Any]) -> str:
    """The table that `make demo` prints, from one run of it."""
    columns = (
        ("zero-shot mAP@all", "zs", "map_all"),
        ("mAP@200", "zs", "map_200_prefix"),
        ("P@100", "zs", "p_100"),
        ("generalised mAP@all", "gzs", "map_all"),
        ("fine-grained Acc@1", "fg", "acc_1"),
        ("Acc@5", "fg", "acc_5"),
    )
    rows = [
        [name, *(f"{100 * records[key]['metrics'][metric]:.1f}" for _, key, metric in columns)]
        for name, records in metrics.items()
    ]
    first = metrics["splip"]["zs"]
    caption = (
        f"One run of `make demo` on the offline world ({first['dataset']}, version {first['dataset_version']}, seed 0, "
        "percent): drawn objects, which compare methods and say nothing about real photos. `clip` is the frozen "
        "backbone; mAP@200 has the relevant photos among the first 200 as denominator, generalised is "
        "`gzs-distractors`, fine-grained `fg-class` from a model trained on instance pairs."
    )
    return caption + "\n\n" + markdown(["", *(title for title, _, _ in columns)], rows)


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {"demo": ("demo.json", demo)}


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rendered(text: str) -> str:
    """Return a document with every table whose result is there written anew."""
    for name, (file, table) in TABLES.items():
        if f"<!-- {name} -->" in text and (RESULTS / file).is_file():
            body = table(json.loads((RESULTS / file).read_text("utf-8")))
            block = f"<!-- {name} -->\n{body}\n<!-- /{name} -->"
            text = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def documents() -> list[Path]:
    """Return every document that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for document in documents():
        document.write_text(rendered(document.read_text("utf-8")), "utf-8")
