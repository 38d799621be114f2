"""Measures embeddings under a protocol; every result is one record of one schema."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.protocols import PROTOCOLS, View, protocol_view, view_columns
from ..metrics.by_class import metrics_from_scores, retrieval_metrics
from ..metrics.by_instance import instance_accuracy
from .device_arrays import metric_arrays
from .embedder import Embedder
from .rerank import reranked_scores

SCHEMA = "splip-result-1"
FIELDS = (
    *("schema", "method", "fingerprint", "dataset", "dataset_version", "split", "protocol", "gallery", "seed"),
    *("classes_removed", "seen_classes_kept", "n_query", "n_excluded", "n_gallery", "n_classes", "ties", "metrics"),
)
GALLERIES = ("unique", "archive")


class Sides(NamedTuple):
    """The queries and the gallery of a protocol, embedded.

    Attributes:
        protocol: one of `PROTOCOLS`.
        query, gallery: unit-norm embeddings (Q, D) and (N, D).
        query_labels, gallery_labels: classes (Q,) and (N,), all integers or all strings.
        query_instances, gallery_instances: ids of photos (Q,) and (N,), "" where unknown; for fine-grained protocols.
        copies: how often each photo counts (N,); None for once.
        scores: (Q, N) to rank by instead of dot products, larger is nearer; None for dot products.
    """

    protocol: str
    query: np.ndarray
    gallery: np.ndarray
    query_labels: np.ndarray
    gallery_labels: np.ndarray
    query_instances: np.ndarray | None = None
    gallery_instances: np.ndarray | None = None
    copies: np.ndarray | None = None
    scores: np.ndarray | None = None


class Evaluation(NamedTuple):
    """One protocol's result.

    Attributes:
        record: what a result file holds.
        labels: readable class of every query (Q,).
        per_query: metric -> (Q,) values, NaN where a query has nothing to find.
        curve: recall and interpolated precision; None for fine-grained protocols.
        view: the rows that were compared; None where only embeddings were given.
        scores: (Q, N) that were ranked instead of dot products; None for dot products.
    """

    record: dict[str, Any]
    labels: np.ndarray
    per_query: dict[str, np.ndarray]
    curve: dict[str, list[float]] | None
    view: View | None = None
    scores: np.ndarray | None = None


def embed_view(embedder: Embedder, view: View, gallery: str = "unique", rerank: int = 0) -> Sides:
    """Return both sides of a view, embedded.

    Args:
        embedder: model, processor and dataset.
        view: the rows to compare.
        gallery: "unique", or "archive" to count a photo as often as the archive's list holds it.
        rerank: how many first results the model's relation network ranks again; 0 for none.

    Raises:
        ValueError: if there is no such gallery, or the model has no relation network to rank again with.
    """
    if gallery not in GALLERIES:
        raise ValueError(f"gallery must be one of {GALLERIES}, got '{gallery}'.")
    query, photo = view_columns(embedder.dataset, view.query), view_columns(embedder.dataset, view.gallery)
    embeddings = embedder(view.query, "sketch"), embedder(view.gallery, "photo")
    within_class = PROTOCOLS[view.protocol].within_class
    same_class = query["label"][:, None] == photo["label"] if within_class else None
    return Sides(
        protocol=view.protocol,
        query=embeddings[0],
        gallery=embeddings[1],
        query_labels=query["label"],
        gallery_labels=photo["label"],
        query_instances=query["instance_id"],
        gallery_instances=photo["instance_id"],
        copies=photo["copies"] if gallery == "archive" else None,
        scores=reranked_scores(embedder, view, *embeddings, rerank, same_class) if rerank else None,
    )


def measure(sides: Sides, per_query: bool = False, curve: bool = False) -> dict[str, Any]:
    """Return the metrics that the protocol of these sides asks for; on a GPU where there is one.

    Args:
        sides: what to compare.
        per_query: also return the values of every query.
        curve: also return the precision-recall curve; not for fine-grained protocols, which have none.

    Returns:
        What `retrieval_metrics`, or for a fine-grained protocol `instance_accuracy`, returns.
    """
    protocol = PROTOCOLS[sides.protocol]
    embeddings, labels = (sides.query, sides.gallery), (sides.query_labels, sides.gallery_labels)
    if protocol.level == "fine_grained":
        instances = sides.query_instances, sides.gallery_instances
        classes = labels if protocol.within_class else (None, None)
        return instance_accuracy(*embeddings, *instances, *classes, scores=sides.scores, per_query=per_query)
    missing = "exclude" if protocol.may_lack else "error"
    options: dict[str, Any] = {"missing": missing, "per_query": per_query, "curve": curve}
    if sides.scores is not None:
        return metrics_from_scores(sides.scores, *labels, gallery_copies=sides.copies, **options)
    return retrieval_metrics(*embeddings, *labels, gallery_copies=sides.copies, arrays=metric_arrays(), **options)


def evaluate_model(
    embedder: Embedder,
    protocols: Sequence[str],
    method: str,
    gallery: str = "unique",
    seed: int = 0,
    rerank: int = 0,
) -> list[Evaluation]:
    """Measure a model under several protocols.

    Args:
        embedder: model, processor and dataset.
        protocols: names of `PROTOCOLS`.
        method: name of the method, for the record; what it says there tells too whether results were ranked again and
            whether the towers computed in bfloat16.
        gallery, rerank: as in `embed_view`.
        seed: of the protocols that sample seen items.

    Raises:
        ValueError: as `protocol_view` and `embed_view`.
    """
    dataset, model = embedder.dataset, embedder.model
    about = {
        "method": method + (f" + rerank {rerank}" if rerank else "") + (" in bfloat16" if embedder.half else ""),
        "fingerprint": model.fingerprint(embedder.processor),
        "dataset": dataset.name,
        "dataset_version": dataset.version,
        "split": "unseen",
        "gallery": gallery,
        "seed": seed,
        "classes_removed": list(dataset.removed),
        "seen_classes_kept": dataset.seen_by(model.config.class_names),
    }
    names, found = np.array(dataset.class_names), []
    for protocol in protocols:
        view = protocol_view(dataset, protocol, seed)
        sides = embed_view(embedder, view, gallery, rerank)
        result = evaluate_sides(sides, names[sides.query_labels], about)
        found.append(result._replace(view=view, scores=sides.scores))
    return found


def evaluate_sides(sides: Sides, labels: np.ndarray, about: dict[str, Any]) -> Evaluation:
    """Measure embeddings under their protocol, and write the record.

    Args:
        sides: what to compare.
        labels: readable class of every query (Q,).
        about: the fields of the record that say what was measured: those of `FIELDS` up to `seen_classes_kept`, but
            schema and protocol.
    """
    has_curve = PROTOCOLS[sides.protocol].level == "category"
    measured = measure(sides, per_query=True, curve=has_curve)
    counted = {
        "protocol": sides.protocol,
        "n_query": measured["n_query"],
        "n_excluded": measured["n_excluded"],  # queries without anything to find, left out of the means
        "n_gallery": measured["n_gallery"],  # copies counted where the gallery is the archive's
        "n_classes": len(np.unique(labels)),
        "ties": measured["ties"],
        "metrics": measured["metrics"],
    }
    values = {"schema": SCHEMA} | about | counted
    return Evaluation({key: values[key] for key in FIELDS}, labels, measured["per_query"], measured.get("curve"))
