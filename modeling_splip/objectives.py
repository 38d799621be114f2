"""Training objectives: a model with what else it trains, and a batch to a dict of losses.

Accelerate prepares the objective, so that the gradients of everything in it are synchronised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .jigsaw import JigsawSolver, permutation_set, permute_tiles
from .losses import adaptive_margins, class_loss, conditional_jigsaw_loss, hardest_in_class, triplet_loss
from .modeling_splip import SplipModel

LEVELS = ("category", "fine_grained")


@dataclass(frozen=True)
class SplipSettings:
    """Settings of SpLIP's losses. Marks as in `SplipConfig`.

    Args:
        level: "category" or "fine_grained".
        triplet: weight of the triplet loss. [P] 1
        alpha: weight of the class loss. [R] 1
        beta: weight of the conditional jigsaw. [R] 0.1
        adaptive_margin: whether mu comes from the class names [P], or is `margin`.
        margin: the fixed margin of the ablation. [P] 0.2
        fg_margin: margin of fine-grained training, where both photos have one class and mu would be 1. [O] 0.3
        tau: temperature of the class loss. [R] 0.07
        grid: g, tiles on a side of the jigsaw. [R] 3
        permutations: |Y|. [R] 100
    """

    level: str = "category"
    triplet: float = 1.0
    alpha: float = 1.0
    beta: float = 0.1
    adaptive_margin: bool = True
    margin: float = 0.2
    fg_margin: float = 0.3
    tau: float = 0.07
    grid: int = 3
    permutations: int = 100

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {LEVELS}, got {self.level!r}.")
        if self.tau <= 0:
            raise ValueError(f"tau must be above 0, got {self.tau}.")


class SplipObjective(nn.Module):
    """L = triplet + alpha class + beta cjs for a batch of triplets.

    Args:
        model: the model to train.
        settings: weights and constants of the losses.
    """

    settings_class = SplipSettings

    def __init__(self, model: SplipModel, settings: SplipSettings | None = None):
        super().__init__()
        self.model = model
        self.settings = settings or SplipSettings()
        if self.settings.beta:
            self.solver = JigsawSolver(model.config.projection_dim, self.settings.permutations)
            permutations = permutation_set(self.settings.grid, self.settings.permutations)
            self.permutations = nn.Buffer(permutations, persistent=False)
        self.margins = nn.Buffer(adaptive_margins(model.frozen_class_embeds()), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each a scalar: "loss", the weighted total, and "triplet", "class", "cjs" where they count.

        Args:
            batch: `sketch`, `positive` (B, 3, H, W); `label` (B,) index of the seen class; `permutation` (B,) integers,
                taken modulo |Y|; at category level `negative` (B, 3, H, W) and `negative_label` (B,); at fine-grained
                level `instance` (B,), and the negative is the hardest other photo of the class in the batch.
        """
        settings = self.settings
        size = len(batch["label"])
        sketches, photos = [batch["sketch"]], [batch["positive"]]
        if settings.beta:
            y = batch["permutation"] % settings.permutations  # (B,)
            sketches.append(permute_tiles(batch["sketch"], self.permutations[y], settings.grid))
        if settings.level == "category":
            photos.append(batch["negative"])
        sketch = self.model(torch.cat(sketches), "sketch", return_class_embeds=settings.alpha > 0)
        photo = self.model(torch.cat(photos), "photo", return_class_embeds=settings.alpha > 0)
        s, p = sketch.embeds[:size], photo.embeds[:size]  # (B, D)
        negative, margin, label_n, keep = self._negatives(batch, s, photo.embeds)

        losses: dict[str, Tensor] = {}
        if settings.triplet:
            losses["triplet"] = triplet_loss(s[keep], p[keep], negative[keep], margin[keep])
        if settings.alpha:
            labels = torch.cat([batch["label"], label_n]) if settings.level == "category" else batch["label"]
            parts = (size, len(labels))
            own = class_loss(s, _rows(sketch.class_embeds, size), batch["label"], settings.tau)
            other = class_loss(photo.embeds, photo.class_embeds, labels, settings.tau)
            # The mean over s, p+ and p-: `other` is already the mean over its share of the images.
            losses["class"] = (own * parts[0] + other * parts[1]) / sum(parts)
        if settings.beta:
            permuted = sketch.embeds[size:]
            logits = [self.solver(first, permuted) for first in (s, p, negative)]
            losses["cjs"] = conditional_jigsaw_loss(*logits, y, keep)
        weights = {"triplet": settings.triplet, "class": settings.alpha, "cjs": settings.beta}
        losses["loss"] = sum((weights[name] * value for name, value in losses.items()), start=s.new_zeros(()))
        return losses

    def _negatives(self, batch: dict[str, Tensor], s: Tensor, photos: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return p- (B, D), mu (B,), the labels of p- and which triplets have a p-."""
        settings, label = self.settings, batch["label"]
        if settings.level == "category":
            label_n = batch["negative_label"]
            adaptive = self.margins[label, label_n].to(s.dtype)
            margin = adaptive if settings.adaptive_margin else torch.full_like(adaptive, settings.margin)
            return photos[len(s) :], margin, label_n, torch.ones_like(label, dtype=torch.bool)
        index, exists = hardest_in_class(s, photos, label, batch["instance"])
        if not exists.any():
            raise ValueError(
                "Fine-grained training needs two instances of one class in a batch: raise pairs_per_class."
            )
        return photos[index], s.new_full((len(s),), settings.fg_margin), label, exists


def _rows(class_embeds: Tensor, size: int) -> Tensor:
    return class_embeds if class_embeds.shape[0] == 1 else class_embeds[:size]
