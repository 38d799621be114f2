"""The operations on arrays that the metrics need, in torch, so that they run on a GPU."""

from typing import Any

import numpy as np
import torch

from ..metrics.arrays import NUMPY, NumpyArrays


class TorchArrays(NumpyArrays):
    """torch's form of `NumpyArrays`, on one device.

    Dot products are added up in float64 and then rounded to the type of the scores, as NumPy's are: so both rank the
    same scores, and no setting of torch that allows less precise products changes a result.

    Args:
        device: where arrays lie; it must know float64.
    """

    block_scale = 8

    def __init__(self, device: str | torch.device):
        self.device = torch.device(device)

    def array(self, values: np.ndarray) -> torch.Tensor:
        """Return NumPy values as a tensor on the device."""
        return torch.as_tensor(np.ascontiguousarray(values), device=self.device)

    def numpy(self, values: torch.Tensor) -> np.ndarray:
        """Return a tensor as NumPy's array."""
        return values.cpu().numpy()

    def empty(self, shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """Return room of the type of another tensor."""
        return like.new_empty(shape)

    def zeros(self, shape: tuple[int, ...], kind: type) -> torch.Tensor:
        """Return zeros of 64 bits, or False where `kind` is bool."""
        return torch.zeros(shape, dtype=torch.bool if kind is bool else torch.int64, device=self.device)

    def count(self, number: int) -> torch.Tensor:
        """Return 1, 2, ..., number."""
        return torch.arange(1, number + 1, device=self.device)

    def product(self, queries: np.ndarray, photos: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Return the dot products of NumPy's queries (b, D) and of photos (N, D), in `out`, (b, N)."""
        # Rounded as the photos are, before the product.
        return out.copy_(self.array(queries).to(photos.dtype).double() @ photos.double().T)

    def sort(self, values: torch.Tensor) -> torch.Tensor:
        """Return the rows sorted, smallest first and NaN last."""
        return values.sort(dim=1).values

    def sort_in_place(self, values: torch.Tensor) -> torch.Tensor:
        """Return the same."""
        return self.sort(values)

    def below(self, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return how many numbers of a sorted row are smaller than each value of the same row."""
        return torch.searchsorted(rows.contiguous(), values.contiguous())

    def at(self, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return in each row the values at these places, of the last column where a place is behind it."""
        return values.gather(1, places.clamp(max=values.shape[1] - 1))

    def flip(self, values: torch.Tensor) -> torch.Tensor:
        """Return the columns in reverse order."""
        return values.flip(1)

    def where(self, condition: torch.Tensor, yes: Any, no: Any) -> torch.Tensor:
        """Return one value or the other."""
        return torch.where(condition, yes, no)

    def divide(self, one: torch.Tensor, other: Any) -> torch.Tensor:
        """Return the quotient in float64."""
        return one.double() / other

    def running_max(self, values: torch.Tensor) -> torch.Tensor:
        """Return for each column the largest value up to it."""
        return values.cummax(dim=1).values

    def running_min(self, values: torch.Tensor) -> torch.Tensor:
        """Return for each column the smallest value up to it."""
        return values.cummin(dim=1).values


def metric_arrays() -> NumpyArrays:
    """Return what metrics are computed with on this machine: torch on a CUDA device, otherwise NumPy."""
    return TorchArrays("cuda") if torch.cuda.is_available() else NUMPY
