"""The report of `splip evaluate`: records, tables beside published numbers, charts and pictures, in one folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import check_writable, write_json, write_text, written_whole
from ..common.text import markdown_table
from ..data.protocols import PROTOCOLS
from .embedder import Embedder
from .evaluate import Evaluation
from .plots import per_class_bars, precision_recall_curve
from .published import published_table
from .view_pictures import queries_picture, retrieval_picture

RECORDS, PAGE, CURVES = "records.json", "report.md", "precision_recall.png"
PICTURES = ("per_class", "retrieval", "worst")  # each of every protocol
COLUMNS = ("map_all", "map_200_prefix", "map_200_min", "p_100", "p_200", "acc_1", "acc_5", "acc_10")
SHOWN = 6  # queries in a picture

Pictures = list[tuple[str, str]]  # title, file name


def check_report(folder: Path) -> None:
    """Raise an error, before any long work, if a report cannot be written to a folder.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if it holds files that are not of a report.
    """
    check_writable(folder / RECORDS)
    ours = {RECORDS, PAGE, CURVES, *(_picture(name, kind) for name in PROTOCOLS for kind in PICTURES)}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    if others:
        raise ValueError(
            f"--report '{folder}' holds other files, such as '{others[0]}': name a new folder, or an earlier report, "
            "which is replaced."
        )


def write_report(folder: Path, evaluations: Sequence[Evaluation], embedder: Embedder | None = None) -> None:
    """Write a report, whole or not at all; an earlier one is replaced.

    Args:
        folder: `check_report` has passed it.
        evaluations: of one method on one dataset, at least one.
        embedder: that they came from; None for embeddings from a file, which have no images to show.
    """
    with written_whole(folder) as partial:
        partial.mkdir()
        pictures = _curves(partial, evaluations)
        for evaluation in evaluations:
            pictures += _per_class(partial, evaluation)
            if embedder is not None:
                pictures += _grids(partial, evaluation, embedder)
        records = [evaluation.record for evaluation in evaluations]
        write_json(partial / RECORDS, records)
        write_text(partial / PAGE, _page(records, pictures))


def records_table(records: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of result records, in percent; a metric that a protocol lacks is a dash."""
    columns = [name for name in COLUMNS if any(name in record["metrics"] for record in records)]
    rows = []
    for record in records:
        values = [record["metrics"].get(column) for column in columns]
        cells = ["-" if value is None else f"{100 * value:.2f}" for value in values]
        rows.append([record["method"], record["protocol"], str(record["n_query"]), str(record["n_gallery"]), *cells])
    return markdown_table(["method", "protocol", "queries", "gallery", *columns], rows, aligned=True)


def _page(records: Sequence[dict[str, Any]], pictures: Pictures) -> str:
    first = records[0]
    parts = [f"# {first['method']} on {first['dataset']}", records_table(records), _about(first)]
    for record in records:
        table = published_table(record)
        if table:
            parts.append(f"## Published numbers beside ours: {record['protocol']}\n\n{table}")
    parts += [f"## {title}\n\n![{title}]({name})" for title, name in pictures]
    return "\n\n".join(parts) + "\n"


def _about(record: dict[str, Any]) -> str:
    """Return a list of what else the numbers depend on."""
    facts = {
        "embeddings": f"`{record['fingerprint']}`",
        "data version": f"`{record['dataset_version']}`",
        "gallery": {"unique": "each photo once", "archive": "photos as often as the archive's list"}[record["gallery"]],
        "seed": record["seed"],
        "classes removed, seen in training or by request": ", ".join(record["classes_removed"]),
        "classes kept although seen in training": ", ".join(record["seen_classes_kept"] or []),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["Percent; each name is defined in docs/protocol.md.", "", *lines])


def _curves(folder: Path, evaluations: Sequence[Evaluation]) -> Pictures:
    curves = {
        evaluation.record["protocol"]: (evaluation.curve["recall"], evaluation.curve["precision"])
        for evaluation in evaluations
        if evaluation.curve
    }
    if not curves:
        return []
    record = evaluations[0].record
    precision_recall_curve(curves, folder / CURVES, title=f"{record['method']} on {record['dataset']}")
    return [("Precision over recall", CURVES)]


def _per_class(folder: Path, evaluation: Evaluation) -> Pictures:
    name = evaluation.record["protocol"]
    protocol, title = PROTOCOLS[name], PROTOCOLS[name].metric_title
    values = evaluation.per_query[protocol.metric]
    measured = ~np.isnan(values)
    classes = np.unique(evaluation.labels[measured])
    means = {str(label): float(values[measured & (evaluation.labels == label)].mean()) for label in classes}
    file = _picture(name, "per_class")
    per_class_bars(means, folder / file, metric=title, title=f"{evaluation.record['method']}, {name}")
    return [(f"{title} per class: {name}", file)]


def _grids(folder: Path, evaluation: Evaluation, embedder: Embedder) -> Pictures:
    """Draw some queries of every class, and the worst of all, with their first photos."""
    name, view, scores = evaluation.record["protocol"], evaluation.view, evaluation.scores
    some, worst = _picture(name, "retrieval"), _picture(name, "worst")
    retrieval_picture(embedder, view, folder / some, SHOWN, scores=scores)
    if PROTOCOLS[name].level == "fine_grained":
        ranks = evaluation.per_query["rank"]
        chosen = np.argsort(-ranks, kind="stable")[:SHOWN]
        notes = [f"rank {ranks[index]:.0f}" for index in chosen]
        reason = "largest rank of the own photo"
    else:
        precision = evaluation.per_query["map_all"]
        chosen = np.argsort(precision, kind="stable")[:SHOWN]
        notes = [f"AP {100 * precision[index]:.1f}" for index in chosen]
        reason = "lowest average precision"
    queries_picture(embedder, view, chosen.tolist(), folder / worst, notes=notes, scores=scores)
    return [
        (f"Queries and their first photos, hits framed green, misses red: {name}", some),
        (f"Worst queries, {reason}: {name}", worst),
    ]


def _picture(protocol: str, kind: str) -> str:
    return f"{protocol}_{kind}.png"
