"""The dataset card: README.md with the block that `load_dataset` reads, and what a reader of the Hub wants to know."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from .schema import SPLITS

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

USAGE = """```python
from datasets import load_dataset

queries = load_dataset("path or Hub id of this dataset", split="query")
```"""

COLUMNS = """| column | content |
| --- | --- |
| `image` | the picture, its bytes as they were in the archive |
| `modality` | `sketch` or `photo` |
| `label` | class, by readable name; seen classes come first |
| `instance_id` | a photo's own id; for a sketch the photo that it was drawn of; empty where unknown |
| `source` | where the picture comes from |
| `copies` | how often the archive's list holds this photo, 0 for never; without a list, the number of its files |"""


def dataset_card(summary: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """Return README.md of a prepared dataset.

    Args:
        summary: content of `splip_dataset.json`.
        about: `title`, `description`, `license` (a Hub licence id), `licence_note`, `citation`; all optional.
    """
    name = summary["name"]
    parts = [
        "---",
        yaml.safe_dump(_front_matter(summary, about), sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# {about.get('title', name)}",
        about.get("description", "Sketches and photos that share classes, for sketch-based image retrieval."),
        f"Prepared by `splip prepare {summary['prepared']}`, version `{summary['version']}`.",
        _counts_table(summary["counts"]),
        "`train` holds the seen classes, `query` the unseen sketches, `gallery` the unseen photos.",
        USAGE,
        "## Columns\n\n" + COLUMNS,
        "## Classes",
        f"Seen ({len(summary['seen'])}): {', '.join(summary['seen']) or 'none'}.",
        f"Unseen ({len(summary['unseen'])}): {', '.join(summary['unseen'])}.",
        "## Found on the way\n\n" + _problems(summary["problems"]),
    ]
    if about.get("licence_note"):
        parts.append("## Licence\n\n" + about["licence_note"])
    if about.get("citation"):
        parts.append(f"## Citation\n\n```bibtex\n{about['citation'].strip()}\n```")
    head, body = parts[:3], parts[3:]
    return "\n".join(head) + "\n\n" + "\n\n".join(body) + "\n"


def _front_matter(summary: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, Any]:
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in SPLITS]
    total = sum(sum(counts.values()) for counts in summary["counts"].values())
    return {
        "pretty_name": about.get("title", summary["name"]),
        "license": about.get("license", "other"),
        "task_categories": ["image-feature-extraction"],
        "tags": ["sketch-based-image-retrieval", "zero-shot", "sketch", "splip"],
        "size_categories": [next((size for most, size in SIZES if total < most), "1M<n<10M")],
        # `load_dataset` answers from its cache where folder and configuration have the same names and settings: the
        # version is among them, so that other content is never taken for this.
        "configs": [
            {
                "config_name": summary["name"],
                "description": f"version {summary['version']}",
                "default": True,
                "data_files": files,
            }
        ],
    }


def _counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    lines = ["| split | sketches | photos |", "| --- | --- | --- |"]
    lines += [f"| {s} | {counts[s].get('sketch', 0):,} | {counts[s].get('photo', 0):,} |" for s in SPLITS]
    return "\n".join(lines)


def _problems(problems: Mapping[str, Sequence[str]]) -> str:
    if not problems:
        return "Nothing: every file is an image that decodes, with the extension that it should have."
    lines = [f"- {kind.replace('_', ' ')}: {len(names):,}" for kind, names in problems.items()]
    return "\n".join(lines) + "\n\nTheir names are in `splip_dataset.json`."
