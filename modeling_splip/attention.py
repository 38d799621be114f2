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
    Without gradients only: the backward pass would need what the next layer overwrites. Its views are made once, since
    for small batches the processor's work counts.

    Args:
        dtype: of what the linear layers give.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._shape: tuple[int, ...] = ()

    def _make(self, k: int, x: Tensor, heads: int) -> None:
        n, batch, width = x.shape
        room = x.new_empty(2, k + n, batch, width, dtype=self.dtype)
        self._prompts, own = room.split([k, n], dim=1)
        self._places = own.flatten(1, 2).unbind()  # (N B, d) each
        by_head = room.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1, 4)
        self._keys_values = by_head.unbind()  # (B, heads, K + N, d / heads) each
        self._shape = k, n, batch, width

    def fill(self, module: Any, x: Tensor, extra: KeyValue) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a sequence behind those of prompts: (B, heads, K + N, d / heads) each.

        Args:
            module: the layer's attention.
            x: (N, B, d), of the room's dtype.
            extra: (2, K, B or 1, d).
        """
        if self._shape != (extra.shape[1], *x.shape):
            self._make(extra.shape[1], x, module.num_heads)
        self._prompts.copy_(extra)
        flat = x.flatten(0, 1)
        for linear, place in zip((module.k_proj, module.v_proj), self._places, strict=True):
            if _is_plain(linear):
                weight, bias = linear.weight, linear.bias
                if weight.dtype != self.dtype:  # under autocast
                    weight, bias = weight.to(self.dtype), bias.to(self.dtype)
                torch.addmm(bias, flat, weight.t(), out=place)
            else:
                place.copy_(linear(x).flatten(0, 1))
        return self._keys_values


def _is_plain(linear: Any) -> bool:
    """Return whether a layer computes x W^T + b and nothing else: no adapter, no hook, no quantised or missing part."""
    own = vars(linear)
    if type(linear) is not nn.Linear or own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own:
        return False
    return all(type(part) is nn.Parameter for part in own["_parameters"].values())


def linear_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a linear layer gives for x: under autocast another one than its own."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def _by_head(x: Tensor, heads: int) -> Tensor:
    """Return (N, B, d) as (B, heads, N, d / heads)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).permute(1, 2, 0, 3)


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
    if room is not None:
        x = x.to(room.dtype)  # once; autocast would do it in every projection
    q = module.q_proj(x)  # (N, B, d)
    if extra is not None and room is not None:
        k, v = room.fill(module, x, extra)
    else:
        k, v = module.k_proj(x), module.v_proj(x)  # (N, B, d) each
        if extra is not None:
            # Contiguous, because a GPU joins other tensors element by element.
            prompts = extra.to(k.dtype).expand(-1, -1, x.shape[1], -1).contiguous().unbind()  # (K, B, d) each
            k, v = (torch.cat(pair) for pair in zip(prompts, (k, v), strict=True))  # (K + N, B, d) each
        k, v = _by_head(k, module.num_heads), _by_head(v, module.num_heads)
    q = _by_head(q, module.num_heads)
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
