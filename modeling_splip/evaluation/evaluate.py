"""Embed a dataset and measure retrieval under named protocols; every result is one record of one schema."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..common.processes import ignore_sigterm, on_cpu
from ..data.dataset import FINE_GRAINED, Part, SbirDataset, View
from ..metrics.by_class import instance_accuracy, metrics_from_scores, retrieval_metrics
from ..modeling_retrieval import RetrievalModel
from .pictures import retrieval_grid
from .rerank import reranked_scores

SCHEMA = "splip-result-1"
FIELDS = (
    *("schema", "method", "fingerprint", "dataset", "dataset_version", "split", "protocol", "gallery", "seed"),
    *("classes_removed", "seen_classes_kept", "n_query", "n_excluded", "n_gallery", "n_classes", "ties", "metrics"),
)
GALLERIES = ("unique", "archive")


class Embedder:
    """Embeds rows of a dataset, each once, on any number of processes.

    Args:
        model: in evaluation mode.
        processor: of the model.
        dataset: the prepared dataset.
        accelerator: distributes the batches; every process gets all embeddings.
        batch_size: images a batch and process.
        workers: processes that decode images.
    """

    def __init__(
        self,
        model: RetrievalModel,
        processor: Any,
        dataset: SbirDataset,
        accelerator: Accelerator | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ):
        self.model, self.processor, self.dataset = model, processor, dataset
        self.accelerator = accelerator or Accelerator(cpu=on_cpu())
        self.batch_size, self.workers = batch_size, workers
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, parts: Iterable[Part], modality: str) -> np.ndarray:
        """Return the embeddings of the parts' rows, one after the other: (N, D) float32."""
        return np.concatenate([self._part(part, modality) for part in parts])

    def _part(self, part: Part, modality: str) -> np.ndarray:
        missing = [row for row in part.rows.tolist() if (part.split, row) not in self._known]
        if missing:
            embeddings = self._embed(part.split, missing, modality, self.model.encode)
            self._known |= {(part.split, row): value for row, value in zip(missing, embeddings, strict=True)}
        return np.stack([self._known[part.split, row] for row in part.rows.tolist()])

    def tokens(self, parts: Iterable[Part], modality: str) -> np.ndarray:
        """Return the patch tokens of the parts' rows for a relation network: (N, P, D) float16; nothing is kept."""
        encode = self.model.encode_tokens
        return np.concatenate([self._embed(part.split, part.rows.tolist(), modality, encode) for part in parts])

    def _embed(
        self, split: str, rows: list[int], modality: str, encode: Callable[[torch.Tensor, str], torch.Tensor]
    ) -> np.ndarray:
        images = getattr(self.dataset, split).select_columns(["image"])

        def prepare(batch: list[dict[str, Any]]) -> torch.Tensor:
            return self.processor(images=[item["image"] for item in batch], modality=modality)["pixel_values"]

        loader = DataLoader(
            Subset(images, rows),
            batch_size=self.batch_size,
            collate_fn=prepare,
            num_workers=self.workers,
            worker_init_fn=ignore_sigterm,
        )
        # Not through the accelerator, which would keep every loader, and this object's embeddings, for ever.
        ranks = {"num_processes": self.accelerator.num_processes, "process_index": self.accelerator.process_index}
        loader = prepare_data_loader(loader, **ranks)
        device = self.accelerator.device
        self.model.to(device)
        embeddings = []
        show = self.accelerator.is_local_main_process
        with tqdm(total=len(rows), desc=f"{split} {modality}", unit="img", disable=not show, leave=False) as bar:
            for pixel_values in loader:
                embeds = encode(pixel_values.to(device), modality)  # (B, ...)
                embeddings.append(self.accelerator.gather_for_metrics(embeds).cpu())
                bar.update(len(embeddings[-1]))
        return torch.cat(embeddings).numpy()


