"""Embeddings of a dataset's rows by a model, each row once, on any number of processes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..common.processes import ignore_sigterm, on_cpu
from ..data.dataset import SbirDataset
from ..data.protocols import Part
from ..modeling_base import RetrievalModel


class Embedder:
    """Embeds rows of a dataset and keeps the embeddings, so that each row is embedded once.

    Args:
        model: in evaluation mode.
        processor: the model's `SplipProcessor`.
        dataset: the prepared dataset.
        accelerator: distributes the batches over the processes; every process gets all embeddings.
        batch_size: images in a batch of one process.
        workers: processes that decode images, for each process.
        half: whether the towers compute in bfloat16; embeddings are float32 either way.
    """

    def __init__(
        self,
        model: RetrievalModel,
        processor: Any,
        dataset: SbirDataset,
        accelerator: Accelerator | None = None,
        batch_size: int = 64,
        workers: int = 0,
        half: bool = False,
    ):
        self.model, self.processor, self.dataset = model, processor, dataset
        self.accelerator = accelerator or Accelerator(cpu=on_cpu())
        self.batch_size, self.workers, self.half = batch_size, workers, half
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def __call__(self, parts: Iterable[Part], modality: str) -> np.ndarray:
        """Return the embeddings of the parts' rows, the parts one after the other: (N, D) float32."""
        return np.concatenate([self._part(part, modality) for part in parts])

    def _part(self, part: Part, modality: str) -> np.ndarray:
        missing = [row for row in part.rows.tolist() if (part.split, row) not in self._known]
        if missing:
            embeddings = self._embed(part.split, missing, modality, self.model.encode)
            self._known |= {(part.split, row): value for row, value in zip(missing, embeddings, strict=True)}
        return np.stack([self._known[part.split, row] for row in part.rows.tolist()])

    def tokens(self, parts: Iterable[Part], modality: str) -> np.ndarray:
        """Return the tokens of the parts' rows for a relation network: (N, P, D) float16. They are not kept."""
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
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_sigterm,
        )
        # `accelerator.prepare` would hold a reference to every loader, and so to this object, until the end of the run.
        ranks = {"num_processes": self.accelerator.num_processes, "process_index": self.accelerator.process_index}
        loader = prepare_data_loader(loader, **ranks)
        device = self.accelerator.device
        self.model.to(device)
        embeddings = []
        show = self.accelerator.is_local_main_process
        with tqdm(total=len(rows), desc=f"{split} {modality}", unit="img", disable=not show, leave=False) as bar:
            for pixel_values in loader:
                with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
                    embeds = encode(pixel_values.to(device, non_blocking=True), modality)  # (B, ...)
                embeddings.append(self.accelerator.gather_for_metrics(embeds).cpu())
                bar.update(len(embeddings[-1]))
        return torch.cat(embeddings).numpy()
