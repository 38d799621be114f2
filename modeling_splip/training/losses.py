"""Losses of sketch-based image retrieval as pure functions of embeddings; features are unit-norm, (B, D).

Symbols: s a sketch, p+ its photo (or one of its class), p- another photo, mu a margin, delta the relative distance
d(s, p+) - d(s, p-). The losses of SpLIP (ECCV 2024), of CLIP-AT (CVPR 2023) and of the Cross-Modal Attention Alignment
network (2024).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return ||a - b||^2 of paired rows: (B,), in 0..4 for unit-norm features."""
    return (a - b).square().sum(dim=-1)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - cos(a, b) of paired rows: (B,), in 0..2."""
    return 1 - F.cosine_similarity(a, b, dim=-1)


def adaptive_margins(class_embeds: Tensor) -> Tensor:
    """Return the table mu of SpLIP: (C, C), mu[i, j] = cos(F_t(i), F_t(j)).

    Args:
        class_embeds: (C, D) embeddings of the seen classes by the frozen CLIP text tower; need not be unit-norm.
    """
    unit = F.normalize(class_embeds, dim=-1)
    return unit @ unit.T


def triplet_loss(
    sketch: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: Tensor | float,
    distance: Callable[[Tensor, Tensor], Tensor] = squared_distance,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean of [ d(s, p+) - d(s, p-) + mu ]_+.

    CLIP-AT's patch shuffle is this loss too: of a sketch with permuted tiles, its photo under the same permutation as
    p+, and the photo under another permutation as p-.

    Args:
        sketch, positive, negative: (B, D).
        margin: mu for each triplet, (B,), or one number.
        distance: squared L2 as re-implementations of SpLIP do, or `cosine_distance` as CLIP-AT.
        weight: how much each triplet counts, (B,), at least 0; None for all the same.
    """
    return _mean((distance(sketch, positive) - distance(sketch, negative) + margin).relu(), weight)


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


