"""Why a photo was found: which parts of a sketch and of a photo resemble each other, by the model's own tokens."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..clip_backbone import value_tokens
from ..image_files import BLANK_RANGE
from ..processing_splip import to_rgb


class Pair(NamedTuple):
    """A patch of the sketch and a patch of the photo, each of which is the other's nearest.

    Attributes:
        sketch: (row, column) in the sketch's grid, from the upper left corner.
        photo: (row, column) in the photo's grid.
        cosine: of their tokens, in [-1, 1].
    """

    sketch: tuple[int, int]
    photo: tuple[int, int]
    cosine: float


@dataclass(frozen=True, eq=False)
class Matches:
    """What a model sees alike in a sketch and a photo.

    Attributes:
        sketch: the part of the sketch that the model sees, in the sketch's own resolution: all of it, as a square.
        photo: the same of the photo: its middle, as the model's processor cuts it.
        grid: rows and columns of patches, in which both pictures are cut.
        cosines: (P, P) float32; of every patch of the sketch, row by row, with every patch of the photo.
        drawn: (P,) whether there are strokes in the sketch's patch.
        pairs: best first; only patches with strokes have one.
        score: the cosine of sketch and photo as wholes, which the search ranks by.
    """

    sketch: Image.Image
    photo: Image.Image
    grid: tuple[int, int]
    cosines: np.ndarray
    drawn: np.ndarray
    pairs: list[Pair]
    score: float

    def heat(self, row: int, column: int) -> np.ndarray:
        """Return the cosines of one patch of the sketch with all of the photo, as a map: (rows, columns)."""
        return self.cosines.reshape(*self.grid, *self.grid)[row, column]


@torch.no_grad()
def explain(model: Any, processor: Any, sketch: Any, photo: Any) -> Matches:
    """Return which parts of a sketch and a photo resemble each other in the eyes of a model.

    The tokens are the values of the last vision layer in the space that sketches and photos are compared in, as in
    MaskCLIP (ECCV 2022). docs/search.md says what this choice was measured by. That two patches are each other's
    nearest, and that a blank patch of the sketch has no partner, are choices of ours.

    Args:
        model: a retrieval model of any method, also a folded one.
        processor: its processor.
        sketch: a PIL image, path or array.
        photo: likewise; a thumbnail of a gallery will do.

    Raises:
        FileNotFoundError, ValueError: in one sentence, if a picture cannot be read or nothing is drawn on the sketch.
    """
    sketch, photo = to_rgb(sketch), to_rgb(photo)
    if processor.is_blank(sketch):
        raise ValueError("Nothing is drawn on the sketch: draw the outline of a thing.")
    views = seen(processor, sketch, "sketch"), seen(processor, photo, "photo")
    (own, f), (other, g) = (
        _local_tokens(model, processor, image, modality) for image, modality in ((sketch, "sketch"), (photo, "photo"))
    )
    vision = model.config.clip_config.vision_config
    side = vision.image_size // vision.patch_size
    cosines = (own @ other.T).clamp(-1, 1).cpu().numpy()  # (P, P)
    drawn = _drawn(views[0], side)
    return Matches(*views, (side, side), cosines, drawn, _pairs(cosines, drawn, side), float((f @ g).clamp(-1, 1)))


def seen(processor: Any, image: Any, modality: str) -> Image.Image:
    """Return the part of an image that a model sees, in the image's own resolution: its processor cuts off the rest.

    Raises:
        FileNotFoundError, ValueError: if the image cannot be read.
    """
    rgb, settings = processor.prepare(image, modality), processor.image_processor
    if not settings.do_center_crop:
        return rgb
    size, crop = _sides(settings.size), _sides(settings.crop_size)
    across, down = rgb.width / size.get("width", rgb.width), rgb.height / size.get("height", rgb.height)
    if "shortest_edge" in size and settings.do_resize:
        across = down = min(rgb.size) / size["shortest_edge"]
    width, height = crop["width"] * across, crop["height"] * down
    left, top = (rgb.width - width) / 2, (rgb.height - height) / 2
    return rgb.crop((round(left), round(top), round(left + width), round(top + height)))


def _sides(size: Any) -> dict[str, int]:
    """Return the sides of a processor's size that are set."""
    sides = size if isinstance(size, dict) else vars(size)
    return {name: side for name, side in sides.items() if side is not None}


def _local_tokens(model: Any, processor: Any, image: Any, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches' tokens, (P, D), and the embedding, (D,), of one image: unit norm, float32."""
    pixel_values = processor(images=[image], modality=modality)["pixel_values"].to(model.device)  # (1, 3, H, W)
    output = model(pixel_values, modality, return_class_embeds=False, output_hidden_states=True, return_dict=True)
    tokens = value_tokens(model.vision, model.layer_norms(modality), output.hidden_states[-2])  # (1, 1 + P, D)
    return tokens[0, 1:].float(), output.embeds[0].float()


def _drawn(sketch: Image.Image, side: int) -> np.ndarray:
    """Return which patches hold greys that differ from the paper, the commonest grey: (side * side,)."""
    greys = np.asarray(sketch.convert("L")).astype(np.int64)
    off = np.abs(greys - np.bincount(greys.ravel()).argmax()) >= BLANK_RANGE  # (H, W)
    rows, columns = np.nonzero(off)
    patches = rows * side // off.shape[0] * side + columns * side // off.shape[1]
    return np.bincount(patches, minlength=side * side) > 0


def _pairs(cosines: np.ndarray, drawn: np.ndarray, side: int) -> list[Pair]:
    """Return the patches that are each other's nearest, best first."""
    nearest, back = cosines.argmax(axis=1), cosines.argmax(axis=0)  # (P,) each
    found = [row for row in np.flatnonzero(drawn) if back[nearest[row]] == row]
    found.sort(key=lambda row: -cosines[row, nearest[row]])
    return [Pair(_place(row, side), _place(nearest[row], side), float(cosines[row, nearest[row]])) for row in found]


def _place(patch: int, side: int) -> tuple[int, int]:
    row, column = divmod(int(patch), side)
    return row, column
