"""Attention over a packed sequence in blocks: each group of positions looks at a shared prefix and at itself.

It computes what a mask over the whole sequence leaves, and costs what the groups see, not the square of the sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionBlocks(NamedTuple):
    """Which positions of a sequence attend together: each group of rows to a shared prefix and to its own group.

    Attributes:
        rows: (G, T) positions of each group, 0 where it is filled up; the prefix is the first group.
        mask: (G, 1, T, J + T), added to the attention logits of a group over the J prefix positions and its own.
        places: (S,) where each position stands among the G T rows.
        prefix: J.
    """

    rows: Tensor
    mask: Tensor
    places: Tensor
    prefix: int


def attention_blocks(mask: Tensor, groups: Tensor, prefix: int) -> AttentionBlocks:
    """Cut a mask into groups, so that attention costs what the groups see and not the square of the sequence.

    Args:
        mask: (S, S), added to the attention logits.
        groups: (G, T) positions, each once, filled up with -1; the first group holds the prefix, which all may see.
        prefix: J, the prefix's length.
    """
    rows = groups.clamp(min=0)  # (G, T)
    keys = torch.cat([rows[:1, :prefix].expand(len(rows), -1), rows], dim=1)  # (G, J + T)
    unseen = groups < 0
    unseen[0] = True  # the prefix's own keys are those that all share
    beyond = torch.zeros(keys.shape, device=mask.device)
    beyond[:, prefix:].masked_fill_(unseen, float("-inf"))
    blocks = mask[rows[:, :, None], keys[:, None]] + beyond[:, None]  # (G, T, J + T)
    places = torch.zeros(len(mask) + 1, dtype=torch.long, device=mask.device)
    places[torch.where(groups < 0, len(mask), groups).flatten()] = torch.arange(groups.numel(), device=mask.device)
    return AttentionBlocks(rows, blocks[:, None], places[:-1], prefix)


def into_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: AttentionBlocks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return each group's queries, the prefix's and the group's keys and values, and the mask, groups as a batch."""
    count, width = blocks.rows.shape[0], q.shape[2]
    own = [tensor[:, blocks.rows] for tensor in (q, k, v)]  # (B, G, T, d) each
    shared = [tensor[:, None, : blocks.prefix].expand(-1, count, -1, width) for tensor in (k, v)]  # (B, G, J, d) each
    keys, values = (torch.cat(pair, dim=2).flatten(0, 1) for pair in zip(shared, own[1:], strict=True))
    return own[0].flatten(0, 1), keys, values, blocks.mask.repeat(len(q), 1, 1, 1)


def out_of_blocks(attended: Tensor, blocks: AttentionBlocks) -> Tensor:
    """Return what the groups' rows attended to, (B G, T, d), as one sequence again: (B, S, d)."""
    count, rows = blocks.rows.shape
    return attended.reshape(-1, count * rows, attended.shape[2])[:, blocks.places]
