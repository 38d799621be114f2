"""The objective of the Cross-Modal Attention Alignment network (2024): texts and images read each other.

Little more than the paper's abstract is public. It names two text-image exchanges by cross-attention, a global triplet
loss and a local relation network, both after the exchange, and an inference that has no text. How these work together
is our choice. A text of the sketch's class reads the sketch and both photos, and all three read it. Since the text is
the same for all, it cannot tell them apart by itself; only what they show can.

Symbols: Z the tokens of an image in the shared space (1 + P, D), CLS first; W the words of a text (J, D); Z' the tokens
after they have read the text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from ..class_prompts import frozen_text_tokens
from ..clip_base import resolve_base
from ..data.descriptions import descriptions_of
from ..modeling_cross_align import CrossAlignModel
from .losses import cosine_distance, relation_loss, triplet_loss
from .objective import Objective, ObjectiveSettings, weighted

EXCHANGES = ("both", "text", "image")
TEXTS = ("all", "one", "sentences")


@dataclass(frozen=True)
class CrossAlignSettings(ObjectiveSettings):
    """Settings of the losses. [P] is what the paper's public page says; all else is our choice, or names its source.

    Args:
        margin: of the triplet losses, d = 1 - cos. 0.3
        triplet: weight of the triplet loss on the embeddings, lambda_tri. [P] a setting that the paper sweeps; 1
        alignment: weight of the triplet loss on what was exchanged, the global alignment of tokens. 1
        relation: weight of the relation network's loss, lambda_rn. [P] a setting that the paper sweeps; 2, against 1 of
            the triplets, as in the nearest released code
        exchange: who reads whom: "both" [P], "text" (the words read the images only) or "image" (the images read the
            words only).
        text_free: the share of the relation network's loss on tokens that have read no text. Ranking again compares
            such tokens, so the network must know them. 0.5; 0 is the paper to the letter, 1 trains on nothing else
        text: what a class's text consists of: "all", the words of all its sentences [P]; "one", the words of one
            sentence, drawn anew for every sketch; "sentences", one token for each sentence.
        questions: names of the questions whose answers are read, separated by commas; empty for all.
        heads: of the cross-attention. 8, as in the nearest released code
        descriptions: JSON file of class descriptions; empty for the packaged one.
    """

    margin: float = 0.3
    triplet: float = 1.0
    alignment: float = 1.0
    relation: float = 2.0
    exchange: str = "both"
    text_free: float = 0.5
    text: str = "all"
    questions: str = ""
    heads: int = 8
    descriptions: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("exchange", EXCHANGES), ("text", TEXTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")
        if self.text_free > 1:
            raise ValueError(f"text_free is a share, from 0 to 1, got {self.text_free}.")

    def idle(self, level: str) -> dict[str, str]:
        """Return the settings that change nothing beside the others, each with the reason."""
        return (
            {"text_free": "where exchange is text, since images read nothing then"} if self.exchange == "text" else {}
        )

    @property
    def text_reads(self) -> bool:
        """Whether the words read the images: what they find is compared by `alignment` alone."""
        return self.exchange != "image" and self.alignment > 0

    @property
    def images_read(self) -> bool:
        """Whether the images read the words, and a loss sees what they become by it."""
        return self.exchange != "text" and (self.alignment > 0 or (self.relation > 0 and self.text_free < 1))


class CrossAttention(nn.Module):
    """One layer in which the tokens of one kind read those of another.

    Its output is made of what they attend to; nothing of the readers themselves is added.
    """

    def __init__(self, dimension: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(dimension, heads, batch_first=True)
        self.norm = nn.LayerNorm(dimension)
        self.feed_forward = nn.Sequential(
            nn.Linear(dimension, 2 * dimension), nn.GELU(), nn.Linear(2 * dimension, dimension)
        )

    def forward(self, readers: Tensor, read: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return what the readers (B, J, D) find in tokens (B, N, D), padding (B, N) left out: (B, J, D)."""
        found, _ = self.attention(readers, read, read, padding, need_weights=False)  # (B, J, D)
        return found + self.feed_forward(self.norm(found))


