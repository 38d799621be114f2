"""The objective of SpLIP (ECCV 2024): adaptive-margin triplets, class loss, conditional cross-modal jigsaw."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..clip_backbone import embed_patches, project_image, run_vision, vision_norms
from ..modeling_splip import SplipModel
from .jigsaw import JigsawSolver, permutation_set, permute_tiles, smallest_distance, two_permutations
from .losses import (
    adaptive_margins,
    clarity,
    class_loss,
    conditional_jigsaw_loss,
    contrastive_loss,
    cosine_distance,
    hard_triplet_loss,
    hardest_in_batch,
    kept_weights,
    spread_loss,
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
        between: weight, within the triplet loss of fine-grained training, of triplets across classes: p- is the nearest
            photo of another class in the batch, with the margin mu or `margin` as at category level. It is one reading
            of the paper, whose adaptive margin gains between instances too; 0 leaves it out. [O] 1
        instance_margins: another reading: in fine-grained training the margin between two photos of a class is their
            cosine by the frozen image tower, in place of `fg_margin`. [O] false
        tau: temperature of the class loss. [R] 0.07
        contrast: weight of InfoNCE between the batch's sketches and photos, with all images of a class as positives, or
            at fine-grained level those of a photo. It replaces the triplet loss where that has weight 0. [O] 0
        contrast_tau: temperature of InfoNCE. [O] 0.1
        spread: weight of |mean cosine| between the batch's sketches and between its photos p+ (MCC, IJCAI 2024). [O] 0
        anchor: weight of 1 - cos(f(p+), f0(p+)) to frozen CLIP's f0, so that sketches move and photos stay. [O] 0
        within: weight of triplets inside each modality, with the hardest partners in the batch. [O] 0
        clarity: whether a sketch counts in triplets and InfoNCE by how sure frozen CLIP is of its class. [O]
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
    between: float = 1.0
    instance_margins: bool = False
    tau: float = 0.07
    contrast: float = 0.0
    contrast_tau: float = 0.1
    spread: float = 0.0
    anchor: float = 0.0
    within: float = 0.0
    clarity: bool = False
    grid: int = 3
    permutations: int = 100

    def __post_init__(self) -> None:
        for name in ("tau", "contrast_tau"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        super().__post_init__()

    def idle(self, level: str) -> dict[str, str]:
        """Return the settings that change nothing beside the others, each with the reason."""
        found: dict[str, str] = {}
        if level == "category":
            found = dict.fromkeys(("fg_margin", "between", "instance_margins"), "at category level")
        elif self.instance_margins:
            found["fg_margin"] = "where instance_margins is true"
        if level == "fine_grained" and not self.between:
            found |= dict.fromkeys(("adaptive_margin", "margin"), "at fine-grained level where between is 0")
        elif self.adaptive_margin:
            found["margin"] = "where adaptive_margin is true"
        if self.shuffle:
            found.pop("margin", None)
        return found


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
        if model.config.peft and (self.settings.instance_margins or self.settings.anchor or self.settings.clarity):
            raise ValueError(
                "instance_margins, anchor and clarity need CLIP's own image tower, and peft changes it: leave one out."
            )
        if level == "fine_grained" and self.settings.within:
            raise ValueError("within draws a class together, and fine-grained training pulls it apart: set it to 0.")
        self.compares_classes = (
            "between" if level == "fine_grained" and self.settings.triplet * self.settings.between else ""
        )
        self.tau = 1 / float(model.clip.logit_scale.exp())  # frozen CLIP's, for clarity
        self.class_embeds = nn.Buffer(model.frozen_class_embeds(), persistent=False)  # (C, D)
        self.margins = nn.Buffer(adaptive_margins(self.class_embeds), persistent=False)

    def facts(self) -> dict[str, Any]:
        """Return the size of the jigsaw's permutation set, and in how many tiles its most similar members differ."""
        if not self.settings.beta:
            return {}
        return {"permutations": len(self.permutations), "smallest_distance": smallest_distance(self.permutations)}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each a scalar; `Objective` says what a batch holds.

        They are those of "triplet", "between", "class", "cjs", "shuffle", "contrast", "spread", "anchor" and "within"
        that have a weight, and their weighted total, "loss".
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
        weight = self._clarity(batch["sketch"])
        if settings.triplet:
            margin = self._margins(batch, rows, label_n)  # (B,)
            losses["triplet"] = triplet_loss(s, p, n, margin, weight=kept_weights(keep, weight))
            if self.compares_classes:
                losses["between"] = self._between(s, p, batch["label"], weight)
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
            labels = batch["instance" if self.level == "fine_grained" else "label"]
            losses["contrast"] = contrastive_loss(s, p, labels, labels, settings.contrast_tau, weight)
        losses |= self._regularisers(s, p, batch)
        names = {"class": "alpha", "cjs": "beta"}
        weights = {name: getattr(settings, names.get(name, name)) for name in losses}
        if "between" in weights:
            weights["between"] *= settings.triplet
        return weighted(losses, weights)

    def _regularisers(self, s: Tensor, p: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return those of "spread", "anchor" and "within" that have a weight, from the embeddings of s and p+."""
        settings, found = self.settings, {}
        if settings.spread:
            found["spread"] = spread_loss(s) + spread_loss(p)
        if settings.anchor:
            found["anchor"] = cosine_distance(p, frozen_image_embeds(self.model, batch["positive"])).mean()
        if settings.within:
            terms = [hard_triplet_loss(embeds, batch["label"], self.margins) for embeds in (s, p)]
            found["within"] = torch.stack(terms).mean()
        return found

    def _clarity(self, sketch: Tensor) -> Tensor | None:
        """Return how much each sketch counts, (B,); None for all the same."""
        if not self.settings.clarity:
            return None
        return clarity(frozen_image_embeds(self.model, sketch), self.class_embeds, self.tau)

    def _margins(self, batch: dict[str, Tensor], rows: Tensor, label_n: Tensor) -> Tensor:
        """Return mu of each triplet, (B,): p- is the photo in row `rows` of the batch's, of class `label_n`."""
        if self.level == "category":
            return self._class_margins(batch["label"], label_n)
        if self.settings.instance_margins:
            photos = frozen_image_embeds(self.model, batch["positive"])  # (B, D)
            return (photos * photos[rows]).sum(dim=1)
        return self.margins.new_full((len(rows),), self.settings.fg_margin)

    def _class_margins(self, label: Tensor, label_n: Tensor) -> Tensor:
        """Return mu of triplets across classes: (B,)."""
        mu = self.margins[label, label_n]
        return mu if self.settings.adaptive_margin else torch.full_like(mu, self.settings.margin)

    def _between(self, s: Tensor, p: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
        """Return the triplet loss across classes, with the nearest photo of another class in the batch as p-.

        It is 0 where the batch happens to hold one class only.
        """
        rows, keep = hardest_in_batch(s, p, label[:, None] != label[None])
        return triplet_loss(s, p, p[rows], self._class_margins(label, label[rows]), weight=kept_weights(keep, weight))


@torch.no_grad()
def frozen_image_embeds(model: SplipModel, pixel_values: Tensor) -> Tensor:
    """Return the embeddings of images by plain CLIP, without the model's LayerNorms and prompts: (B, D), unit norm."""
    norms = vision_norms(model.clip)
    output = run_vision(model.clip, embed_patches(model.clip, pixel_values), norms, attention=model.attention)
    return project_image(model.clip, norms[-1], output.last[:, 0])
