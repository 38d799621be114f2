"""Three ways to keep the classes of a text pass apart, measured beside each other: a part of `speed.py`.

    python -m benchmarks.speed --parts packing --device cuda

- `grouped` is what the model does: sequences of about 128 tokens with a mask each (`class_prompts.GROUP_TOKENS`).
- `single` is one sequence of all classes with one mask.
- `flex` is that sequence by FlexAttention, which leaves out blocks of the mask that hide everything.

One run on a card decides: the fastest forward and backward pass at 192 triplets whose means agree. If `grouped` wins,
this file and its part go. If `single` wins, `GROUP_TOKENS`, `_grouped` and the dimension G go from `class_prompts.py`.
If `flex` wins, `attend` below moves to `clip_backbone.py` in place of the masked attention of text. Nothing else in the
package knows which of the three it is.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed_cases import build, text_pass
from benchmarks.timing import Timer
from modeling_splip import class_prompts, modeling_splip
from modeling_splip.class_prompts import ClassPrompts, pack_class_prompts

Patch = tuple[Any, str, Any]  # owner, name, value


def patches(device: str) -> dict[str, list[Patch]]:
    """Return for each way what replaces a part of the model while it runs."""
    known: dict[str, ClassPrompts] = {}

    def one_sequence(*arguments: Any) -> ClassPrompts:
        key = repr(arguments)
        if key not in known:
            with mock.patch.object(class_prompts, "GROUP_TOKENS", 10**9):
                known[key] = pack_class_prompts(*arguments)
        return known[key]

    attend = flex_attention(lambda: next(iter(known.values())).mask, device)
    single: Patch = (modeling_splip, "constant_prompts", one_sequence)
    return {"grouped": [], "single": [single], "flex": [single, (F, "scaled_dot_product_attention", attend)]}


def flex_attention(mask: Callable[[], Tensor], device: str) -> Callable[..., Tensor]:
    """Return what computes attention by FlexAttention, with the places that `mask`, (1, 1, S, S), does not hide."""
    from torch.nn.attention import flex_attention as library

    # Not compiled it is slow, and only tried. On a CPU it has no backward pass.
    compute = torch.compile(library.flex_attention, dynamic=False) if device == "cuda" else library.flex_attention
    blocks: list[Any] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, scale: float) -> Tensor:
        if not blocks:
            visible = mask()[0, 0] == 0  # (S, S)
            length = len(visible)
            blocks.append(
                library.create_block_mask(lambda b, h, i, j: visible[i, j], None, None, length, length, device=device)
            )
        return compute(q, k, v, block_mask=blocks[0], scale=scale)

    return attend


def packing(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Run the text pass of some images each way, with its backward pass on a GPU; compare the means."""
    model, backward = build(args.shape, "image", args.device), args.device == "cuda"
    ways = patches(args.device)
    report: dict[str, Any] = {"backward": backward}

    def work(way: str, images: int) -> Tensor:
        with ExitStack() as stack:
            for patch in ways[way]:
                stack.enter_context(mock.patch.object(*patch))
            stack.enter_context(torch.set_grad_enabled(backward))
            stack.enter_context(torch.autocast(args.device, torch.bfloat16, enabled=backward))
            means = text_pass(model, images)
            if backward:
                means.square().sum().backward()
                model.zero_grad()
        return means.detach()

    for images in args.packed_images:
        expected, found = work("grouped", images), {}
        for way in ways:
            try:
                found[way] = _measured(args, timer, f"packing {images}, {way}", partial(work, way, images))
                found[way]["differs_by"] = float((work(way, images) - expected).abs().max())
            except Exception as error:  # FlexAttention may refuse a shape or a card: the others still count
                found[way] = {"failed": f"{type(error).__name__}: {error}"[:200]}
        report[str(images)] = found
        args.keep(report)
    return report


def _measured(args: argparse.Namespace, timer: Timer, title: str, work: Callable[[], Any]) -> dict[str, Any]:
    gpu = args.device == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = timer.interleave(title, {"": work}, args.slow_repeats)[""]
    peak = round(torch.cuda.max_memory_allocated() / 1e9, 2) if gpu else None
    return {"milliseconds": round(1000 * float(np.median(seconds)), 3), "peak_gb": peak}
