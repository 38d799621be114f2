"""What `small_clip` is measured by: names of held-back pictures, frozen retrieval on a held-back folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPImageProcessorPil

from modeling_splip.common.text import readable
from modeling_splip.metrics import retrieval_metrics

from .small_clip_data import Batches, normalise
from .small_clip_objective import Objective
from .small_clip_reading import class_folders, images_below, open_image
from .small_clip_views import plain_drawings

CHUNK = 500  # pictures that are embedded at a time


class Selection:
    """A held-back folder `{sketch,photo}/<class>/`; checkpoints are chosen by frozen zero-shot mAP on it.

    Args:
        folder: as above; both sides must have the same classes.
        processor: the image processor that is saved with the backbone.

    Raises:
        OSError: a folder is missing or an image cannot be read.
        ValueError: a class is on one side only.
    """

    def __init__(self, folder: Path, processor: CLIPImageProcessorPil):
        self.pixels: dict[str, Tensor] = {}
        self.labels: dict[str, list[str]] = {}
        for modality in ("sketch", "photo"):
            files = [(f, c.name) for c in class_folders(folder / modality, "select") for f in images_below(c)]
            images = [open_image(file).convert("RGB") for file, _ in files]
            self.pixels[modality] = processor(images, return_tensors="pt")["pixel_values"]  # (N, 3, S, S)
            self.labels[modality] = [readable(name) for _, name in files]
        alone = set(self.labels["sketch"]) ^ set(self.labels["photo"])
        if alone:
            raise ValueError(f"'{folder}' has {sorted(alone)} as sketch or as photo only: --select wants both of each.")
        self.classes = sorted(set(self.labels["photo"]))

    def measure(self, objective: Objective) -> float:
        """Return mAP@all of the sketches over all photos, 0 to 1."""
        embeds = {modality: embed_all(objective, pixels).cpu() for modality, pixels in self.pixels.items()}
        labels = self.labels
        result = retrieval_metrics(embeds["sketch"], embeds["photo"], labels["sketch"], labels["photo"])
        return float(result["metrics"]["map_all"])

    def about(self) -> dict[str, Any]:
        """Return what it holds, for the record."""
        return {"classes": self.classes, "sketches": len(self.labels["sketch"]), "photos": len(self.labels["photo"])}


@torch.no_grad()
def embed_all(objective: Objective, pixels: Tensor) -> Tensor:
    """Return (N, D_e), unit norm, float32, of pixel values (N, 3, S, S) on any device."""
    device = next(objective.parameters()).device
    return torch.cat([objective.embed(some.to(device))[0] for some in pixels.split(CHUNK)])


@torch.no_grad()
def name_accuracy(objective: Objective, batches: Batches) -> dict[str, float]:
    """Return the shares of held-back photos and drawings whose nearest caption is right, among all names.

    Of a photo the everyday word is right, too.

    Returns:
        `photos_top1` and `drawings_top1`, 0 to 1.
    """
    data, rows = batches.pictures, batches.held_photos
    photos = torch.cat([normalise(some.float() / 255) for some in data.photos[rows].split(CHUNK)])
    found = (embed_all(objective, photos) @ objective.name_embeds("photo").T).argmax(1)  # (N,)
    seen = (found == data.fine[rows]) | (found == data.everyday[rows])
    rows = batches.held_drawings
    drawings = torch.cat([normalise(plain_drawings(some)) for some in data.drawings[rows].split(CHUNK)])
    drawn = (embed_all(objective, drawings) @ objective.name_embeds("sketch").T).argmax(1) == data.drawn[rows]
    return {"photos_top1": float(seen.float().mean()), "drawings_top1": float(drawn.float().mean())}
