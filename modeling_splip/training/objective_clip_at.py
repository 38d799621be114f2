"""The objective of CLIP-AT (CVPR 2023), category and fine-grained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modeling_clip_at import ClipAtModel
from .jigsaw import permutation_set, permute_tiles, two_permutations
from .losses import class_loss, cosine_distance, relative_distance_divergence, triplet_loss
from .objective import Objective, ObjectiveSettings, weighted

DIVERGENCES = ("gaussian", "softmax")


@dataclass(frozen=True)
class ClipAtSettings(ObjectiveSettings):
    """Settings of CLIP-AT's losses. Marks as in `ClipAtConfig`, [R] what a re-implementation does.

    Args:
        margin: of the triplet loss, d = 1 - cos. [P] 0.3, [C] 0.2
        alpha: weight of the class loss (lambda_1, lambda_2). [P] 0.5, [C] 0
        tau: temperature of the class loss; 0 takes the base CLIP's own. [O] 0
        divergence: weight of the f-divergence, fine-grained only (lambda_3). [P] 0.1
        divergence_form: how the relative distances of a class become a distribution: "gaussian" [O] or "softmax" [R].
        shuffle: weight of the patch shuffle, fine-grained only (lambda_4). [P] 1
        shuffle_margin: mu_ps. [O] 0.3
        grid: tiles on a side of the patch shuffle. [P] 2
    """

    margin: float = 0.3
    alpha: float = 0.5
    tau: float = 0.0
    divergence: float = 0.1
    divergence_form: str = "gaussian"
    shuffle: float = 1.0
    shuffle_margin: float = 0.3
    grid: int = 2

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise ValueError(f"tau must be above 0, or 0 for the base CLIP's own, got {self.tau}.")
        super().__post_init__()
        if self.divergence_form not in DIVERGENCES:
            raise ValueError(f"divergence_form must be one of {DIVERGENCES}, got {self.divergence_form!r}.")

    def idle(self, level: str) -> dict[str, str]:
        """Return the settings that change nothing beside the others, each with the reason."""
        names = ("divergence", "divergence_form", "shuffle", "shuffle_margin", "grid")
        return dict.fromkeys(names, "at category level") if level == "category" else {}


class ClipAtObjective(Objective):
    """The losses of CLIP-AT; `Objective` says what it takes.

    At category level L = triplet + alpha class. At fine-grained level the triplets have the hardest negatives, and the
    divergence and the patch shuffle are added.
    """

    settings_class = ClipAtSettings
    settings: ClipAtSettings

    def __init__(self, model: ClipAtModel, settings: ClipAtSettings | None = None, level: str = "category"):
        super().__init__(model, settings, level)
        fine_grained = level == "fine_grained"
        self.divergence = self.settings.divergence if fine_grained else 0.0
        self.shuffle = self.settings.shuffle if fine_grained else 0.0
        self.compares_classes = "divergence" if self.divergence else ""
        if self.settings.alpha:
            self.class_embeds = nn.Buffer(model.frozen_class_embeds()[None], persistent=False)  # (1, C, D)
        self.tau = self.settings.tau or float((-model.clip.logit_scale).exp())
        if self.shuffle:
            grid = self.settings.grid
            self.permutations = nn.Buffer(permutation_set(grid, 23 if grid == 2 else 100), persistent=False)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each a scalar; `Objective` says what a batch holds.

        They are "triplet", those of "class", "divergence" and "shuffle" that have a weight, and their weighted total,
        "loss".
        """
        settings = self.settings
        sketches, photos = {"s": batch["sketch"]}, self.photos(batch)
        if self.shuffle:
            one, other = (self.permutations[i] for i in two_permutations(batch["draw"], len(self.permutations)))
            sketches["one"] = permute_tiles(batch["sketch"], one, settings.grid)
            photos["one"] = permute_tiles(batch["positive"], one, settings.grid)
            photos["other"] = permute_tiles(batch["positive"], other, settings.grid)
        sketch = {name: out.embeds for name, out in self.encode("sketch", sketches, return_class_embeds=False).items()}
        photo = {name: out.embeds for name, out in self.encode("photo", photos, return_class_embeds=False).items()}
        s, p = sketch["s"], photo["p"]  # (B, D)
        rows, label_n, keep = self.negatives(batch, s, p)
        n = photo.get("n", p)[rows]  # (B, D)

        losses = {"triplet": triplet_loss(s[keep], p[keep], n[keep], settings.margin, cosine_distance)}
        if settings.alpha:
            # At fine-grained level every p- is the p+ of another row, and counts there.
            seen = [(s, batch["label"]), (p, batch["label"])] + ([(n, label_n)] if "n" in photo else [])
            terms = [class_loss(embeds, self.class_embeds, labels, self.tau) for embeds, labels in seen]
            losses["class"] = torch.stack(terms).mean()
        if self.divergence:
            deltas = cosine_distance(s, p) - cosine_distance(s, n)  # (B,)
            labels = batch["label"]
            losses["divergence"] = relative_distance_divergence(deltas[keep], labels[keep], settings.divergence_form)
        if self.shuffle:
            shuffled = sketch["one"], photo["one"], photo["other"]
            losses["shuffle"] = triplet_loss(*shuffled, settings.shuffle_margin, cosine_distance)
        weights = {"triplet": 1.0, "class": settings.alpha, "divergence": self.divergence, "shuffle": self.shuffle}
        return weighted(losses, {name: weights[name] for name in losses})
