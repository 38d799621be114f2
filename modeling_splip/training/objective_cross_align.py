"""The objective of the Cross-Modal Attention Alignment network (2024): triplets, text alignment, local relations.

Little more than the paper's abstract is public, so how the three losses work together is our choice. A description of
the sketch's class reads the sketch and both photos by cross-attention: each word gathers what it finds in an image. The
same text reads all three images, so the text alone cannot tell them apart; only what they show can.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from ..clip_backbone import frozen_text_tokens
from ..clip_base import resolve_base
from ..data.descriptions import descriptions_of
from ..modeling_cross_align import CrossAlignModel
from .losses import cosine_distance, relation_loss, triplet_loss
from .objective import Objective, ObjectiveSettings, weighted


@dataclass(frozen=True)
class CrossAlignSettings(ObjectiveSettings):
    """Settings of the losses; all are our choice unless a source is named.

    Args:
        margin: of the triplet losses, d = 1 - cos. 0.3
        alignment: weight of the triplet loss on what the text reads. 1
        relation: weight of the relation network's loss. 2, against 1 of the triplets, as in the nearest released code
        heads: of the cross-attention. 8, as in the nearest released code
        descriptions: JSON file of class descriptions; empty for the packaged one.
    """

    margin: float = 0.3
    alignment: float = 1.0
    relation: float = 2.0
    heads: int = 8
    descriptions: str = ""


class CrossAttention(nn.Module):
    """One layer in which the J words of a text read the N tokens of an image.

    Its output is made of what the words attend to; nothing of the text itself is added.
    """

    def __init__(self, dimension: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(dimension, heads, batch_first=True)
        self.norm = nn.LayerNorm(dimension)
        self.feed_forward = nn.Sequential(
            nn.Linear(dimension, 2 * dimension), nn.GELU(), nn.Linear(2 * dimension, dimension)
        )

    def forward(self, text: Tensor, image: Tensor) -> Tensor:
        """Return what the words (B, J, D) find in the tokens (B, N, D): (B, J, D)."""
        found, _ = self.attention(text, image, image, need_weights=False)  # (B, J, D)
        return found + self.feed_forward(self.norm(found))


class CrossAlignObjective(Objective):
    """L = triplet + alignment + relation for a batch of triplets; `Objective` says what it takes.

    The cross-attention is part of a checkpoint, but not of the exported model.
    """

    settings_class = CrossAlignSettings
    settings: CrossAlignSettings

    def __init__(self, model: CrossAlignModel, settings: CrossAlignSettings | None = None, level: str = "category"):
        super().__init__(model, settings, level)
        if self.settings.alignment:
            if model.config.projection_dim % self.settings.heads:
                raise ValueError(f"heads must divide D={model.config.projection_dim}, got {self.settings.heads}.")
            self.cross_attention = CrossAttention(model.config.projection_dim, self.settings.heads)
            if not model.config.base_model:
                raise ValueError("The base CLIP's tokenizer reads descriptions: set config.base_model to that CLIP.")
            sentences = descriptions_of(model.config.class_names, self.settings.descriptions or None)
            counts = [len(own) for own in sentences]
            tokenizer = AutoTokenizer.from_pretrained(resolve_base(model.config.base_model))
            context = model.config.clip_config.text_config.max_position_embeddings
            flat = [sentence for own in sentences for sentence in own]
            text = tokenizer(flat, padding=True, truncation=True, max_length=context, return_tensors="pt")
            # Every sentence's words, frozen: (S, J, D), 0 behind its end; class c owns counts[c] rows from first[c].
            words = frozen_text_tokens(model.clip, text["input_ids"], text["attention_mask"])
            self.words = nn.Buffer(words, persistent=False)
            self.is_word = nn.Buffer(text["attention_mask"].bool(), persistent=False)  # (S, J)
            self.counts = nn.Buffer(torch.tensor(counts), persistent=False)
            self.first = nn.Buffer(self.counts.cumsum(0) - self.counts, persistent=False)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each a scalar; `Objective` says what a batch holds.

        They are "triplet", those of "alignment" and "relation" that have a weight, and their weighted total, "loss".
        """
        settings = self.settings
        sketch = self.encode("sketch", {"s": batch["sketch"]}, return_class_embeds=False)["s"]
        photo = self.encode("photo", self.photos(batch), return_class_embeds=False)
        rows, _, keep = self.negatives(batch, sketch.embeds, photo["p"].embeds)
        negative = photo["n" if "n" in photo else "p"]
        s, p, n = (f[keep] for f in (sketch.embeds, photo["p"].embeds, negative.embeds[rows]))  # (B, D)
        losses = {"triplet": triplet_loss(s, p, n, settings.margin, cosine_distance)}
        tokens = [
            self.model.shared_tokens(states, modality)
            for states, modality in (
                (sketch.tokens[keep], "sketch"),
                (photo["p"].tokens[keep], "photo"),
                (negative.tokens[rows][keep], "photo"),
            )
        ]  # 3 x (B, 1 + P, D)
        if settings.alignment:
            read = self.read(batch["label"][keep], batch["draw"][keep], tokens)
            losses["alignment"] = triplet_loss(*read, settings.margin, cosine_distance)
        if settings.relation:
            z_s, z_p, z_n = (z[:, 1:] for z in tokens)  # (B, P, D)
            losses["relation"] = relation_loss(self.model.relation(z_s, z_p), self.model.relation(z_s, z_n))
        weights = {"triplet": 1.0, "alignment": settings.alignment, "relation": settings.relation}
        return weighted(losses, {name: weights[name] for name in losses})

    def read(self, labels: Tensor, draws: Tensor, images: list[Tensor]) -> list[Tensor]:
        """Return for each kind of image what a description of each row's class finds in it: (B, D) each, unit norm.

        Args:
            labels: (B,) classes of the sketches.
            draws: (B,) random integers, which choose one of the class's descriptions.
            images: tokens of the sketches, the positive and the negative photos, (B, N, D) each.
        """
        sentence = self.first[labels] + draws % self.counts[labels]  # (B,)
        words, is_word = self.words[sentence], self.is_word[sentence, :, None]  # (B, J, D), (B, J, 1)
        with torch.autocast(words.device.type, enabled=False):  # results are compared: no half precision
            found = [self.cross_attention(words, image.to(words.dtype)) for image in images]  # (B, J, D)
            return [F.normalize((x * is_word).sum(dim=1) / is_word.sum(dim=1), dim=-1) for x in found]
