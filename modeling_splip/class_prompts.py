"""CLIP's text tower, and class prompts, "[SOS] T_1..T_m sketch of a dog [EOS]", of all seen classes packed for it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .clip_backbone import (
    Clip,
    KeyValue,
    LayerNorms,
    TowerOutput,
    encoder_layer,
    linear_dtype,
    project,
    run_device,
    tower_output,
)

# About how many tokens of classes a group has; more if one class alone is longer. Small groups repeat the prefix often,
# in large ones attention costs more. Up to about 256 makes no great difference.
GROUP_TOKENS = 128
# Rows of a mask start at multiples of this many numbers, as the fused attention of GPUs wants; otherwise each layer
# would copy the mask.
MASK_ALIGNMENT = 8
MOST_KEPT = 16  # packed prompts, and lists of ids, that are kept at a time


def text_norms(clip: Clip) -> list[nn.LayerNorm]:
    """Return the text tower's 2 L_t + 1 LayerNorms: two a layer, and the one after them."""
    tower = clip.text_model
    inner = [norm for layer in tower.encoder.layers for norm in (layer.layer_norm1, layer.layer_norm2)]
    return [*inner, tower.final_layer_norm]


def embed_tokens(clip: Clip, token_ids: Tensor) -> Tensor:
    """Return token embeddings without positions: (..., d_t)."""
    return clip.text_model.embeddings.token_embedding(token_ids)


def text_positions(clip: Clip, positions: Tensor) -> Tensor:
    """Return the text tower's position embeddings: (..., d_t)."""
    return clip.text_model.embeddings.position_embedding(positions)


def run_text(
    clip: Clip,
    embeddings: Tensor,
    norms: LayerNorms,
    mask: Tensor,
    text_prompts: Tensor | None = None,
    depth: int | None = None,
    attention: str = "sdpa",
) -> TowerOutput:
    """Run the text layers; the input of each of the first `depth` layers has T at positions 1..m.

    Args:
        embeddings: (B, S, d_t) tokens with positions; with text prompts, positions 1..m hold placeholders.
        norms: 2 L_t + 1 LayerNorms in the order of `text_norms`.
        mask: (S, S), or (G, 1, S, S) for B / G sequences each, added to the logits: 0 where a row may look, else -inf.
        text_prompts: T, (B, m, d_t), or None.
        depth: how many layers have text prompts; None for all.
        attention: "sdpa" or "eager".
    """
    x = embeddings.transpose(0, 1).contiguous()  # (S, B, d_t)
    mask = aligned_mask(mask, x.shape[1], linear_dtype(x))  # here, since in every layer it would be copied again
    if text_prompts is not None:
        text_prompts = text_prompts.to(x.dtype).transpose(0, 1)  # (m, B, d_t)
    states = [x.transpose(0, 1)]
    for index, layer in enumerate(clip.text_model.encoder.layers):
        if text_prompts is not None and (depth is None or index < depth):
            m = text_prompts.shape[0]
            first, _, rest = x.split([1, m, x.shape[0] - 1 - m])
            x = torch.cat([first, text_prompts, rest])  # (S, B, d_t)
        x, _ = encoder_layer(layer, norms[2 * index], norms[2 * index + 1], mask, attention == "eager", x)
        states.append(x.transpose(0, 1))
    return tower_output(states, [])