class Sides(NamedTuple):
    """Both sides of a comparison, embedded.

    Attributes:
        query, gallery: unit-norm embeddings (Q, D) and (N, D).
        query_labels, gallery_labels: classes (Q,) and (N,).
        query_instances, gallery_instances: ids of photos (Q,) and (N,), "" where unknown; for fine-grained protocols.
        copies: how often each photo counts (N,); None for once.
        scores: (Q, N) to rank by instead of dot products, larger is nearer; None for dot products.
    """

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
        record: as every result file holds it.
        labels: readable class of every query (Q,).
        per_query: metric -> (Q,) values, NaN where a query has nothing to find.
        curve: recall and interpolated precision, None for fine-grained protocols.
        view: rows that were compared; None for anybody's embeddings.
        scores: as those of `Sides`.
    """

    record: dict[str, Any]
    labels: np.ndarray
    per_query: dict[str, np.ndarray]
    curve: dict[str, list[float]] | None
    view: View | None = None
    scores: np.ndarray | None = None


def measure(embedder: Embedder, view: View, gallery: str = "unique", per_query: bool = False) -> dict[str, Any]:
    """Return what `metrics.retrieval_metrics`, or for a fine-grained view `instance_accuracy`, says of a view."""
    return measure_sides(embed_view(embedder, view, gallery), view.protocol, per_query=per_query)


def embed_view(embedder: Embedder, view: View, gallery: str = "unique", rerank: int = 0) -> Sides:
    """Embed both sides of a view.

    Args:
        embedder: model, processor and dataset.
        view: what to compare.
        gallery: "archive" counts photos as often as the archive's list holds them.
        rerank: how many first results the model's relation network ranks again; 0 for none.
    """
    if gallery not in GALLERIES:
        raise ValueError(f"gallery must be one of {GALLERIES}, got '{gallery}'.")
    query, photo = _columns(embedder.dataset, view.query), _columns(embedder.dataset, view.gallery)
    embeddings = embedder(view.query, "sketch"), embedder(view.gallery, "photo")
    same_class = query["label"][:, None] == photo["label"] if view.protocol == "fg-class" else None
    return Sides(
        query=embeddings[0],
        gallery=embeddings[1],
        query_labels=query["label"],
        gallery_labels=photo["label"],
        query_instances=query["instance_id"],
        gallery_instances=photo["instance_id"],
        copies=photo["copies"] if gallery == "archive" else None,
        scores=reranked_scores(embedder, view, *embeddings, rerank, same_class) if rerank else None,
    )


def measure_sides(sides: Sides, protocol: str, per_query: bool = False, curve: bool = False) -> dict[str, Any]:
    """Return the metrics that a protocol asks for; `curve` is for protocols that are not fine-grained."""
    embeddings, labels = (sides.query, sides.gallery), (sides.query_labels, sides.gallery_labels)
    if protocol in FINE_GRAINED:
        instances = sides.query_instances, sides.gallery_instances
        rivals = labels if protocol == "fg-class" else (None, None)
        return instance_accuracy(*embeddings, *instances, *rivals, scores=sides.scores, per_query=per_query)
    # This protocol draws seen sketches and seen photos apart: in small data a sketch may have nothing to find.
    missing = "exclude" if protocol == "gzs-sempcyc" else "error"
    options: dict[str, Any] = {"missing": missing, "per_query": per_query, "curve": curve}
    if sides.scores is not None:
        return metrics_from_scores(sides.scores, *labels, gallery_copies=sides.copies, **options)
    return retrieval_metrics(*embeddings, *labels, gallery_copies=sides.copies, **options)


def evaluate(
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
        protocols: names of `data.PROTOCOLS`.
        method: name of the method, for the record.
        gallery: "unique", or "archive" to count a photo as often as the archive's list holds it.
        seed: of the protocols that sample seen items.
        rerank: how many first results the model's relation network ranks again; the method's name says so.
    """
    dataset, model = embedder.dataset, embedder.model
    about = {
        "method": f"{method} + rerank {rerank}" if rerank else method,
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
        view = dataset.view(protocol, seed)
        sides = embed_view(embedder, view, gallery, rerank)
        done = evaluate_sides(sides, protocol, names[sides.query_labels], about)
        found.append(done._replace(view=view, scores=sides.scores))
    return found


def evaluate_sides(sides: Sides, protocol: str, labels: np.ndarray, about: dict[str, Any]) -> Evaluation:
    """Measure one protocol and write its record.

    Args:
        sides: what to compare.
        protocol: one of `data.PROTOCOLS`.
        labels: readable class of every query (Q,).
        about: the fields of the record that say what was measured.
    """
    measured = measure_sides(sides, protocol, per_query=True, curve=protocol not in FINE_GRAINED)
    counted = {
        "protocol": protocol,
        "n_query": measured["n_query"],
        "n_excluded": measured["n_excluded"],  # queries without anything to find, left out of the means
        "n_gallery": measured["n_gallery"],  # copies counted where the gallery is the archive's
        "n_classes": len(np.unique(labels)),
        "ties": measured["ties"],
        "metrics": measured["metrics"],
    }
    values = {"schema": SCHEMA} | about | counted
    return Evaluation({key: values[key] for key in FIELDS}, labels, measured["per_query"], measured.get("curve"))


def retrieval_picture(
    embedder: Embedder, view: View, path: str | Path, queries: int = 6, k: int = 8, seed: int = 0, scores: Any = None
) -> None:
    """Save a picture of some queries, spread over the classes; see `queries_picture`."""
    labels = _columns(embedder.dataset, view.query)["label"]
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), int)  # how many queries of its class come before a query
    for label in np.unique(labels):
        own = np.flatnonzero(labels[order] == label)
        turn[own] = np.arange(len(own))
    chosen = order[np.argsort(turn, kind="stable")][:queries]
    queries_picture(embedder, view, chosen.tolist(), path, k, scores=scores)


