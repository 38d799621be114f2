"""The dataset card: README.md with the block that `load_dataset` reads, and what a reader of the Hub wants to know."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from modeling_splip.common.text import markdown_table

from .schema import SPLITS

TEMPLATE = Path(__file__).with_name("card.md")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(summary: Mapping[str, Any], about: Mapping[str, str]) -> str:
    """Return README.md of a prepared dataset.

    Args:
        summary: content of `splip_dataset.json`.
        about: `title`, `description`, `license` (a Hub licence id), `licence_note`, `citation`; all optional.
    """
    counts = summary["counts"]
    rows = [(s, *(f"{counts[s].get(modality, 0):,}" for modality in ("sketch", "photo"))) for s in SPLITS]
    texts = {
        "title": summary["name"],
        "description": "Sketches and photos that share classes, for sketch-based image retrieval.",
        "counts": markdown_table(("split", "sketches", "photos"), rows),
    }
    data = _card_data(summary, about.get("title", summary["name"]), about.get("license", "other"))
    return str(DatasetCard.from_template(data, TEMPLATE, **{**summary, **texts, **about})) + "\n"


def _card_data(summary: Mapping[str, Any], title: str, license: str) -> DatasetCardData:
    total = sum(sum(counts.values()) for counts in summary["counts"].values())
    return DatasetCardData(
        pretty_name=title,
        license=license,
        task_categories=["image-feature-extraction"],
        tags=["sketch-based-image-retrieval", "zero-shot", "sketch", "splip"],
        size_categories=[next((size for most, size in SIZES if total < most), "1M<n<10M")],
        # `load_dataset` answers from its cache where folder and configuration have the same names and settings: the
        # version is among them, so that other content is never taken for this.
        configs=[
            {
                "config_name": summary["name"],
                "description": f"version {summary['version']}",
                "default": True,
                "data_files": [{"split": s, "path": f"data/{s}-*.parquet"} for s in SPLITS if summary["counts"][s]],
            }
        ],
    )
