"""Losses of sketch-based image retrieval as pure functions of embeddings; features are unit-norm, (B, D).

Symbols of SpLIP (ECCV 2024): s a sketch, p+ a photo of its class, p- a photo of another class, mu the adaptive margin.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return ||a - b||^2 of paired rows: (B,), in 0..4 for unit-norm features."""
    return (a - b).square().sum(dim=-1)


def adaptive_margins(class_embeds: Tensor) -> Tensor:
    """Return the table mu of SpLIP: (C, C), mu[i, j] = cos(F_t(i), F_t(j)).

    Args:
        class_embeds: (C, D) embeddings of the seen classes by the frozen CLIP text tower; need not be unit-norm.
    """
    unit = F.normalize(class_embeds, dim=-1)
    return unit @ unit.T


def triplet_loss(sketch: Tensor, positive: Tensor, negative: Tensor, margin: Tensor | float) -> Tensor:
    """Return the mean of [ ||s - p+||^2 - ||s - p-||^2 + mu ]_+ (SpLIP; squared distance as re-implementations do).

    Args:
        sketch, positive, negative: (B, D).
        margin: mu for each triplet, (B,), or one number.
    """
    return (squared_distance(sketch, positive) - squared_distance(sketch, negative) + margin).relu().mean()


def class_loss(embeds: Tensor, class_embeds: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Return the cross-entropy of cos(f, F_t(c)) / tau over the seen classes, in float32 or wider also under autocast.

    Args:
        embeds: f, (B, D).
        class_embeds: F_t(c | x), (B, C, D), or (1, C, D) where they do not depend on the image.
        labels: (B,) in 0..C-1.
        tau: temperature, above 0.
    """
    with torch.autocast(embeds.device.type, enabled=False):
        classes = _wide(class_embeds).expand(embeds.shape[0], -1, -1)  # (B, C, D)
        return F.cross_entropy(torch.einsum("bd,bcd->bc", _wide(embeds), classes) / tau, labels)


def conditional_jigsaw_loss(
    own: Tensor, positive: Tensor, negative: Tensor, labels: Tensor, keep: Tensor | None = None
) -> Tensor:
    """Return L_cjs = CE(F_js(r), y) + mean [ CE(F_js(r+), y) - CE(F_js(r-), y) ]_+ (SpLIP).

    Args:
        own, positive, negative: (B, |Y|) logits of the solver for r, r+ and r-.
        labels: y, (B,), the permutation's index.
        keep: (B,) which rows have a p-; all by default.
    """
    own, positive, negative = (F.cross_entropy(_wide(x), labels, reduction="none") for x in (own, positive, negative))
    gap = positive - negative  # (B,)
    return own.mean() + (gap if keep is None else gap[keep]).relu().mean()


def hardest_in_class(sketch: Tensor, photo: Tensor, labels: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each sketch the index of the nearest photo in the batch of its class but of another instance.

    Args:
        sketch, photo: (B, D) paired rows.
        labels, instances: (B,) class and instance of each pair.

    Returns:
        (B,) indices into `photo`, and (B,) whether there is such a photo; where there is none the index is 0.
    """
    with torch.no_grad(), torch.autocast(sketch.device.type, enabled=False):
        candidate = (labels[:, None] == labels[None]) & (instances[:, None] != instances[None])  # (B, B)
        similarity = (_wide(sketch) @ _wide(photo).T).masked_fill(~candidate, float("-inf"))
        exists = candidate.any(dim=1)
        index = torch.where(exists, similarity.argmax(dim=1), 0)
        return index, exists


def _wide(x: Tensor) -> Tensor:
    """Return x in float32 or wider: half-precision logits and ranks are not good enough."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
