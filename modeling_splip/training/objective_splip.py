"""The objective of SpLIP (ECCV 2024): adaptive-margin triplets, class loss, conditional cross-modal jigsaw."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modeling_splip import SplipModel
from .jigsaw import JigsawSolver, permutation_set, permute_tiles, two_permutations
from .losses import (
    adaptive_margins,
    class_loss,
    conditional_jigsaw_loss,
    contrastive_loss,
    cosine_distance,
    triplet_loss,
)
from .objective import Objective, ObjectiveSettings, weighted

SHUFFLE_GRID = 2  # tiles on a side of CLIP-AT's patch shuffle


@dataclass(frozen=True)
class SplipSettings(ObjectiveSettings):
    """Settings of SpLIP's losses. Marks as in `SplipConfig`.

    Args:
        triplet: weight of the triplet loss. [P] 1
        alpha: weight of the class loss. [R] 1
        beta: weight of the conditional jigsaw. [R] 0.1
        shuffle: weight of CLIP-AT's patch shuffle, an ablation in place of the jigsaw. [P] 0
        adaptive_margin: whether the margin mu comes from the class names [P]; otherwise it is `margin`.
        margin: the fixed margin of the ablation. [P] 0.2
        fg_margin: margin of fine-grained training, where both photos have one class and mu would be 1. [O] 0.3
        tau: temperature of the class loss. [R] 0.07
        contrast: weight of InfoNCE between the batch's sketches and photos, with all images of a class as positives. It
            replaces the triplet loss where that has weight 0. [O] 0
        contrast_tau: temperature of InfoNCE. [O] 0.1
        grid: g, tiles on a side of the jigsaw. [R] 3
        permutations: |Y|. [R] 100
    """

    triplet: float = 1.0
    alpha: float = 1.0
    beta: float = 0.1
    shuffle: float = 0.0
    adaptive_margin: bool = True
    margin: float = 0.2
    fg_margin: float = 0.3
    tau: float = 0.07
    contrast: float = 0.0
    contrast_tau: float = 0.1
    grid: int = 3
    permutations: int = 100

    def __post_init__(self) -> None:
        for name in ("tau", "contrast_tau"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        super().__post_init__()


class SplipObjective(Objective):
    """L = triplet + alpha class + beta cjs for a batch of triplets; `Objective` says what it takes."""

    settings_class = SplipSettings
    settings: SplipSettings

    def __init__(self, model: SplipModel, settings: SplipSettings | None = None, level: str = "category"):
        super().__init__(model, settings, level)
        if self.settings.beta:
            self.solver = JigsawSolver(model.config.projection_dim, self.settings.permutations)
            permutations = permutation_set(self.settings.grid, self.settings.permutations)
            self.permutations = nn.Buffer(permutations, persistent=False)
        if self.settings.shuffle:
            self.shuffles = nn.Buffer(permutation_set(SHUFFLE_GRID, 23), persistent=False)
        self.margins = nn.Buffer(adaptive_margins(model.frozen_class_embeds()), persistent=False)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each a scalar; `Objective` says what a batch holds.

        They are those of "triplet", "class", "cjs", "shuffle" and "contrast" that have a weight, and their weighted
        total, "loss".
        """
        settings = self.settings
        sketches, photos = {"s": batch["sketch"]}, self.photos(batch)
        if settings.contrast and not (settings.triplet or settings.beta):
            photos.pop("n", None)  # the other photos p+ of the batch are the negatives
        if settings.beta:
            y = batch["draw"] % settings.permutations  # (B,)
            sketches["permuted"] = permute_tiles(batch["sketch"], self.permutations[y], settings.grid)
        if settings.shuffle:
            one, other = (self.shuffles[i] for i in two_permutations(batch["draw"], len(self.shuffles)))
            sketches["one"] = permute_tiles(batch["sketch"], one, SHUFFLE_GRID)
            photos["one"] = permute_tiles(batch["positive"], one, SHUFFLE_GRID)
            photos["other"] = permute_tiles(batch["positive"], other, SHUFFLE_GRID)
        sketch = self.encode("sketch", sketches, return_class_embeds=settings.alpha > 0)
        photo = self.encode("photo", photos, return_class_embeds=settings.alpha > 0)
        s, p = sketch["s"].embeds, photo["p"].embeds  # (B, D)
        rows, label_n, keep = self.negatives(batch, s, p)
        n = photo["n" if "n" in photo else "p"].embeds[rows]  # (B, D)

        losses: dict[str, Tensor] = {}
        if settings.triplet:
            losses["triplet"] = triplet_loss(s[keep], p[keep], n[keep], self._margins(batch["label"], label_n)[keep])
        if settings.alpha:
            # At fine-grained level every p- is the p+ of another row, and counts there.
            seen = [(sketch["s"], batch["label"]), (photo["p"], batch["label"])]
            seen += [(photo["n"], label_n)] if "n" in photo else []
            terms = [class_loss(out.embeds, out.class_embeds, labels, settings.tau) for out, labels in seen]
            losses["class"] = torch.stack(terms).mean()
        if settings.beta:
            logits = [self.solver(first, sketch["permuted"].embeds) for first in (s, p, n)]
            losses["cjs"] = conditional_jigsaw_loss(*logits, y, keep)
        if settings.shuffle:
            shuffled = sketch["one"].embeds, photo["one"].embeds, photo["other"].embeds
            losses["shuffle"] = triplet_loss(*shuffled, settings.margin, cosine_distance)
        if settings.contrast:
            losses["contrast"] = contrastive_loss(s, p, batch["label"], batch["label"], settings.contrast_tau)
        weights = {"class": "alpha", "cjs": "beta"}
        return weighted(losses, {name: getattr(settings, weights.get(name, name)) for name in losses})

    def _margins(self, label: Tensor, label_n: Tensor) -> Tensor:
        """Return mu of each triplet: (B,)."""
        if self.level == "fine_grained":
            return self.margins.new_full((len(label),), self.settings.fg_margin)
        mu = self.margins[label, label_n]
        return mu if self.settings.adaptive_margin else torch.full_like(mu, self.settings.margin)
