"""Random changes of training images, off by default: chosen beside the images, made on the device that trains.

No source that we could read names an augmentation for the methods here. So all are off by default, and their forms are
our choice. Images are changed at the size that the model sees.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DROPOUT_GRID = 8  # a sketch is erased by cells of a grid of this many on a side
WHITE = 255.0
_GREY = (0.299, 0.587, 0.114)  # what red, green and blue count for a pixel's brightness (ITU-R 601)


@dataclass(frozen=True)
class Augmentation:
    """How much training images may change.

    Args:
        flip: probability that a photo or a sketch is mirrored; at fine-grained level a sketch and its photo together.
        crop: largest share of a photo's width and height that is cut away, at a random place.
        colour: largest relative change of a photo's brightness, contrast and saturation.
        thickness: by how many pixels strokes grow at most on each side, at the model's image size.
        dropout: probability that a cell of an 8 x 8 grid over the sketch is erased.
        rotation: largest rotation of a sketch, in degrees to either side.
        scale: largest relative change of a sketch's size.
        shift: largest shift of a sketch, as a share of its side.
    """

    flip: float = 0.0
    crop: float = 0.0
    colour: float = 0.0
    thickness: int = 0
    dropout: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        limits = {"flip": 1.0, "crop": 0.9, "colour": 1.0, "thickness": 8, "dropout": 0.9, "rotation": 180.0,
                  "scale": 0.9, "shift": 0.9}  # fmt: skip
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"augment.{name} must lie between 0 and {most}, got {getattr(self, name)}.")

    def __bool__(self) -> bool:
        """Return whether anything may change."""
        return any(getattr(self, item.name) for item in fields(self))

    def mirrors(self, rng: np.random.Generator) -> bool:
        """Return a random choice whether an image, or a sketch with its photo, is mirrored."""
        return bool(rng.random() < self.flip)

    def sample(self, modality: str, rng: np.random.Generator, mirrored: bool) -> Tensor:
        """Return the numbers of one image's changes, (75,), which `apply` carries out.

        They are: 6 of the affine map from a place in the result to that in the image, both in [-1, 1] (x, y); 3 factors
        of brightness, contrast and saturation; by how many pixels strokes grow; whether cells are erased, row by row;
        and whether the image is mirrored.
        """
        affine, colours, grown = np.eye(2, 3), np.ones(3), 0
        erased = np.zeros((DROPOUT_GRID, DROPOUT_GRID), bool)
        if modality == "photo":
            keep = 1 - self.crop * rng.random()
            affine[:, 2] = rng.uniform(-1, 1, 2) * (1 - keep)
            affine[:, :2] *= keep
            colours += rng.uniform(-self.colour, self.colour, 3)
        else:
            angle = np.radians(rng.uniform(-self.rotation, self.rotation))
            size = 1 + rng.uniform(-self.scale, self.scale)
            moved = 2 * rng.uniform(-self.shift, self.shift, 2)
            cos, sin = np.cos(angle) / size, np.sin(angle) / size
            affine[:, :2] = (cos, sin), (-sin, cos)  # about the centre
            affine[:, 2] = -affine[:, :2] @ moved
            erased = rng.random(erased.shape) < self.dropout
            grown = int(rng.integers(self.thickness + 1))
        numbers = np.concatenate([affine.ravel(), colours, [grown], erased.ravel(), [mirrored]])
        return torch.from_numpy(numbers.astype(np.float32))

    def apply(self, modality: str, images: Tensor, changes: Tensor) -> Tensor:
        """Return changed copies of images of one modality.

        Args:
            modality: "sketch", dark on white, or "photo".
            images: (B, 3, H, W) in [0, 255].
            changes: (B, 75) numbers, as `sample` makes them.

        Returns:
            (B, 3, H, W) float32 in [0, 255].
        """
        x = images.float()
        affine, colours, grown, erased, mirrored = changes.split([6, 3, 1, DROPOUT_GRID**2, 1], dim=1)
        affine = affine.unflatten(1, (2, 3))
        if modality == "photo":
            x = _moved(x, affine, padding="border") if self.crop else x
            x = _coloured(x, colours) if self.colour else x
        else:
            x = _moved(x, affine, padding="zeros") if self.rotation or self.scale or self.shift else x
            cells = F.interpolate(erased.unflatten(1, (1, DROPOUT_GRID, DROPOUT_GRID)), x.shape[-2:])  # (B, 1, H, W)
            x = torch.where(cells > 0, WHITE, x) if self.dropout else x
            for pixels in range(1, self.thickness + 1):
                thick = -F.max_pool2d(-x, 3, stride=1, padding=1)  # by one pixel more
                x = torch.where(_column(grown) >= pixels, thick, x)
        return torch.where(_column(mirrored) > 0, x.flip(-1), x) if self.flip else x


NO_AUGMENTATION = Augmentation()


def _column(values: Tensor) -> Tensor:
    """Return (B, 1) values as (B, 1, 1, 1)."""
    return values[:, :, None, None]


def _moved(x: Tensor, affine: Tensor, padding: str) -> Tensor:
    """Return images seen through affine maps (B, 2, 3); with padding "zeros" white lies around them."""
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    ink = F.grid_sample(WHITE - x, grid, "bicubic", padding, align_corners=False)
    return (WHITE - ink).clamp(0, WHITE)


def _coloured(x: Tensor, factors: Tensor) -> Tensor:
    """Return photos with brightness, contrast and saturation changed by factors (B, 3), one after the other."""
    brightness, contrast, saturation = (_column(factor) for factor in factors.split(1, dim=1))
    x = (x * brightness).clamp(0, WHITE)
    mean = _grey(x).mean(dim=(2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, WHITE)
    grey = _grey(x)
    return (grey + (x - grey) * saturation).clamp(0, WHITE)


def _grey(x: Tensor) -> Tensor:
    return sum(share * x[:, channel : channel + 1] for channel, share in enumerate(_GREY))  # (B, 1, H, W)