class ImageReading(nn.Module):
    """The tokens of an image, moved by what they read in a text: Z' = unit(Z + gate unit(what Z finds in W)).

    The gate, a number for each channel, starts at 0.1: training starts near tokens that have read nothing.
    """

    def __init__(self, dimension: int, heads: int):
        super().__init__()
        self.cross_attention = CrossAttention(dimension, heads)
        self.gate = nn.Parameter(torch.full((dimension,), 0.1))

    def forward(self, tokens: Tensor, words: Tensor, is_word: Tensor) -> Tensor:
        """Return Z', (B, N, D), unit norm, of Z, (B, N, D), and W, (B, J, D), of which (B, J) are words."""
        found = F.normalize(self.cross_attention(tokens, words, ~is_word), dim=-1)  # (B, N, D)
        return F.normalize(tokens + self.gate * found, dim=-1)


class CrossAlignObjective(Objective):
    """L = lambda_tri triplet + alignment + lambda_rn relation for a batch of triplets; `Objective` says what it takes.

    What the texts and the images read with is part of a checkpoint, but not of the exported model.
    """

    settings_class = CrossAlignSettings
    settings: CrossAlignSettings

    def __init__(self, model: CrossAlignModel, settings: CrossAlignSettings | None = None, level: str = "category"):
        super().__init__(model, settings, level)
        width, heads = model.config.projection_dim, self.settings.heads
        if not (self.settings.text_reads or self.settings.images_read):
            return
        if width % heads:
            raise ValueError(f"heads must divide D={width}, got {heads}.")
        if self.settings.text_reads:
            self.text_reading = CrossAttention(width, heads)
        if self.settings.images_read:
            self.image_reading = ImageReading(width, heads)
        words, is_word, counts = class_texts(model, self.settings)
        # Class c owns counts[c] texts from first[c] on.
        self.words = nn.Buffer(words, persistent=False)  # (R, J, D)
        self.is_word = nn.Buffer(is_word, persistent=False)  # (R, J)
        self.counts = nn.Buffer(counts, persistent=False)  # (C,)
        self.first = nn.Buffer(counts.cumsum(0) - counts, persistent=False)  # (C,)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses, each a scalar; `Objective` says what a batch holds.

        They are those of "triplet", "alignment" and "relation" that have a weight, and their weighted total, "loss".
        """
        settings = self.settings
        sketch = self.encode("sketch", {"s": batch["sketch"]}, return_class_embeds=False)["s"]
        photo = self.encode("photo", self.photos(batch), return_class_embeds=False)
        rows, _, keep = self.negatives(batch, sketch.embeds, photo["p"].embeds)
        negative = photo["n" if "n" in photo else "p"]
        s, p, n = sketch.embeds, photo["p"].embeds, negative.embeds[rows]  # (B, D)
        losses: dict[str, Tensor] = {}
        if settings.triplet:
            losses["triplet"] = triplet_loss(s, p, n, settings.margin, cosine_distance, keep)
        tokens = [
            self.model.shared_tokens(states, modality)
            for states, modality in (
                (sketch.tokens, "sketch"),
                (photo["p"].tokens, "photo"),
                (negative.tokens[rows], "photo"),
            )
        ]  # Z: 3 x (B, 1 + P, D)
        found, after = self.exchange(batch["label"], batch["draw"], tokens)
        if settings.alignment:
            compared = ([found] if found else []) + ([[z[:, 0] for z in after]] if after else [])
            terms = [triplet_loss(*each, settings.margin, cosine_distance, keep) for each in compared]
            losses["alignment"] = torch.stack(terms).mean()
        if settings.relation:
            losses["relation"] = self._relation(tokens, after, keep)
        weights = {name: getattr(settings, name) for name in losses}
        return weighted(losses, weights)

    def exchange(self, labels: Tensor, draws: Tensor, images: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return what a text of each row's class finds in each kind of image, and what the images become by reading it.

        Both read the other as it was before the exchange.

        Args:
            labels: (B,) classes of the sketches.
            draws: (B,) random integers, which choose one of the class's texts where it has several.
            images: Z of the sketches, the positive and the negative photos, (B, 1 + P, D) each.

        Returns:
            (B, D) each, unit norm, the mean over the words; and Z', (B, 1 + P, D) each. A list is empty where nobody
            reads in that direction.
        """
        found: list[Tensor] = []
        after: list[Tensor] = []
        if not (self.settings.text_reads or self.settings.images_read):
            return found, after
        text = self.first[labels] + draws % self.counts[labels]  # (B,)
        words, is_word = self.words[text], self.is_word[text]  # (B, J, D), (B, J)
        with torch.autocast(words.device.type, enabled=False):  # results are compared: no half precision
            images = [image.to(words.dtype) for image in images]
            if self.settings.text_reads:
                weights = (is_word / is_word.sum(dim=1, keepdim=True)).to(words.dtype)[..., None]  # (B, J, 1)
                found = [F.normalize((self.text_reading(words, z) * weights).sum(dim=1), dim=-1) for z in images]
            if self.settings.images_read:
                after = [self.image_reading(z, words, is_word) for z in images]
        return found, after

    def _relation(self, tokens: list[Tensor], after: list[Tensor], keep: Tensor | None) -> Tensor:
        """Return the relation network's loss: on the patches after the exchange, and a share on those before it."""
        share = self.settings.text_free if after else 1.0
        total = tokens[0].new_zeros(())
        for weight, forms in ((share, tokens), (1 - share, after)):
            if weight:
                z_s, z_p, z_n = (z[:, 1:] for z in forms)  # (B, P, D)
                loss = relation_loss(self.model.relation(z_s, z_p), self.model.relation(z_s, z_n), keep)
                total = total + weight * loss
        return total


