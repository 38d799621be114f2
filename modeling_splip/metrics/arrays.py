"""The operations on arrays that the metrics need, in NumPy; another library gives them under the same names."""

from typing import Any

import numpy as np
import numpy.typing as npt

COLUMNS = 2048  # photos that are held in float64 at a time


class NumpyArrays:
    """NumPy's form of what array libraries spell differently; every array is a matrix (rows, columns).

    Operators, slices, `sum`, `mean` and `any` along an axis are the same in all, and are not here.

    Attributes:
        block_scale: how many times as large as NumPy's a block of scores is.
    """

    block_scale = 1

    def array(self, values: npt.NDArray[Any]) -> Any:
        """Return NumPy values as an array of this library."""
        return values

    def numpy(self, values: Any) -> npt.NDArray[Any]:
        """Return an array of this library as NumPy's."""
        return values

    def empty(self, shape: tuple[int, int], like: Any) -> Any:
        """Return room of the type of another array."""
        return np.empty(shape, like.dtype)

    def zeros(self, shape: tuple[int, ...], kind: type) -> Any:
        """Return zeros of 64 bits, or False where `kind` is bool."""
        return np.zeros(shape, bool if kind is bool else np.int64)

    def count(self, number: int) -> Any:
        """Return 1, 2, ..., number."""
        return np.arange(1, number + 1)

    def product(self, queries: npt.NDArray[Any], photos: Any, out: Any) -> Any:
        """Return the dot products of NumPy's queries (b, D) and of photos (N, D), in `out`, (b, N).

        They are added up in float64 and rounded once. So every machine and library ranks the same scores; sums in
        float32 depend on their order, and photos with nearly one score would change places.
        """
        wide = queries.astype(photos.dtype, copy=False).astype(np.float64, copy=False)
        for start in range(0, len(photos), COLUMNS):
            part = slice(start, start + COLUMNS)
            out[:, part] = wide @ photos[part].astype(np.float64, copy=False).T
        return out

    def sort(self, values: Any) -> Any:
        """Return the rows sorted, smallest first and NaN last."""
        return np.sort(values, axis=1)

    def sort_in_place(self, values: Any) -> Any:
        """Return the same; the values may be overwritten."""
        values.sort(axis=1)
        return values

    def below(self, rows: Any, values: Any) -> Any:
        """Return how many numbers of a sorted row are smaller than each value of the same row."""
        result = np.empty(values.shape, np.int64)
        for row in range(len(rows)):
            result[row] = np.searchsorted(rows[row], values[row], side="left")
        return result

    def at(self, values: Any, places: Any) -> Any:
        """Return in each row the values at these places, of the last column where a place is behind it."""
        return np.take_along_axis(values, np.minimum(places, values.shape[1] - 1), axis=1)

    def flip(self, values: Any) -> Any:
        """Return the columns in reverse order."""
        return values[:, ::-1]

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """Return one value or the other."""
        return np.where(condition, yes, no)

    def divide(self, one: Any, other: Any) -> Any:
        """Return the quotient in float64."""
        return one / other

    def running_max(self, values: Any) -> Any:
        """Return for each column the largest value up to it."""
        return np.maximum.accumulate(values, axis=1)

    def running_min(self, values: Any) -> Any:
        """Return for each column the smallest value up to it."""
        return np.minimum.accumulate(values, axis=1)


NUMPY = NumpyArrays()
