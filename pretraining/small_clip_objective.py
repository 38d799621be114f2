"""What `small_clip` learns: names of photos, of edge maps and of drawings, edge maps' photos, and a teacher's features.

Shapes: B pictures of a batch are P photos, E edge maps and D drawings, in this order. The edge maps are of the first E
photos. C names; W the teacher's width; D_e the embeddings' width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from .backbone import contrast

CAPTIONS = {"photo": "a photo of a {}", "sketch": "a sketch of a {}"}
SMOOTHING = 0.05
WEIGHTS = {"photos": 0.6, "edges": 0.2, "drawings": 0.35, "same": 0.1, "teacher": 1.0, "teacher_edges": 0.3}
MATCH_SCALE = 20.0  # at the start; it is trained
HIGHEST_SCALE, HIGHEST_MATCH_SCALE = 100.0, 60.0


class Batch(NamedTuple):
    """Pictures and what is right for them.

    Attributes:
        pixels: (B, 3, S, S), normalised as the processor does.
        names: (P,) long, a right name of every photo.
        second: (P,) long, a right name of the photo that a square of it is from.
        own: () share of every photo's area that is its own; 1 where nothing was mixed.
        excused: (P, C) bool, further names that are right, which are neither wanted nor counted as wrong.
        drawn: (D,) long, names of the drawings.
        taught: (P, W) the teacher's features of the photos, unit norm, or None without a teacher.
        whole: (P,) bool, photos that nothing was pasted into: the teacher has seen those alone.
    """

    pixels: Tensor
    names: Tensor
    second: Tensor
    own: Tensor
    excused: Tensor
    drawn: Tensor
    taught: Tensor | None
    whole: Tensor


def name_loss(logits: Tensor, names: Tensor, excused: Tensor | None = None, smoothing: float = SMOOTHING) -> Tensor:
    """Return the mean smoothed cross-entropy of naming pictures, over the names that are not excused.

    Args:
        logits: (B, C).
        names: (B,) long, the right ones; never excused.
        excused: (B, C) bool, names that do not compete.
        smoothing: share of the target that is spread over all competing names.
    """
    if excused is None:
        return F.cross_entropy(logits, names, label_smoothing=smoothing)
    logs = logits.masked_fill(excused, -math.inf).log_softmax(dim=1)  # (B, C)
    right = logs.gather(1, names[:, None])[:, 0]  # (B,)
    spread = logs.masked_fill(excused, 0.0).sum(1) / (~excused).sum(1)
    return -((1 - smoothing) * right + smoothing * spread).mean()


def feature_loss(features: Tensor, target: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean cosine distance, 0 to 2, of the rows of (B, W) and (B, W) where `rows`, (B,) bool, is true."""
    distance = 1 - F.cosine_similarity(features, target, dim=1)  # (B,)
    weight = torch.ones_like(distance) if rows is None else rows.to(distance.dtype)
    return (weight * distance).sum() / weight.sum()


class Objective(nn.Module):
    """Model, what is thrown away after training, and the losses.

    Args:
        model: the CLIP that is trained.
        tokenizer: its tokenizer.
        names: the C class names.
        edges, drawings: E and D.
        teacher_width: W, or 0 without a teacher.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: CLIPTokenizer,
        names: Sequence[str],
        edges: int,
        drawings: int,
        teacher_width: int = 0,
    ):
        super().__init__()
        self.model, self.edges, self.drawings = model, edges, drawings
        self.match_scale = nn.Parameter(torch.tensor(math.log(MATCH_SCALE)))
        width = model.config.vision_config.hidden_size
        self.head = nn.Linear(width, teacher_width) if teacher_width else None
        for modality, caption in CAPTIONS.items():
            texts = tokenizer(
                [caption.format(name) for name in names], padding=True, truncation=True, return_tensors="pt"
            )
            self.register_buffer(f"{modality}_ids", texts["input_ids"], persistent=False)
            self.register_buffer(f"{modality}_mask", texts["attention_mask"], persistent=False)

    def name_embeds(self, modality: str) -> Tensor:
        """Return the names' captions for "photo" or "sketch": (C, D_e), unit norm, float32."""
        ids, mask = getattr(self, f"{modality}_ids"), getattr(self, f"{modality}_mask")
        output = self.model.get_text_features(input_ids=ids, attention_mask=mask)
        return F.normalize(output.pooler_output.float(), dim=-1)

    def embed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, D_e), unit norm, float32, and pooled features (B, d_v) of pictures."""
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output  # (B, d_v)
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1), pooled

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch, scalars by name, and their weighted sum as "total"."""
        device = batch.pixels.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            embeds, pooled = self.embed(batch.pixels)
            names = {modality: self.name_embeds(modality) for modality in CAPTIONS}
            taught = self.head(pooled[: -self.drawings]).float() if self.head is not None else None  # (P + E, W)
        photos, edges, drawings = self._by_kind(embeds)
        scale = self.model.logit_scale.exp().clamp(max=HIGHEST_SCALE)
        match_scale = self.match_scale.exp().clamp(max=HIGHEST_MATCH_SCALE)
        seen = scale * photos @ names["photo"].T  # (P, C)
        known = slice(self.edges)
        losses = {
            "photos": batch.own * name_loss(seen, batch.names, batch.excused)
            + (1 - batch.own) * name_loss(seen, batch.second, batch.excused),
            "edges": name_loss(scale * edges @ names["sketch"].T, batch.names[known], batch.excused[known]),
            "drawings": name_loss(scale * drawings @ names["sketch"].T, batch.drawn),
            "same": contrast(edges, photos[known], match_scale),
        }
        if taught is not None and batch.taught is not None:
            losses["teacher"] = feature_loss(taught[: -self.edges], batch.taught, batch.whole)
            losses["teacher_edges"] = feature_loss(taught[-self.edges :], batch.taught[known])
        losses["total"] = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        return losses

    def _by_kind(self, embeds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        photos = len(embeds) - self.edges - self.drawings
        return embeds[:photos], embeds[photos : photos + self.edges], embeds[photos + self.edges :]
