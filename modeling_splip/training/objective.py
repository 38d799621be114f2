"""What training objectives have in common: a model with what else it trains, and a batch to a dict of losses.

Accelerate prepares the objective, so that the gradients of everything in it are synchronised.
"""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modeling_retrieval import RetrievalOutput
from .losses import hardest_in_class

LEVELS = ("category", "fine_grained")


@dataclass(frozen=True)
class ObjectiveSettings:
    """Settings of every objective.

    Args:
        level: "category" or "fine_grained".
    """

    level: str = "category"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level must be one of {LEVELS}, got {self.level!r}.")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{item.name} must be at least 0, got {value}.")


class Negatives(NamedTuple):
    """The p- of each triplet.

    Attributes:
        rows: (B,) which of the photos p- are: of the batch's `negative` at category level, of `positive` otherwise.
        labels: (B,) their classes.
        keep: (B,) which triplets have a p-; all of them at category level, as a slice, for which no device waits.
    """

    rows: Tensor
    labels: Tensor
    keep: Tensor | slice


class Objective(nn.Module):
    """Base of the objectives: the model, the settings, and how a batch is encoded.

    A batch holds `sketch` and `positive` (B, 3, H, W); `label` (B,), index of the seen class; `draw` (B,), a random
    integer for whatever the objective draws; at category level `negative` (B, 3, H, W) and `negative_label` (B,); at
    fine-grained level `instance` (B,), where p- is the hardest other photo of the class in the batch.
    """

    settings_class: type = ObjectiveSettings

    def __init__(self, model: Any, settings: Any | None = None):
        super().__init__()
        self.model = model
        self.settings = settings or self.settings_class()

    def encode(self, modality: str, groups: dict[str, Tensor], **flags: Any) -> dict[str, RetrievalOutput]:
        """Encode named groups of images, each (n, 3, H, W), in one pass; returns the output of each group."""
        output = self.model(torch.cat(list(groups.values())), modality, **flags)
        result, start = {}, 0
        for name, images in groups.items():
            rows = slice(start, start + len(images))
            classes = output.class_embeds
            shared = classes is None or classes.shape[0] == 1
            result[name] = RetrievalOutput(
                embeds=output.embeds[rows],
                tokens=output.tokens[rows],
                class_embeds=classes if shared else classes[rows],
            )
            start += len(images)
        return result

    def photos(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the photos of a batch by their roles: "p", and "n" where p- is not found among the p."""
        own = {"p": batch["positive"]}
        return own | {"n": batch["negative"]} if self.settings.level == "category" else own

    def negatives(self, batch: dict[str, Tensor], sketch: Tensor, positive: Tensor) -> Negatives:
        """Return which photos are p-, given the embeddings of s and p+, (B, D).

        Raises:
            ValueError: at fine-grained level, if no class has two instances in the batch.
        """
        label = batch["label"]
        if self.settings.level == "category":
            rows = torch.arange(len(label), device=label.device)
            return Negatives(rows, batch["negative_label"], slice(None))
        rows, exists = hardest_in_class(sketch, positive, label, batch["instance"])
        if not exists.any():
            raise ValueError(
                "Fine-grained training needs two instances of one class in a batch: raise pairs_per_class."
            )
        return Negatives(rows, label, exists)


def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Return the losses with their weighted total as "loss".

    Raises:
        ValueError: if there is no loss.
    """
    if not losses:
        raise ValueError("Every loss has weight 0, so nothing would train: give one a weight.")
    total = torch.stack([weights[name] * value.float() for name, value in losses.items()]).sum()
    return losses | {"loss": total}
