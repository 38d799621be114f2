"""The objective of CLIP-AT (CVPR 2023), category and fine-grained."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modeling_clip_at import ClipAtModel
from .jigsaw import permutation_set, permute_tiles, two_permutations
from .losses import (
    class_loss,
    cosine_distance,
    divergence_of_normals,
    relative_distance_divergence,
    triplet_loss,
)
from .objective import Objective, ObjectiveSettings, weighted

DIVERGENCES = ("gaussian", "softmax")
OVER = ("batch", "running")


@dataclass(frozen=True)
class ClipAtSettings(ObjectiveSettings):
    """Settings of CLIP-AT's losses. Marks as in `ClipAtConfig`, [R] what a re-implementation does.

    Args:
        margin: of the triplet loss, d = 1 - cos. [P] 0.3, [C] 0.2
        alpha: weight of the class loss (lambda_1, lambda_2). [P] 0.5, [C] 0
        tau: temperature of the class loss; 0 takes the base CLIP's own. [O] 0
        divergence: weight of the f-divergence, fine-grained only (lambda_3). [P] 0.1
        divergence_form: how the relative distances of a class become a distribution: "gaussian" [O] or "softmax" [R].
        divergence_over: which classes are compared: "batch", those of the micro-batch, or "running", all classes that
            came so far, each with the running mean and variance of its relative distances. The divergence of the paper
            is an average over all classes; a batch holds few of them. [O] batch
        shuffle: weight of the patch shuffle, fine-grained only (lambda_4). [P] 1
        shuffle_margin: mu_ps. [O] 0.3
        grid: tiles on a side of the patch shuffle. [P] 2
    """

    margin: float = 0.3
    alpha: float = 0.5
    tau: float = 0.0
    divergence: float = 0.1
    divergence_form: str = "gaussian"
    divergence_over: str = "batch"
    shuffle: float = 1.0
    shuffle_margin: float = 0.3
    grid: int = 2

    def __post_init__(self) -> None:
        if self.tau < 0:
            raise ValueError(f"tau must be above 0, or 0 for the base CLIP's own, got {self.tau}.")
        super().__post_init__()
        if self.divergence_form not in DIVERGENCES:
            raise ValueError(f"divergence_form must be one of {DIVERGENCES}, got {self.divergence_form!r}.")
        if self.divergence_over not in OVER:
            raise ValueError(f"divergence_over must be one of {OVER}, got {self.divergence_over!r}.")
        if self.divergence_over == "running" and self.divergence_form != "gaussian":
            raise ValueError("divergence_over='running' keeps means and variances: set divergence_form='gaussian'.")

    def idle(self, level: str) -> dict[str, str]:
        """Return the settings that change nothing beside the others, each with the reason."""
        names = ("divergence", "divergence_form", "divergence_over", "shuffle", "shuffle_margin", "grid")
        return dict.fromkeys(names, "at category level") if level == "category" else {}


class RunningNormals(nn.Module):
    """The relative distances of each of C classes as a normal that follows the training, and their divergence.

    A class of the batch is compared with its deltas of the batch, through which gradients flow; all others with their
    running mean and variance, which move by a tenth towards every batch that holds the class. With several processes
    they follow the batches of all. They are part of a checkpoint.
    """

    SHARE = 0.1

    def __init__(self, count: int):
        super().__init__()
        # Of each class the mean and the mean square of its deltas, and whether it has come yet.
        self.moments = nn.Buffer(torch.zeros(2, count))
        self.known = nn.Buffer(torch.zeros(count, dtype=torch.bool))

    def forward(self, deltas: Tensor, labels: Tensor, keep: Tensor | None = None, floor: float = 0.05) -> Tensor:
        """Return the mean KL divergence over all ordered pairs of the classes known so far; 0 for fewer than two.

        Args:
            deltas: (B,) relative distances.
            labels: (B,) classes, 0..C-1.
            keep: (B,) which of them count; None for all.
            floor: standard deviation whose square is added to every variance.
        """
        with torch.autocast(deltas.device.type, enabled=False):
            deltas = deltas.to(self.moments.dtype)
            powers = torch.stack([torch.ones_like(deltas), deltas, deltas.square()])  # (3, B)
            powers = powers if keep is None else powers * keep
            sums = torch.zeros(3, len(self.known), dtype=deltas.dtype, device=deltas.device)
            sums = sums.index_add(1, labels, powers)  # (3, C): how many, their sum, the sum of their squares
            own = sums[0] > 1  # a single delta has no distribution
            moments = torch.where(own, sums[1:] / sums[0].clamp(min=1), self.moments)  # (2, C)
            compared = own | self.known
            mean, square = moments
            loss = divergence_of_normals(mean, (square - mean.square()).clamp(min=0) + floor**2, compared)
            if self.training:
                self._follow(sums.detach())
            return loss

    @torch.no_grad()
    def _follow(self, sums: Tensor) -> None:
        """Move the running moments towards those of this batch, over all processes."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        came = sums[0] > 1
        new = sums[1:] / sums[0].clamp(min=1)  # (2, C)
        moved = torch.where(self.known, self.moments.lerp(new, self.SHARE), new)
        self.moments.copy_(torch.where(came, moved, self.moments))
        self.known.logical_or_(came)


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
        running = self.settings.divergence_over == "running"
        self.compares_classes = "divergence" if self.divergence and not running else ""
        if self.divergence and running:
            self.relative_distances = RunningNormals(len(model.config.class_names))
        if model.trains_text and not self.settings.alpha:
            raise ValueError(
                f"layer_norms='{model.config.layer_norms}' trains the text tower by the class loss alone, and alpha is "
                "0: give alpha a weight, or train layer_norms='vision'."
            )
        if self.settings.alpha and not model.trains_text:
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

        losses = {"triplet": triplet_loss(s, p, n, settings.margin, cosine_distance, keep)}
        if settings.alpha:
            # At fine-grained level every p- is the p+ of another row, and counts there.
            seen = [(s, batch["label"]), (p, batch["label"])] + ([(n, label_n)] if "n" in photo else [])
            classes = self.model.class_embeds()[None] if self.model.trains_text else self.class_embeds  # (1, C, D)
            terms = [class_loss(embeds, classes, labels, self.tau) for embeds, labels in seen]
            losses["class"] = torch.stack(terms).mean()
        if self.divergence:
            deltas, labels = cosine_distance(s, p) - cosine_distance(s, n), batch["label"]  # (B,) each
            if settings.divergence_over == "running":
                losses["divergence"] = self.relative_distances(deltas, labels, keep)
            else:
                form = settings.divergence_form
                losses["divergence"] = relative_distance_divergence(deltas, labels, form, keep=keep)
        if self.shuffle:
            shuffled = sketch["one"], photo["one"], photo["other"]
            losses["shuffle"] = triplet_loss(*shuffled, settings.shuffle_margin, cosine_distance)
        weights = {"triplet": 1.0, "class": settings.alpha, "divergence": self.divergence, "shuffle": self.shuffle}
        return weighted(losses, {name: weights[name] for name in losses})
