"""The model that a gallery is searched with: folded where its prompts are constants, so that it costs as plain CLIP."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..loading import load_retriever
from ..modeling_splip import SplipModel
from ..modeling_splip_encoder import SplipEncoder


class SearchEncoder(SplipEncoder):
    """A folded `SplipModel` that keeps CLIP's text tower, so that words can be searched for too.

    It has one vision tower, the folded one; the text tower is that of the model which was folded, not a copy.
    """

    @classmethod
    @torch.no_grad()
    def from_model(cls, model: Any) -> "SearchEncoder":
        """Return the folded form of a domain-conditioned `SplipModel`, with its text tower."""
        encoder = super().from_model(model)
        encoder.text_model, encoder.text_projection = model.clip.text_model, model.clip.text_projection
        encoder.name_or_path = model.name_or_path
        return encoder

    @torch.no_grad()
    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return embeddings of free texts by the frozen CLIP text tower: (N, D), unit norm, float32."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output  # (N, d_t)
        return F.normalize(self.text_projection(pooled).float(), dim=-1)  # (N, D)


def for_search(model: Any) -> Any:
    """Return a model's cheapest form that gives the same embeddings, has the same fingerprint and encodes words.

    A domain-conditioned `SplipModel` is folded. Every other model is returned as it is.
    """
    if isinstance(model, SplipModel) and model.config.conditioning == "domain":
        return SearchEncoder.from_model(model)
    return model


def load_for_search(name: str) -> tuple[Any, Any]:
    """Load a model by name for search, and its processor; names and errors as in `loading.load_retriever`."""
    model, processor = load_retriever(name)
    return for_search(model), processor
