"""Permuted tiles: the jigsaw of SpLIP with its solver, and the permutations of CLIP-AT's patch shuffle."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CANDIDATES = 2000


def permutation_set(grid: int, count: int, seed: int = 0) -> Tensor:
    """Return `count` permutations of grid^2 tiles that differ as much as possible: (count, grid^2), no identity.

    Permutations are chosen one after the other: the next one has the largest Hamming distance to the nearest of those
    already chosen. The identity counts as already chosen. Where there are few permutations (grid 2) all of them are
    candidates, otherwise a seeded sample. This choice without the identity is what re-implementations of SpLIP do.

    Raises:
        ValueError: if there are not that many permutations.
    """
    tiles = grid * grid
    possible = math.factorial(tiles) - 1
    if grid < 2 or count < 1 or count > possible:
        raise ValueError(f"A {grid} x {grid} grid has {possible} permutations besides the identity, asked {count}.")
    candidates = _all_permutations(tiles) if possible < _CANDIDATES else _sample_permutations(tiles, count, seed)
    nearest = (candidates != np.arange(tiles)).sum(axis=1)  # Hamming distance to the nearest chosen one
    chosen = []
    for _ in range(count):
        best = int(nearest.argmax())
        chosen.append(candidates[best])
        nearest = np.minimum(nearest, (candidates != candidates[best]).sum(axis=1))
    return torch.from_numpy(np.stack(chosen)).long()


def smallest_distance(permutations: Tensor) -> int:
    """Return in how many tiles the two most similar permutations differ, the identity among them.

    Args:
        permutations: (count, g^2).
    """
    rows = torch.cat([torch.arange(permutations.shape[1])[None], permutations.cpu()])  # (1 + count, g^2)
    return min(int((rows[i + 1 :] != rows[i]).sum(dim=1).min()) for i in range(len(rows) - 1))


def permute_tiles(images: Tensor, permutations: Tensor, grid: int) -> Tensor:
    """Return the images with their grid x grid tiles permuted: (B, 3, H, W).

    Output tile i is input tile permutations[b, i], tiles counted row by row. Where H or W is no multiple of the grid
    the image is resized up to the next one (bilinear) and back.

    Args:
        images: (B, 3, H, W).
        permutations: (B, grid^2).
    """
    height, width = images.shape[-2:]
    target = (-(-height // grid) * grid, -(-width // grid) * grid)
    x = images if target == (height, width) else F.interpolate(images, target, mode="bilinear", align_corners=False)
    rows, columns = target[0] // grid, target[1] // grid
    tiles = x.unflatten(2, (grid, rows)).unflatten(4, (grid, columns))  # (B, 3, g, rows, g, columns)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, g^2, 3, rows, columns)
    batch = torch.arange(len(images), device=images.device)[:, None]
    tiles = tiles[batch, permutations].unflatten(1, (grid, grid))  # (B, g, g, 3, rows, columns)
    x = tiles.permute(0, 3, 1, 4, 2, 5).reshape(*images.shape[:2], *target)
    return x if target == (height, width) else F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def two_permutations(draws: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return two different indices in 0..count-1, (B,) each, for each of the random integers `draws`, (B,)."""
    first = draws % count
    return first, (first + 1 + draws // count % (count - 1)) % count


class JigsawSolver(nn.Module):
    """F_js: a two-layer transformer encoder over a pair of embeddings, then a classifier over the permutations.

    The two layers and the classifier are the paper's. Our choices are the 8 heads, the learned position embeddings of
    the two members, and that the classifier reads the mean over the pair. The solver is part of a checkpoint, but not
    of the exported model.

    Args:
        dimension: D of the embeddings.
        count: |Y|, the number of permutations.
        heads: the most attention heads; the largest number up to it that divides D is taken.
    """

    def __init__(self, dimension: int, count: int, heads: int = 8):
        super().__init__()
        heads = max(h for h in range(1, heads + 1) if dimension % h == 0)
        layer = nn.TransformerEncoderLayer(
            dimension, heads, 4 * dimension, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.place = nn.Parameter(torch.randn(2, dimension) * dimension**-0.5)
        self.classifier = nn.Linear(dimension, count)

    def forward(self, image: Tensor, permuted: Tensor) -> Tensor:
        """Return logits over the permutations, (B, |Y|), for r = [F_v(image), F_v(permuted)], each (B, D).

        It runs without autocast: it is small, and its logits are compared with each other.
        """
        with torch.autocast(image.device.type, enabled=False):
            pair = torch.stack([image, permuted], dim=1).to(self.place.dtype) + self.place  # (B, 2, D)
            return self.classifier(self.encoder(pair).mean(dim=1))


def _all_permutations(tiles: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(tiles))))[1:]


def _sample_permutations(tiles: int, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sample = rng.permuted(np.tile(np.arange(tiles), (max(_CANDIDATES, 20 * count), 1)), axis=1)
    unique = np.unique(sample, axis=0)
    return unique[(unique != np.arange(tiles)).any(axis=1)]
