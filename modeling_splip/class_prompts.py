"""Class prompts as tokens: "[SOS] T_1..T_m sketch of a dog [EOS]" for every seen class, packed into one sequence."""

import json
import string
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clip_backbone import Clip, embed_tokens, project_text, run_text, text_norms, text_positions
from .configuration_retriever import MODALITIES
from .packed_attention import AttentionBlocks, attention_blocks

GROUP_TOKENS = 16  # how many tokens of classes attention takes together, more where one class is longer


class ClassPrompts(NamedTuple):
    """All class prompts of one modality packed into one sequence of S positions.

    The prefix [SOS, T_1..T_m, delta, of, a] stands once, then come every class's own words. Positions restart after the
    prefix and a word sees the prefix and its own class only, so that every class reads exactly what it would alone.

    Attributes:
        token_ids: (S,) with the SOS token as placeholder at the m prompt positions.
        positions: (S,) position of each token in its own class prompt.
        mask: (S, S), 0 where row i may look at column j, -inf elsewhere.
        prefix: J, the length of the prefix.
        groups: (G, T) the positions in groups: the prefix first, then some whole classes each, filled up with -1. No
            row looks beyond the prefix and its own group, and attention computes no more than that.
        eos: (C,) index of each class's EOS.
        weights: (S,) sum to 1: the mean over all classes and their tokens but the m prompts; a prefix token, which
            stands here once, counts once for each class. On the CPU in float64: round it once, to the type it meets.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    prefix: int
    groups: Tensor
    eos: Tensor
    weights: Tensor

    def blocks(self) -> AttentionBlocks:
        """Return what attention needs: the mask, cut into the groups."""
        return attention_blocks(self.mask, self.groups, self.prefix)


def pack_class_prompts(prefix: list[int], classes: list[list[int]], m: int, device: torch.device) -> ClassPrompts:
    """Pack the prompts of C classes, given the prefix's token ids (SOS first) and each class's own, EOS last."""
    head = [prefix[0]] + [prefix[0]] * m + prefix[1:]
    lengths = [len(ids) for ids in classes]
    token_ids = torch.tensor(head + [token for ids in classes for token in ids], device=device)  # (S,)
    own = [position for length in lengths for position in range(len(head), len(head) + length)]
    positions = torch.tensor([*range(len(head)), *own], device=device)  # (S,)
    owner = torch.tensor([-1] * len(head) + [c for c, k in enumerate(lengths) for _ in range(k)], device=device)  # (S,)
    visible = (owner[None] == -1) | (owner[None] == owner[:, None])  # (S, S)
    visible &= torch.ones_like(visible).tril()
    mask = torch.zeros(visible.shape, device=device).masked_fill(~visible, float("-inf"))  # (S, S)
    groups = torch.tensor(_grouped(len(head), lengths), device=device)  # (G, T)
    eos = len(head) - 1 + torch.tensor(lengths, device=device).cumsum(0)  # (C,)
    counts = torch.ones(len(token_ids), dtype=torch.float64)
    counts[: len(head)] = len(classes)
    counts[1 : 1 + m] = 0
    return ClassPrompts(token_ids, positions, mask, len(head), groups, eos, counts / counts.sum())


def _grouped(prefix: int, lengths: list[int]) -> list[list[int]]:
    """Return the positions of the prefix and of whole classes in groups of about `GROUP_TOKENS`, filled up with -1."""
    groups: list[list[int]] = [list(range(prefix)), []]
    start = prefix
    for length in lengths:
        if len(groups[-1]) + length > GROUP_TOKENS and groups[-1]:
            groups.append([])
        groups[-1] += range(start, start + length)
        start += length
    longest = max(map(len, groups))
    return [group + [-1] * (longest - len(group)) for group in groups if group]


def tokenize_class_prompts(
    tokenizer: Any, template: str, class_names: list[str]
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Return the prefix's token ids for each modality (SOS first) and each class's own, EOS last.

    Raises:
        ValueError: if a name is empty or occurs twice, or the template lacks `{class_name}` or has `{modality}` behind.
    """
    for name in class_names:
        if not isinstance(name, str):
            raise ValueError(f"class_names must hold texts, got {name!r}.")
        if not name.strip():
            raise ValueError("class_names holds an empty name: every seen class needs a readable one.")
        if class_names.count(name) > 1:
            raise ValueError(f"class_names holds '{name}' more than once: names must be unique.")
    before, found, after = template.partition("{class_name}")
    if not found or "{modality}" in after:
        raise ValueError(f"template must hold {{class_name}}, {{modality}} only before it, got {json.dumps(template)}.")
    fields = {name for _, name, _, _ in string.Formatter().parse(before) if name is not None}
    if fields - {"modality"}:
        raise ValueError(f"template may hold {{class_name}} and {{modality}} only, got {json.dumps(template)}.")
    prefixes = {mod: tokenizer(before.format(modality=mod).strip())["input_ids"][:-1] for mod in MODALITIES}
    suffixes = [tokenizer((name + after).strip())["input_ids"][1:] for name in class_names]
    return prefixes, suffixes


@torch.no_grad()
def frozen_class_embeds(clip: Clip, prefix: list[int], classes: list[list[int]], attention: str = "sdpa") -> Tensor:
    """Return the embeddings of C classes by the frozen text tower, no prompts: (C, D), unit norm."""
    norms = text_norms(clip)
    packed = pack_class_prompts(prefix, classes, 0, clip.logit_scale.device)
    x = embed_tokens(clip, packed.token_ids) + text_positions(clip, packed.positions)  # (S, d_t)
    output = run_text(clip, x[None], norms, packed.blocks(), attention=attention)
    return project_text(clip, norms[-1], output.last[0, packed.eos])
