"""Baselines that need no training: frozen CLIP, by the sketch itself or by the name of what it shows."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..clip_base import SMALL_CLIP
from ..modeling_clip_at import ClipAtModel


def frozen_clip(base: str = SMALL_CLIP) -> ClipAtModel:
    """Return plain CLIP as a retrieval model: CLIP-AT with every trained part switched off."""
    return ClipAtModel.from_clip(base, prompts=0, layer_norms="none")


class TextQueryClip(ClipAtModel):
    """Frozen CLIP that guesses the class of a sketch and searches with "a photo of a {class}" instead of the drawing.

    It knows the names of all classes of the data set, the unseen ones included. So it is no zero-shot model.
    """

    title = "frozen CLIP, class name as query"
    arxiv = "2103.00020"

    @classmethod
    def from_names(cls, base: str, class_names: Sequence[str]) -> "TextQueryClip":
        """Return the model for the classes that a sketch may show.

        Args:
            base: folder, Hub id, or the name of a packaged CLIP.
            class_names: readable names of the classes.

        Raises:
            ValueError: if there are no names.
        """
        if not class_names:
            raise ValueError("The text query needs the names of the classes that a sketch may show: pass class_names.")
        model = cls.from_clip(base, list(class_names), prompts=0, layer_norms="none")
        model.config.class_names = []  # it was trained on none
        return model

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return a photo's embedding, or for a sketch that of the nearest class name: (B, D), unit norm, float32."""
        embeds = super().encode(pixel_values, modality)
        if modality == "photo":
            return embeds
        classes = self.frozen_class_embeds().float()  # (C, D)
        return classes[(embeds @ classes.T).argmax(dim=1)]

    def model_fingerprint(self) -> str:
        """Return 16 hex digits, other ones than those of the same CLIP that searches with the sketch."""
        return hashlib.blake2b(b"text query" + super().model_fingerprint().encode(), digest_size=8).hexdigest()
