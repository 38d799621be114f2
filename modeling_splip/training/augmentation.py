"""Random changes of training images, off by default; the caller passes a seeded random generator.

No source that we could read names an augmentation for the methods here. So all are off by default, and their forms are
our choice.
"""

from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

DROPOUT_GRID = 8  # a sketch is erased by cells of a grid of this many on a side
_COLOURS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


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

    def photo(self, image: Image.Image, rng: np.random.Generator, mirrored: bool) -> Image.Image:
        """Return a changed copy of an RGB photo of any size; the copy may be smaller."""
        keep = 1 - self.crop * rng.random()
        left, top = rng.random(2) * (1 - keep)
        corners = (left * image.width, top * image.height, (left + keep) * image.width, (top + keep) * image.height)
        image = image.crop(tuple(round(corner) for corner in corners)) if self.crop else image
        for enhance, change in zip(_COLOURS, rng.uniform(-self.colour, self.colour, len(_COLOURS)), strict=True):
            image = enhance(image).enhance(1 + change) if change else image
        return ImageOps.mirror(image) if mirrored else image

    def sketch(self, image: Image.Image, rng: np.random.Generator, mirrored: bool) -> Image.Image:
        """Return a changed copy of a square RGB drawing, dark on white, at the model's image size."""
        angle = np.radians(rng.uniform(-self.rotation, self.rotation))
        size = 1 + rng.uniform(-self.scale, self.scale)
        across, down = rng.uniform(-self.shift, self.shift, 2) * image.width
        if self.rotation or self.scale or self.shift:
            matrix = _inverse_affine(image.width, angle, size, across, down)
            image = image.transform(
                image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor="white"
            )
        erased = rng.random((DROPOUT_GRID, DROPOUT_GRID)) < self.dropout
        if erased.any():
            cells = Image.fromarray(erased).resize(image.size, Image.Resampling.NEAREST)
            image = Image.composite(Image.new("RGB", image.size, "white"), image, cells)
        grown = int(rng.integers(self.thickness + 1))
        image = image.filter(ImageFilter.MinFilter(2 * grown + 1)) if grown else image
        return ImageOps.mirror(image) if mirrored else image


def _inverse_affine(side: int, angle: float, size: float, across: float, down: float) -> tuple[float, ...]:
    """Return the six numbers of PIL's affine transform, which map a pixel of the result to its place in the image.

    The image is rotated and scaled about its centre, then shifted.
    """
    cos, sin, centre = np.cos(angle) / size, np.sin(angle) / size, side / 2
    x, y = centre + across, centre + down
    return (cos, sin, centre - cos * x - sin * y, -sin, cos, centre + sin * x - cos * y)
