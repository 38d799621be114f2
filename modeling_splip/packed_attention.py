"""Attention over a packed sequence, [prefix, group, ..., group]: each group looks at the prefix and at itself.

The result is that of a mask over the whole sequence. The cost grows with the number of groups, not with its square.
Groups have one length, so that they are views of the sequence and nothing is copied to cut it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class PackedMask(NamedTuple):
    """The masks of a packed sequence of S = J + G T positions, to be added to the attention logits.

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