@torch.no_grad()
def class_texts(model: CrossAlignModel, settings: CrossAlignSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Return the texts of the seen classes as tokens of the frozen text tower in the shared space.

    Returns:
        The words of every text, (R, J, D), unit norm; which of them are words and no padding, (R, J); and how many
        texts each class has, (C,), one behind the other in the order of the classes.

    Raises:
        ValueError: if the model names no base CLIP, whose tokenizer reads the sentences, or a class is not described.
    """
    if not model.config.base_model:
        raise ValueError("The base CLIP's tokenizer reads descriptions: set config.base_model to that CLIP.")
    questions = [name.strip() for name in settings.questions.split(",") if name.strip()]
    sentences = descriptions_of(model.config.class_names, settings.descriptions or None, questions)
    tokenizer = AutoTokenizer.from_pretrained(resolve_base(model.config.base_model), trust_remote_code=False)
    context = model.config.clip_config.text_config.max_position_embeddings
    flat = [sentence for own in sentences for sentence in own]
    text = tokenizer(flat, padding=True, truncation=True, max_length=context, return_tensors="pt")
    words = frozen_text_tokens(model.clip, text["input_ids"], text["attention_mask"])  # (S, J, D)
    is_word = text["attention_mask"].bool().to(words.device)  # (S, J)
    counts = [len(own) for own in sentences]
    if settings.text == "one":
        return words, is_word, torch.tensor(counts)
    if settings.text == "sentences":  # EOS, which has read the whole sentence
        is_word = is_word & (is_word.cumsum(dim=1) == is_word.sum(dim=1, keepdim=True))
    own = [rows[mask] for rows, mask in zip(words.split(counts), is_word.split(counts), strict=True)]  # C x (J_c, D)
    padded = [pad_sequence(rows, batch_first=True) for rows in (own, [row.new_ones(len(row)) for row in own])]
    return padded[0], padded[1].bool(), torch.ones(len(own), dtype=torch.long)
