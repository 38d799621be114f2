"""The base of the training objectives: it holds the model and whatever trains beside it, and turns a batch into losses.

Accelerate prepares the objective, not the model, so that the gradients of everything in it are synchronised.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modeling_base import RetrievalOutput
from .losses import hardest_in_class

LEVELS = ("category", "fine_grained")


@dataclass(frozen=True)
class ObjectiveSettings:
    """Base of the settings of a method's losses: weights and constants, none of them negative."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{item.name} must be at least 0, got {value}.")

    def idle(self, level: str) -> dict[str, str]:
        """Return the settings that change nothing beside the others, each with the reason: "at category level"."""
        return {}

    def check_used(self, level: str, given: Collection[str] = ()) -> None:
        """Raise ValueError for a setting that changes nothing and was given, or is not at its default.

        Args:
            level: "category" or "fine_grained".
            given: names of the settings that somebody chose.
        """
        defaults = {item.name: item.default for item in fields(self)}
        for name, reason in self.idle(level).items():
            if name in given or getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no effect {reason}: leave it out.")


class Negatives(NamedTuple):
    """The p- of each triplet.

    Attributes:
        rows: (B,) the row of each p-, in the batch's `negative` at category level and in `positive` otherwise.
        labels: (B,) the classes of the p-.
        keep: which rows have a negative, (B,); None at category level, where all have.
    """

    rows: Tensor
    labels: Tensor
    keep: Tensor | None


class Objective(nn.Module):
    """Base of the objectives: the model, the settings of the losses, and how a batch is encoded.

    A batch holds `sketch` and `positive` (B, 3, H, W); `label` (B,), the index of the seen class; and `draw` (B,), a
    random integer from which an objective takes all its random choices. At category level it also holds `negative`
    (B, 3, H, W) and `negative_label` (B,). At fine-grained level it holds `instance` (B,) instead, and p- is the
    hardest other photo of the class in the batch. Images are pixel values, or bytes that `pixels` normalises; with the
    numbers of their changes beside them, such as `sketch_changes`, it changes them first.

    Args:
        model: the model to train.
        settings: weights and constants of the losses, the defaults where None.
        level: "category" or "fine_grained".
    """

    settings_class: type = ObjectiveSettings
    compares_classes = ""  # the loss that compares the classes of a micro-batch, which then must hold two groups

    def __init__(self, model: Any, settings: Any | None = None, level: str = "category"):
        super().__init__()
        if level not in LEVELS:
            raise ValueError(f"level must be one of {LEVELS}, got {level!r}.")
        self.model = model
        self.settings = settings or self.settings_class()
        self.settings.check_used(level)
        self.level = level
        self.pixels: nn.Module | None = None  # changes and normalises images that are bytes

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of a batch, each a scalar, and their weighted total as "loss".

        Raises:
            ValueError: if images are bytes, and nothing was set to normalise them.
        """
        if any(value.dtype == torch.uint8 for value in batch.values()):
            if self.pixels is None:
                raise ValueError(
                    "The batch holds bytes: set objective.pixels = TrainingPixels(processor.image_processor)."
                )
            batch = {
                name: self.pixels(x, "sketch" if name == "sketch" else "photo", batch.get(f"{name}_changes"))
                if x.dtype == torch.uint8
                else x
                for name, x in batch.items()
            }
        return self.losses(batch)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of a batch of pixel values."""
        raise NotImplementedError(f"{type(self).__name__} must define losses.")

    def encode(self, modality: str, groups: dict[str, Tensor], **flags: Any) -> dict[str, RetrievalOutput]:
        """Return the model's output for each named group of images, (n, 3, H, W); one pass encodes all groups."""
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

    def facts(self) -> dict[str, Any]:
        """Return what the record of a run tells of the losses besides their settings."""
        return {}

    def photos(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the photos of a batch by their roles: "p", and at category level also "n".

        At fine-grained level every p- is the p+ of another row, so that no photo is encoded twice.
        """
        own = {"p": batch["positive"]}
        return own | {"n": batch["negative"]} if self.level == "category" else own

    def negatives(self, batch: dict[str, Tensor], sketch: Tensor, positive: Tensor) -> Negatives:
        """Return which photos are p-.

        Args:
            batch: the batch.
            sketch, positive: embeddings of s and p+, (B, D).

        Raises:
            ValueError: at fine-grained level, if no class has two instances in the batch.
        """
        label = batch["label"]
        if self.level == "category":
            rows = torch.arange(len(label), device=label.device)
            return Negatives(rows, batch["negative_label"], None)
        rows, exists = hardest_in_class(sketch, positive, label, batch["instance"])
        # Compiled code asks nothing of the device; groups of `pairs_per_class` always hold two instances.
        if not torch.compiler.is_compiling() and not exists.any():
            raise ValueError(
                "Fine-grained training needs two instances of one class in a batch: raise pairs_per_class."
            )
        return Negatives(rows, label, exists)


def weighted(losses: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """Return the losses, and their weighted total as "loss".

    Raises:
        ValueError: if there is no loss.
    """
    if not losses:
        raise ValueError("Every loss has weight 0, so nothing would train: give one a weight.")
    total = torch.stack([weights[name] * value.float() for name, value in losses.items()]).sum()
    return losses | {"loss": total}
