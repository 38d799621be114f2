"""Class prompts as tokens: "[SOS] T_1..T_m sketch of a dog [EOS]" for every seen class, packed into one sequence."""

import json
import math
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clip_backbone import (
    Clip,
    LayerNorms,
    embed_tokens,
    project_text,
    run_device,
    run_text,
    text_norms,
    text_positions,
)
from .configuration_retriever import MODALITIES

# About how many tokens of classes a group has; more if one class alone is longer.
GROUP_TOKENS = 96


class PackedMask(NamedTuple):
    """The masks of a packed sequence, [prefix, group, ..., group], of S = J + G T positions, added to attention logits.

    Each group looks at the prefix and at itself. The result is that of a mask over the whole sequence; the cost grows
    with the number of groups, not with its square. Groups have one length, so that nothing is copied to cut them.

    Attributes:
        prefix: (J, J), for the prefix, which looks at itself.
        groups: (G, 1, T, J + T), for each group, which looks at the prefix and itself.
    """

    prefix: Tensor
    groups: Tensor

    def attend(
        self, attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        """Return the attention of a packed sequence: (B, S, d).

        Args:
            attention: takes queries (N, T, d), keys and values (N, K, d) and a mask; returns (N, T, d).
            q, k, v: (B, S, d) each.
        """
        batch, j = q.shape[0], len(self.prefix)
        count, _, length, _ = self.groups.shape
        own = [tensor[:, j:].unflatten(1, (count, length)) for tensor in (q, k, v)]  # (B, G, T, d) each
        shared = [tensor[:, None, :j].expand(-1, count, -1, -1) for tensor in (k, v)]  # (B, G, J, d) each
        keys, values = (torch.cat(pair, dim=2).flatten(0, 1) for pair in zip(shared, own[1:], strict=True))
        groups = attention(own[0].flatten(0, 1), keys, values, self.groups.repeat(batch, 1, 1, 1))  # (B G, T, d)
        prefix = attention(q[:, :j], k[:, :j], v[:, :j], self.prefix)  # (B, J, d)
        return torch.cat([prefix, groups.unflatten(0, (batch, count)).flatten(1, 2)], dim=1)


class ClassPrompts(NamedTuple):
    """All class prompts of one modality packed into one sequence of S positions.

    The prefix [SOS, T_1..T_m, delta, of, a] comes once, and then the words of every class. Positions restart after the
    prefix, and a word sees the prefix and its own class only. So the result for a class is what it would be alone.
    Classes are put into groups, and attention is computed in each group. All groups are padded to the longest one.

    Attributes:
        token_ids: (S,) with the SOS token as placeholder at the m prompt positions and as padding of the groups.
        positions: (S,) position of each token in its own class prompt.
        mask: 0 where a position may look, -inf elsewhere.
        eos: (C,) index of each class's EOS.
        weights: (S,) the weight of each position in the mean over all classes and their tokens; they sum to 1. A prefix
            token counts once for each class, the m prompts and the padding do not count. With `by_class` it is the mean
            over classes of the means over their tokens. Kept in float64 on the CPU; convert it once, to the dtype of
            the outputs that it is multiplied with.
    """

    token_ids: Tensor
    positions: Tensor
    mask: PackedMask
    eos: Tensor
    weights: Tensor


def pack_class_prompts(
    prefix: list[int], classes: list[list[int]], m: int, device: torch.device, by_class: bool = False
) -> ClassPrompts:
    """Return the prompts of C classes packed into one sequence.

    Args:
        prefix: token ids of the prefix without the m prompts, SOS first.
        classes: for each class the token ids of its own words, EOS last.
        m: number of text prompts.
        device: where the tensors are made, except the weights.
        by_class: weigh every class the same, however many tokens it has.
    """
    token_ids = [prefix[0]] * (1 + m) + prefix[1:]
    j = len(token_ids)
    positions = list(range(j))
    shares = [1 / (len(prefix) + len(ids)) if by_class else 1 for ids in classes]  # how much a token of a class counts
    total = sum(shares)
    counts = [total] + [0] * m + [total] * (len(prefix) - 1)
    eos = [0] * len(classes)
    owners = []  # for each group, which class a position belongs to
    groups = _grouped([len(ids) for ids in classes])
    length = max(sum(len(classes[c]) for c in group) for group in groups)
    for group in groups:
        owner: list[int] = []
        for c in group:
            owner += [c] * len(classes[c])
            token_ids += classes[c]
            positions += range(j, j + len(classes[c]))
            eos[c] = len(token_ids) - 1
        unused = length - len(owner)
        counts += [shares[c] for c in owner] + [0] * unused
        token_ids += [prefix[0]] * unused
        positions += [0] * unused
        owners.append(owner + [-1] * unused)
    weights = torch.tensor(counts, dtype=torch.float64)
    return ClassPrompts(
        torch.tensor(token_ids, device=device),
        torch.tensor(positions, device=device),
        _packed_mask(j, torch.tensor(owners, device=device)),
        torch.tensor(eos, device=device),
        weights / weights.sum(),
    )


def _packed_mask(j: int, owners: Tensor) -> PackedMask:
    """Return the mask of a prefix of J positions and of G groups, given the class of each position: (G, T)."""
    causal = torch.ones(j, j, dtype=torch.bool, device=owners.device).tril()
    own = (owners[:, :, None] == owners[:, None]).tril()  # (G, T, T)
    shared = own.new_ones(*owners.shape, j)  # (G, T, J)
    visible = causal, torch.cat([shared, own], dim=2)[:, None]
    return PackedMask(*(torch.zeros(v.shape, device=v.device).masked_fill(~v, float("-inf")) for v in visible))


def _grouped(lengths: list[int]) -> list[list[int]]:
    """Return the classes in groups of about `GROUP_TOKENS`: from the longest on, each joins the shortest group."""
    groups: list[list[int]] = [[] for _ in range(min(len(lengths), math.ceil(sum(lengths) / GROUP_TOKENS)))]
    totals = [0] * len(groups)
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):
        shortest = totals.index(min(totals))
        groups[shortest].append(c)
        totals[shortest] += lengths[c]
    return groups