def aligned_mask(mask: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """Return the masks of `batch` sequences in aligned rows: (B, 1, S, S), or (1, 1, S, S) where there is only one.

    Args:
        mask: (S, S) or (G, 1, S, S), as `run_text` takes it; B is a multiple of G.
        batch, dtype: B, and the dtype of the result.
    """
    mask = mask[None, None] if mask.ndim == 2 else mask
    groups, _, rows, columns = mask.shape
    copies = 1 if groups == 1 else batch // groups
    aligned = all(stride % MASK_ALIGNMENT == 0 for stride in mask.stride()[:-1]) and mask.stride(-1) == 1
    if copies == 1 and mask.dtype == dtype and aligned:
        return mask
    width = -(-columns // MASK_ALIGNMENT) * MASK_ALIGNMENT
    room = mask.new_empty(groups, copies, 1, rows, width, dtype=dtype)[..., :columns]
    return room.copy_(mask[:, None].expand(-1, copies, -1, -1, -1)).flatten(0, 1)  # a view, with room between rows


def project_text(clip: Clip, norm: nn.LayerNorm, eos: Tensor) -> Tensor:
    """Return F_t, (..., D), from the EOS outputs (..., d_t)."""
    return project(clip.text_projection, norm, eos)


class ClassPrompts(NamedTuple):
    """All class prompts of one modality, packed into G sequences of S positions.

    Each holds the prefix [SOS, T_1..T_m, delta, of, a] and then the words of a group of classes, padded to the longest
    group. Positions restart after the prefix, and a word sees the prefix and its own class only. So the result for a
    class is what it would be alone.

    Attributes:
        token_ids: (G, S) with the SOS token as placeholder at the m prompt positions and as padding.
        positions: (G, S) position of each token in its own class prompt.
        mask: (G, 1, S, S), 0 where a position may look, -inf elsewhere.
        eos: (C,) index of each class's EOS among the G S positions.
        weights: (G S,) the weight of each position in the mean over all classes and their tokens; they sum to 1. A
            prefix token counts once for each class, the m prompts and the padding do not count. With `by_class` it is
            the mean over classes of the means over their tokens.
    """

    token_ids: Tensor
    positions: Tensor
    mask: Tensor
    eos: Tensor
    weights: Tensor


class _Layout(NamedTuple):
    """What `ClassPrompts` holds as numbers: for every group a row, and for every class its EOS."""

    token_ids: list[list[int]]
    positions: list[list[int]]
    owners: list[list[int]]  # which class a position belongs to, -1 for the prefix, -2 for padding
    eos: list[int]
    counts: list[list[float]]


def pack_class_prompts(
    prefix: Sequence[int],
    classes: Sequence[Sequence[int]],
    m: int,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
    by_class: bool = False,
) -> ClassPrompts:
    """Return the prompts of C classes packed into a few sequences.

    Args:
        prefix: token ids of the prefix without the m prompts, SOS first.
        classes: for each class the token ids of its own words, EOS last.
        m: number of text prompts.
        device: where the tensors are made.
        dtype: of the weights, which are computed in float64 and rounded once.
        by_class: weigh every class the same, however many tokens it has.
    """
    layout = _layout(prefix, classes, m, by_class)
    rows = torch.tensor([layout.token_ids, layout.positions, layout.owners], device="cpu").to(device)
    token_ids, positions, owners = rows.unbind()  # (G, S) each
    eos = torch.tensor(layout.eos, device="cpu").to(device)
    weights = torch.tensor(layout.counts, dtype=torch.float64, device="cpu").flatten()
    weights = (weights / weights.sum()).to(dtype).to(device)
    return ClassPrompts(token_ids, positions, _mask(owners), eos, weights)


def constant(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function `make` with its last results kept: tensors that nobody may change.

    So a GPU gets them once, and never waits for them. Compiled code holds them as constants on their device; made in
    it, they would be tensors on the CPU, with which no CUDA graph can be recorded.
    """
    kept: dict[str, Any] = {}

    def known(*arguments: Any) -> Any:
        key = repr(arguments)
        if key in kept:
            return kept[key]
        with torch.inference_mode(False):  # a training may need them later
            made = make(*arguments)
        if len(kept) >= MOST_KEPT:
            kept.clear()
        if all(type(each) is Tensor for each in made):  # while a model is exported, tensors have no content
            kept[key] = made
        return made

    return torch.compiler.assume_constant_result(known)


constant_prompts = constant(pack_class_prompts)
constant_ids = constant(lambda ids, device: (torch.tensor(ids, dtype=torch.long, device="cpu").to(device),))


def _layout(prefix: Sequence[int], classes: Sequence[Sequence[int]], m: int, by_class: bool) -> _Layout:
    """Return which token stands where; the arguments are those of `pack_class_prompts`."""
    shared = [prefix[0]] * (1 + m) + list(prefix[1:])
    j = len(shared)
    shares = [1 / (len(prefix) + len(ids)) if by_class else 1.0 for ids in classes]  # of a token of each class
    groups = _grouped([len(ids) for ids in classes])
    length = j + max(sum(len(classes[c]) for c in group) for group in groups)
    layout = _Layout([], [], [], [0] * len(classes), [])
    for number, group in enumerate(groups):
        token_ids, positions, owners = list(shared), list(range(j)), [-1] * j
        # The prefix is the same in every group; the first one's counts.
        own = 0.0 if number else sum(shares)
        counts = [own] + [0.0] * m + [own] * (len(prefix) - 1)
        for c in group:
            token_ids += classes[c]
            positions += range(j, j + len(classes[c]))
            owners += [c] * len(classes[c])
            counts += [shares[c]] * len(classes[c])
            layout.eos[c] = number * length + len(token_ids) - 1
        unused = length - len(token_ids)
        layout.token_ids.append(token_ids + [prefix[0]] * unused)
        layout.positions.append(positions + [0] * unused)
        layout.owners.append(owners + [-2] * unused)
        layout.counts.append(counts + [0.0] * unused)
    return layout


def _mask(owners: Tensor) -> Tensor:
    """Return the mask of G sequences, given the class of each position, (G, S): (G, 1, S, S)."""
    visible = (owners[:, :, None] == owners[:, None]) | (owners[:, None] == -1)  # (G, S, S)
    hidden = ~visible.tril()[:, None]  # (G, 1, S, S)
    mask = torch.zeros(hidden.shape, device=owners.device).masked_fill(hidden, float("-inf"))
    return aligned_mask(mask, len(mask), mask.dtype)


def _grouped(lengths: list[int]) -> list[list[int]]:
    """Return the classes in groups of about `GROUP_TOKENS`: from the longest on, each joins the shortest group."""
    groups: list[list[int]] = [[] for _ in range(min(len(lengths), math.ceil(sum(lengths) / GROUP_TOKENS)))]
    totals = [0] * len(groups)
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):
        shortest = totals.index(min(totals))
        groups[shortest].append(c)
        totals[shortest] += lengths[c]
    return groups


@torch.no_grad()
def frozen_class_embeds(clip: Clip, prefix: list[int], classes: list[list[int]], attention: str = "sdpa") -> Tensor:
    """Return the embeddings of C classes by the frozen text tower, no prompts: (C, D), unit norm."""
    return embed_classes(clip, text_norms(clip), prefix, classes, attention)


def embed_classes(
    clip: Clip, norms: LayerNorms, prefix: list[int], classes: list[list[int]], attention: str = "sdpa"
) -> Tensor:
    """Return the embeddings of C classes by the text tower with these LayerNorms, no prompts: (C, D), unit norm."""
    packed = constant_prompts(prefix, classes, 0, run_device(clip))
    x = embed_tokens(clip, packed.token_ids) + text_positions(clip, packed.positions)  # (G, S, d_t)
    output = run_text(clip, x, norms, packed.mask, attention=attention)
    return project_text(clip, norms[-1], output.last.flatten(0, 1)[packed.eos])


def frozen_text_embeds(clip: Clip, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the text embeddings of plain CLIP: (N, D), unit norm, float32 or wider, without gradients."""
    with torch.no_grad():
        output = clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        features = output if isinstance(output, Tensor) else output.pooler_output
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


@torch.no_grad()
def frozen_text_tokens(clip: Clip, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return all tokens of plain CLIP's text tower in the shared space, (N, J, D): unit norm; 0 where padded."""
    device = run_device(clip)
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    states = clip.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (N, J, d_t)
    tokens = F.normalize(clip.text_projection(states), dim=-1)  # (N, J, D); the last LayerNorm is in the states
    return tokens.float() * attention_mask[..., None]


def prompt_key_values(clip: Clip, norms: LayerNorms, visual_prompts: Sequence[Tensor | None]) -> list[KeyValue | None]:
    """Return the keys and values of each vision layer's prompts, (2, K, B or 1, d_v); None where it has no prompts.

    The layer's output at a prompt is dropped. So the layer's first LayerNorm and its key and value projections are all
    that ever read a prompt.

    Args:
        norms: the vision LayerNorms in the order of `vision_norms`.
        visual_prompts: for each layer (B or 1, K, d_v) or None.
    """
    pairs: list[Tensor] = []
    for index, (layer, prompt) in enumerate(zip(clip.vision_model.encoder.layers, visual_prompts, strict=True)):
        if prompt is not None:
            normed = norms[1 + 2 * index](prompt.transpose(0, 1))  # (K, B or 1, d_v)
            pairs += [layer.self_attn.k_proj(normed), layer.self_attn.v_proj(normed)]
    found = iter(torch.stack(pairs).split(2) if pairs else ())  # (2, K, B or 1, d_v) each
    return [None if prompt is None else next(found) for prompt in visual_prompts]
