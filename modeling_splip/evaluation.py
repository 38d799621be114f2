"""Embed a dataset and measure retrieval under named protocols; every result is one record of one schema."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from .data import FINE_GRAINED, Part, SbirDataset, View
from .metrics import instance_accuracy, retrieval_metrics
from .modeling_retriever import RetrieverEncoder
from .plotting import retrieval_grid

SCHEMA = "splip-result-1"
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
        model: RetrieverEncoder,
        processor: Any,
        dataset: SbirDataset,
        accelerator: Accelerator | None = None,
        batch_size: int = 64,
        workers: int = 0,
    ):
        self.model, self.processor, self.dataset = model, processor, dataset
        self.accelerator = accelerator or Accelerator()
        self.batch_size, self.workers = batch_size, workers
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, parts: Iterable[Part], modality: str) -> np.ndarray:
        """Return the embeddings of the parts' rows, one after the other: (N, D) float32."""
        return np.concatenate([self._part(part, modality) for part in parts])

    def _part(self, part: Part, modality: str) -> np.ndarray:
        missing = [row for row in part.rows.tolist() if (part.split, row) not in self._known]
        if missing:
            embeddings = self._embed(part.split, missing, modality)
            self._known |= {(part.split, row): value for row, value in zip(missing, embeddings, strict=True)}
        return np.stack([self._known[part.split, row] for row in part.rows.tolist()])

    def _embed(self, split: str, rows: list[int], modality: str) -> np.ndarray:
        images = getattr(self.dataset, split).select_columns(["image"])

        def prepare(batch: list[dict[str, Any]]) -> torch.Tensor:
            return self.processor(images=[item["image"] for item in batch], modality=modality)["pixel_values"]

        loader = DataLoader(
            Subset(images, rows), batch_size=self.batch_size, collate_fn=prepare, num_workers=self.workers
        )
        # Not through the accelerator, which would keep every loader, and this object's embeddings, for ever.
        ranks = {"num_processes": self.accelerator.num_processes, "process_index": self.accelerator.process_index}
        loader = prepare_data_loader(loader, **ranks)
        device = self.accelerator.device
        model = self.model.to(device)
        embeddings = []
        show = self.accelerator.is_local_main_process
        with tqdm(total=len(rows), desc=f"{split} {modality}", unit="img", disable=not show, leave=False) as bar:
            for pixel_values in loader:
                embeds = model.encode(pixel_values.to(device), modality)  # (B, D)
                embeddings.append(self.accelerator.gather_for_metrics(embeds).cpu())
                bar.update(len(embeddings[-1]))
        return torch.cat(embeddings).numpy()


def measure(embedder: Embedder, view: View, gallery: str = "unique", per_query: bool = False) -> dict[str, Any]:
    """Return what `metrics.retrieval_metrics`, or for a fine-grained view `instance_accuracy`, says of a view."""
    if gallery not in GALLERIES:
        raise ValueError(f"gallery must be one of {GALLERIES}, got '{gallery}'.")
    query, photos = embedder(view.query, "sketch"), embedder(view.gallery, "photo")
    side = _columns(embedder.dataset, view.query), _columns(embedder.dataset, view.gallery)
    if view.protocol in FINE_GRAINED:
        labels = (side[0]["label"], side[1]["label"]) if view.protocol == "fg-class" else (None, None)
        return instance_accuracy(
            query, photos, side[0]["instance_id"], side[1]["instance_id"], *labels, per_query=per_query
        )
    copies = side[1]["copies"] if gallery == "archive" else None
    # This protocol draws seen sketches and seen photos apart: in small data a sketch may have nothing to find.
    missing = "exclude" if view.protocol == "gzs-sempcyc" else "error"
    labels = side[0]["label"], side[1]["label"]
    return retrieval_metrics(query, photos, *labels, gallery_copies=copies, missing=missing, per_query=per_query)


def evaluate(
    embedder: Embedder,
    protocols: Sequence[str],
    method: str,
    gallery: str = "unique",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Measure a model under several protocols; returns one record for each.

    Args:
        embedder: model, processor and dataset.
        protocols: names of `data.PROTOCOLS`.
        method: name of the method, for the record.
        gallery: "unique", or "archive" to count a photo as often as the archive's list holds it.
        seed: of the protocols that sample seen items.
    """
    dataset, records = embedder.dataset, []
    for protocol in protocols:
        view = dataset.view(protocol, seed)
        measured = measure(embedder, view, gallery)
        labels = np.concatenate([dataset.columns[part.split]["label"][part.rows] for part in view.query])
        records.append(
            {
                "schema": SCHEMA,
                "method": method,
                "fingerprint": embedder.model.fingerprint(embedder.processor),
                "dataset": dataset.name,
                "dataset_version": dataset.version,
                "split": "unseen",
                "protocol": protocol,
                "gallery": gallery,
                "seed": seed,
                "n_query": measured["n_query"],
                "n_excluded": measured["n_excluded"],  # queries without anything to find, left out of the means
                "n_gallery": measured["n_gallery"],  # copies counted where the gallery is the archive's
                "n_classes": len(np.unique(labels)),
                "ties": measured["ties"],
                "metrics": measured["metrics"],
            }
        )
    return records


def retrieval_picture(
    embedder: Embedder, view: View, path: str | Path, queries: int = 6, k: int = 8, seed: int = 0
) -> None:
    """Save a picture of some queries, spread over the classes, with their first k photos; hits and misses framed."""
    dataset = embedder.dataset
    side = _columns(dataset, view.query), _columns(dataset, view.gallery)
    key = "instance_id" if view.protocol in FINE_GRAINED else "label"
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(side[0]["label"]))[:queries]
    chosen = [int(rng.choice(np.flatnonzero(side[0]["label"] == label))) for label in classes]
    scores = embedder(view.query, "sketch")[chosen] @ embedder(view.gallery, "photo").T  # (queries, N)
    if view.protocol == "fg-class":
        scores[side[0]["label"][chosen][:, None] != side[1]["label"][None]] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    retrieval_grid(
        [_image(dataset, view.query, index) for index in chosen],
        [[_image(dataset, view.gallery, int(index)) for index in row] for row in top],
        [(side[1][key][row] == side[0][key][index]).tolist() for index, row in zip(chosen, top, strict=True)],
        Path(path),
        titles=[dataset.class_names[label] for label in classes],
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