def tokenize_class_prompts(
    tokenizer: Any, template: str, class_names: list[str]
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Return the prefix's token ids for each modality (SOS first) and each class's own, EOS last.

    Raises:
        ValueError: if a name is no text, is empty or occurs twice, or the template has no `{class_name}`, or
            `{modality}` after it, or another field.
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


def check_prompt_lengths(config: Any, learned: int) -> None:
    """Raise ValueError if a class prompt is longer than the text tower's context.

    Args:
        config: the model's configuration, with its classes and their token ids.
        learned: how many learned tokens each prompt holds besides its own.
    """
    limit = config.clip_config.text_config.max_position_embeddings
    prefix = max((len(ids) for ids in config.prefix_token_ids.values()), default=0) + learned
    for name, ids in zip(config.class_names, config.class_token_ids, strict=True):
        if prefix + len(ids) > limit:
            own, advice = (f" with m={learned}", ", the template or m") if learned else ("", " or the template")
            raise ValueError(
                f"The prompt of class '{name}' has {prefix + len(ids)} tokens{own}, but the text tower takes "
                f"{limit}: shorten the class name{advice}."
            )


@torch.no_grad()
def frozen_class_embeds(clip: Clip, prefix: list[int], classes: list[list[int]], attention: str = "sdpa") -> Tensor:
    """Return the embeddings of C classes by the frozen text tower, no prompts: (C, D), unit norm."""
    return embed_classes(clip, text_norms(clip), prefix, classes, attention)


def embed_classes(
    clip: Clip, norms: LayerNorms, prefix: list[int], classes: list[list[int]], attention: str = "sdpa"
) -> Tensor:
    """Return the embeddings of C classes by the text tower with these LayerNorms, no prompts: (C, D), unit norm."""
    packed = pack_class_prompts(prefix, classes, 0, run_device(clip))
    x = embed_tokens(clip, packed.token_ids) + text_positions(clip, packed.positions)  # (S, d_t)
    output = run_text(clip, x[None], norms, packed.mask, attention=attention)
    return project_text(clip, norms[-1], output.last[0, packed.eos])
