"""Baselines that need no training: frozen CLIP, by the sketch itself or by the name of what it shows."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .clip_backbone import MINI_CLIP
from .modeling_clip_at import ClipAtModel


def frozen_clip(base: str = MINI_CLIP) -> ClipAtModel:
    """Return plain CLIP as a retrieval model, every trained part switched off."""
    return ClipAtModel.from_clip(base, prompts=0, layer_norms="none")


class TextQueryClip(ClipAtModel):
    """Frozen CLIP that names a sketch, "a photo of a {class}", and searches with the name instead of the drawing.

    The names are those of all classes of the data set, unseen ones included: it is told what there can be, which no
    zero-shot model is.
    """

    @classmethod
    def from_names(cls, base: str, class_names: Sequence[str]) -> "TextQueryClip":
        """Build it for the classes that a sketch may show.

        Raises:
            ValueError: if there are none.
        """
        if not class_names:
            raise ValueError("The text query needs the names of the classes that a sketch may show: pass class_names.")
        model = cls.from_clip(base, list(class_names), prompts=0, layer_norms="none")
        model.config.class_names = []  # it was trained on none
        return model

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return photos' embeddings, and for a sketch the embedding of the nearest class name: (B, D), unit norm."""
        embeds = super().encode(pixel_values, modality)
        if modality == "photo":
            return embeds
        classes = self.frozen_class_embeds().float()  # (C, D)
        return classes[(embeds @ classes.T).argmax(dim=1)]

    def model_fingerprint(self) -> str:
        """Return 16 hex digits; not those of the same CLIP searched with the sketch."""
        return hashlib.blake2b(b"text query" + super().model_fingerprint().encode(), digest_size=8).hexdigest()
