"""Write the tables of README.md and docs from the committed results: `python -m benchmarks.render`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; a test holds that it says what the results say.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import tables
from benchmarks.scale_table import scale
from benchmarks.speed_table import device, h200_before, launches, speed

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = "../../modeling_splip/evaluation/published_results.json"


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "demo": ("demo.json", tables.demo),
    "sketchy2": ("sketchy2.json", tables.sketchy2),
    "world": ("world.json", tables.world),
    "compare": ("compare.json", tables.compare),
    "input_checks": ("input_checks.json", tables.input_checks),
    "compare_real": ("compare_real.json", tables.compare_real),
    "compare_real_gains": ("compare_real.json", tables.compare_real_gains),
    "choose_real": ("choose_real.json", tables.choose_real),
    "real_mini": ("real_mini.json", tables.real_mini),
    "papers": (PUBLISHED, tables.papers),
    "ablation": ("ablation.json", tables.ablation),
    "ablation_real": ("ablation_real.json", tables.ablation_real),
    "speed": ("speed.json", speed),
    "launches": ("launches.json", launches),
    "speed_cuda": ("speed_cuda.json", device),
    "h200_before": ("h200_before.json", h200_before),
    "ecosystem": ("ecosystem.json", tables.ecosystem),
    "scale": ("scale.json", scale),
}


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