def queries_picture(
    embedder: Embedder,
    view: View,
    chosen: Sequence[int],
    path: str | Path,
    k: int = 8,
    notes: Sequence[str] = (),
    scores: np.ndarray | None = None,
) -> None:
    """Save a picture of chosen queries of a view with their first k photos; hits and misses framed.

    Args:
        embedder: has embedded the view.
        chosen: numbers of the queries, in the order of the view.
        notes: for each query a text before its class; with them the photos' classes are written above them.
        scores: (Q, N) to rank by; None for cosines.
    """
    dataset, names = embedder.dataset, embedder.dataset.class_names
    query, photo = _columns(dataset, view.query), _columns(dataset, view.gallery)
    key = "instance_id" if view.protocol in FINE_GRAINED else "label"
    if scores is None:
        scores = embedder(view.query, "sketch")[chosen] @ embedder(view.gallery, "photo").T  # (queries, N)
    else:
        scores = scores[chosen]
    if view.protocol == "fg-class":
        scores[query["label"][chosen][:, None] != photo["label"][None]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    top = [row[values[row] > -np.inf] for row, values in zip(order, scores, strict=True)]
    titles = [names[query["label"][index]] for index in chosen]
    retrieval_grid(
        [_image(dataset, view.query, index) for index in chosen],
        [[_image(dataset, view.gallery, int(index)) for index in row] for row in top],
        [(photo[key][row] == query[key][index]).tolist() for index, row in zip(chosen, top, strict=True)],
        Path(path),
        titles=[f"{note} {title}" for title, note in zip(titles, notes, strict=True)] if notes else titles,
        captions=[[names[photo["label"][index]] for index in row] for row in top] if notes else None,
    )


def _columns(dataset: SbirDataset, parts: Iterable[Part]) -> dict[str, np.ndarray]:
    columns = [{name: value[part.rows] for name, value in dataset.columns[part.split].items()} for part in parts]
    return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}


def _image(dataset: SbirDataset, parts: Iterable[Part], index: int) -> Any:
    for part in parts:
        if index < len(part.rows):
            return getattr(dataset, part.split)[int(part.rows[index])]["image"].convert("RGB")
        index -= len(part.rows)
    raise IndexError(index)
