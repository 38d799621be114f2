"""The attention of a CLIP layer: of a sequence over itself, and over the keys and values of a layer's prompts.

The sequence comes first, (N, B, d): so keys and values behind those of prompts are one block of memory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Keys and values of a layer's prompts: (2, K, B or 1, d).
KeyValue = Tensor


class KeyValueRoom:
    """Room for a layer's keys and values behind those of its prompts; the layers of one call use it in turn.

    An image's own keys and values are projected into it, so that they are not copied to stand behind the prompts'.
    Without gradients only: the backward pass would need what the next layer overwrites.
    """

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def fill(self, module: Any, x: Tensor, extra: KeyValue, like: Tensor) -> Tensor:
        """Return the keys and values of a sequence behind those of prompts: (2, K + N, B, d).

        Args:
            module: the layer's attention.
            x: (N, B, d).
            extra: (2, K, B or 1, d).
            like: a tensor of the shape, device and dtype of the keys of x.
        """
        k, n = extra.shape[1], like.shape[0]
        if self._room is None or self._room.shape[1] != k + n:
            self._room = like.new_empty(2, k + n, *like.shape[1:])
        prompts, own = self._room.split([k, n], dim=1)
        prompts.copy_(extra)
        for linear, place in zip((module.k_proj, module.v_proj), own.unbind(), strict=True):
            if _is_plain(linear):
                weight, bias = (part.to(place.dtype) for part in (linear.weight, linear.bias))  # as autocast does
                torch.addmm(bias, x.to(place.dtype).flatten(0, 1), weight.t(), out=place.flatten(0, 1))
            else:
                place.copy_(linear(x))
        return self._room


def _is_plain(linear: Any) -> bool:
    """Return whether a layer computes x W^T + b and nothing else: no adapter, no hook, no quantised or missing part."""
    parts = type(linear) is nn.Linear and {type(linear.weight), type(linear.bias)} == {nn.Parameter}
    return parts and not (linear._forward_hooks or linear._forward_pre_hooks or "forward" in vars(linear))


def linear_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a linear layer gives for x: under autocast another one than its own."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def attend(
    module: Any,
    x: Tensor,
    mask: Tensor | None,
    extra: KeyValue | None,
    room: KeyValueRoom | None,
    eager: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the attention of a sequence over its prompts and itself, and its weights.

    Args:
        module: the layer's attention.
        x: (N, B, d).
        mask: broadcasts to (B, heads, N, N), added to the logits: 0 where a row may look, -inf elsewhere.
        extra: keys and values of prompts, (2, K, B or 1, d).
        room: where keys and values are put together, without gradients; None to copy them.
        eager: whether to compute it step by step, which gives the weights.

    Returns:
        (N, B, d), and if eager (B, heads, N, K + N) with the prompts first.
    """
    x = x if room is None else x.to(linear_dtype(x))  # once; autocast would do it in every projection
    q = module.q_proj(x)  # (N, B, d)
    if extra is not None and room is not None:
        k, v = room.fill(module, x, extra, q)  # (K + N, B, d) each
    else:
        k, v = module.k_proj(x), module.v_proj(x)  # (N, B, d) each
        if extra is not None:
            # Contiguous, because a GPU joins other tensors element by element.
            prompts = extra.to(k.dtype).expand(-1, -1, x.shape[1], -1).contiguous().unbind()  # (K, B, d) each
            k, v = (torch.cat(pair) for pair in zip(prompts, (k, v), strict=True))  # (K + N, B, d) each
    q, k, v = (tensor.unflatten(-1, (module.num_heads, -1)).permute(1, 2, 0, 3) for tensor in (q, k, v))
    # (B, heads, N or K + N, d / heads)
    mask = None if mask is None else mask.to(q.dtype)
    weights = None
    if eager:
        logits = q @ k.transpose(-1, -2) * module.scale
        logits = logits if mask is None else logits + mask
        weights = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
        attended = weights @ v
    else:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=module.scale)
    return module.out_proj(attended.permute(2, 0, 1, 3).flatten(2)), weights