def contrastive_loss(
    sketch: Tensor,
    photo: Tensor,
    sketch_labels: Tensor,
    photo_labels: Tensor,
    temperature: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Return InfoNCE between sketches and photos, where all images of a class are positives of each other: a scalar.

    For each image the loss is the mean, over its positives in the other modality, of -log softmax(cosine / temperature)
    over all images of the other modality. It is computed from sketches to photos and from photos to sketches, and the
    two are averaged. An image without a positive does not count.

    Source: supervised contrastive learning (Khosla et al., 2020), here across two modalities; the choice is ours.

    Args:
        sketch, photo: unit-norm embeddings (B, D) and (N, D).
        sketch_labels, photo_labels: classes (B,) and (N,).
        temperature: above 0.
        weight: how much each sketch counts as the one that searches, (B,), at least 0; None for all the same.
    """
    with torch.autocast(sketch.device.type, enabled=False):
        logits = _wide(sketch) @ _wide(photo).T / temperature  # (B, N)
        same = (sketch_labels[:, None] == photo_labels[None]).to(logits.dtype)  # (B, N)
        terms = []
        for scores, positive, counts in ((logits, same, weight), (logits.T, same.T, None)):
            count = positive.sum(dim=1)
            mean = (scores.log_softmax(dim=1) * positive).sum(dim=1) / count.clamp(min=1)
            terms.append(-_mean(mean, kept_weights(count > 0, counts)))
        return torch.stack(terms).mean()


def spread_loss(embeds: Tensor) -> Tensor:
    """Return the absolute value of the mean cosine between different rows: a scalar in 0..1.

    It is 0 where the images of a batch point in all directions, and 1 where they have collapsed into one point.

    Source: the regulariser of MCC (IJCAI 2024), with 0 as the mean that is aimed at.

    Args:
        embeds: unit-norm embeddings of one modality, (B, D) with B at least 2.
    """
    with torch.autocast(embeds.device.type, enabled=False):
        cosines = _wide(embeds) @ _wide(embeds).T  # (B, B)
        count = len(embeds)
        return ((cosines.sum() - cosines.trace()) / (count * (count - 1))).abs()


def hard_triplet_loss(embeds: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
    """Return the triplet loss inside one modality, between each image and its hardest partners in the batch.

    p+ is the farthest image of the class, p- the nearest of another class. An image without a partner does not count;
    where none has one the loss is 0.

    Source: batch-hard triplets (Hermans et al., 2017); their use inside a modality is a choice of ours.

    Args:
        embeds: unit-norm embeddings of one modality, (B, D).
        labels: classes (B,).
        margins: mu of every pair of classes, (C, C).
    """
    with torch.no_grad(), torch.autocast(embeds.device.type, enabled=False):
        cosines = _wide(embeds) @ _wide(embeds).T  # (B, B)
        same = labels[:, None] == labels[None]
        partner = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        keep = partner.any(dim=1) & (~same).any(dim=1)
        positive = cosines.masked_fill(~partner, float("inf")).argmin(dim=1)
        negative = cosines.masked_fill(same, float("-inf")).argmax(dim=1)
    margin = margins[labels, labels[negative]]
    return triplet_loss(embeds, embeds[positive], embeds[negative], margin, weight=keep)


def clarity(embeds: Tensor, class_embeds: Tensor, tau: float) -> Tensor:
    """Return 1 - H / log C of frozen CLIP's guess at the class: (B,) in 0..1, 0 where all C classes are as likely.

    H is the entropy of softmax(cos(f, F_t(c)) / tau). A choice of ours.

    Args:
        embeds: unit-norm embeddings by the frozen CLIP, (B, D).
        class_embeds: unit-norm class embeddings by the frozen text tower, (C, D) with C at least 2.
        tau: temperature, above 0.
    """
    with torch.autocast(embeds.device.type, enabled=False):
        logs = (_wide(embeds) @ _wide(class_embeds).T / tau).log_softmax(dim=1)  # (B, C)
        return 1 + (logs.exp() * logs).sum(dim=1) / math.log(logs.shape[1])


def conditional_jigsaw_loss(
    own: Tensor, positive: Tensor, negative: Tensor, labels: Tensor, keep: Tensor | None = None
) -> Tensor:
    """Return L_cjs = CE(F_js(r), y) + mean [ CE(F_js(r+), y) - CE(F_js(r-), y) ]_+ (SpLIP).

    Args:
        own, positive, negative: (B, |Y|) logits of the solver for r, r+ and r-.
        labels: y, (B,), the permutation's index.
        keep: (B,) which rows have a p-; None where all have.
    """
    own, positive, negative = (F.cross_entropy(_wide(x), labels, reduction="none") for x in (own, positive, negative))
    gap = positive - negative  # (B,)
    return own.mean() + _mean(gap.relu(), keep)


def relative_distance_divergence(
    deltas: Tensor, labels: Tensor, form: str = "gaussian", floor: float = 0.05, keep: Tensor | None = None
) -> Tensor:
    """Return L_delta of CLIP-AT: the KL divergence between the classes' distributions of delta.

    It is the mean over all ordered pairs of classes. No source says how a few deltas become a distribution.
    `gaussian`, our choice, is the normal with their mean and variance; it sees a shift between two classes. `softmax`,
    of re-implementations, is the softmax over the sorted deltas of a class, which a shift does not change; classes of
    different sizes are compared at as many quantiles as the smallest class has deltas. A class with a single delta has
    no distribution and is left out. With fewer than two classes the loss is 0.

    Args:
        deltas: (B,) relative distances.
        labels: (B,) classes.
        form: "gaussian" or "softmax".
        floor: standard deviation whose square is added to every class's variance, so that identical deltas do not
            divide by zero.
        keep: (B,) which deltas count; None for all.
    """
    with torch.autocast(deltas.device.type, enabled=False):
        deltas = _wide(deltas)
        if form == "gaussian":
            counted = torch.ones_like(labels, dtype=torch.bool) if keep is None else keep
            same = ((labels[:, None] == labels[None]) & counted).to(deltas.dtype)  # (B, B)
            size = same.sum(dim=1).clamp(min=1)  # (B,), of the row's class
            mean = (same * deltas).sum(dim=1) / size  # (B,)
            variance = (same * (deltas - mean[:, None]).square()).sum(dim=1) / size
            # A class stands in as many rows as it has deltas.
            return divergence_of_normals(mean, variance + floor**2, (counted & (size > 1)) / size)
        if keep is not None:
            deltas, labels = deltas[keep], labels[keep]
        groups = [group for group in (deltas[labels == label] for label in labels.unique()) if len(group) > 1]
        count = len(groups)
        if count < 2:
            return deltas.sum() * 0
        levels = torch.linspace(0, 1, min(len(group) for group in groups), device=deltas.device, dtype=deltas.dtype)
        logs = torch.stack([group.quantile(levels) for group in groups]).log_softmax(dim=1)  # (K, n)
        divergence = (logs.exp()[:, None] * (logs[:, None] - logs[None])).sum(dim=-1)  # (K, K)
        return divergence.sum() / (count * (count - 1))


def divergence_of_normals(mean: Tensor, variance: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean KL divergence over all ordered pairs of K normals: a scalar; 0 for fewer than two.

    Args:
        mean, variance: (K,) each; variances above 0.
        weight: how much each normal counts, (K,), at least 0; None for all the same. Their sum is their number.
    """
    weight = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
    shift = (mean[:, None] - mean[None]).square()  # (K, K)
    ratio = variance[:, None] / variance[None]
    divergence = (ratio - ratio.log() + shift / variance[None] - 1) / 2  # (K, K), 0 on the diagonal
    count = weight.sum()
    return (divergence * weight[:, None] * weight).sum() / (count * (count - 1)).clamp(min=1)


def relation_loss(match: Tensor, other: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean squared error of relation scores, which should be 1 for matching pairs and 0 for others.

    This regression is what is reported of the Cross-Modal Attention Alignment network.

    Args:
        match, other: (B,) scores of pairs that match, and of pairs that do not.
        weight: how much each pair counts, (B,), at least 0; None for all the same.
    """
    return (_mean((1 - match).square(), weight) + _mean(other.square(), weight)) / 2


def hardest_in_class(sketch: Tensor, photo: Tensor, labels: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each sketch the index of the nearest photo in the batch that shows its class but another instance.

    Args:
        sketch, photo: (B, D) paired rows.
        labels, instances: (B,) class and instance of each pair.

    Returns:
        (B,) indices into `photo`, and (B,) whether there is such a photo. Where there is none the index is 0.
    """
    return hardest_in_batch(sketch, photo, (labels[:, None] == labels[None]) & (instances[:, None] != instances[None]))


def hardest_in_batch(sketch: Tensor, photo: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each sketch the index of the nearest of its candidates among the photos.

    Args:
        sketch, photo: (B, D) paired rows.
        candidate: (B, B) which photos a sketch may take.

    Returns:
        (B,) indices into `photo`, and (B,) whether there is a candidate. Where there is none the index is 0.
    """
    with torch.no_grad(), torch.autocast(sketch.device.type, enabled=False):
        similarity = (_wide(sketch) @ _wide(photo).T).masked_fill(~candidate, float("-inf"))
        exists = candidate.any(dim=1)
        index = torch.where(exists, similarity.argmax(dim=1), 0)
        return index, exists


def kept_weights(keep: Tensor | None, weight: Tensor | None) -> Tensor | None:
    """Return weights (B,) that are 0 where a row is not kept; None where all rows count the same.

    Rows are weighed and not picked: how many are picked only the device knows, and the CPU would wait for it.

    Args:
        keep: (B,) which rows count, or None for all.
        weight: (B,) how much, or None for all the same.
    """
    return weight if keep is None else keep if weight is None else keep * weight


def _mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of (B,) values, weighted where there are weights."""
    return values.mean() if weight is None else (values * weight).sum() / weight.sum().clamp(min=1e-6)


def _wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is where it is wider: half precision is too coarse for logits and ranks."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
