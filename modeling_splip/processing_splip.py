"""One processor for both modalities and for class prompts."""

import enum
import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, CLIPImageProcessorPil, ProcessorMixin

from .clip_backbone import resolve_base
from .modeling_retriever import check_modality

# A drawing whose grey levels span less than this (of 255) has nothing drawn on it. Ours.
BLANK_RANGE = 16
_IMAGE_SETTINGS = ("image_mean", "image_std", "size", "crop_size", "do_resize", "do_center_crop", "resample")


class SplipProcessor(ProcessorMixin):
    """Turns sketches, photos and texts into model inputs.

    Accepts PIL images, paths, numpy arrays (H, W), (H, W, 3) or (H, W, 4) of 0..255 integers or 0..1 floats, and torch
    tensors (3, H, W) of the same ranges. EXIF orientation is applied, transparency is laid on white, sketches are padded
    to a square with white and never cropped; photos are resized and centre-cropped as the base CLIP does.

    Args:
        image_processor: the base CLIP's.
        tokenizer: the base CLIP's; only texts need it.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_clip(cls, base: str) -> "SplipProcessor":
        """Build the processor of a pretrained CLIP: folder, Hub id or "mini_clip"."""
        path = resolve_base(base)
        return cls(CLIPImageProcessorPil.from_pretrained(path), AutoTokenizer.from_pretrained(path))

    def __call__(self, images: Any = None, text: Any = None, modality: str = "photo", **kwargs: Any) -> BatchFeature:
        """Prepare images of one modality, or texts, or both.

        Args:
            images: one image or a list of them.
            text: a string or a list of strings.
            modality: "sketch" or "photo".

        Returns:
            `pixel_values` (B, 3, H, W) float32 and / or `input_ids`, `attention_mask` (N, J).
        """
        data: dict[str, Tensor] = {}
        if images is not None:
            check_modality(modality)
            batch = images if isinstance(images, list | tuple) else [images]
            if not batch:
                raise ValueError("images is empty: pass at least one image.")
            prepared = [self.prepare(image, modality) for image in batch]
            data["pixel_values"] = self.image_processor(prepared, return_tensors="pt")["pixel_values"]
        if text is not None:
            data.update(self.tokenizer(text, padding=True, truncation=True, return_tensors="pt"))
        if not data:
            raise ValueError("Nothing to process: pass images= or text=.")
        return BatchFeature(data)

    def prepare(self, image: Any, modality: str) -> Image.Image:
        """Return the RGB image that the base CLIP's processor resizes; a sketch is padded to a square."""
        rgb = to_rgb(image)
        if modality == "photo" or rgb.width == rgb.height:
            return rgb
        side = max(rgb.size)
        square = Image.new("RGB", (side, side), "white")
        square.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
        return square

    def is_blank(self, image: Any) -> bool:
        """Return whether nothing is drawn: the grey levels, transparency laid on white, hardly differ."""
        low, high = to_rgb(image).convert("L").getextrema()
        return high - low < BLANK_RANGE

    def image_settings(self) -> dict[str, Any]:
        """Return the settings that decide the pixel values, for the fingerprint."""
        return {name: _plain(getattr(self.image_processor, name, None)) for name in _IMAGE_SETTINGS}


def to_rgb(image: Any) -> Image.Image:
    """Return an RGB image, upright, transparency laid on white.

    Raises:
        FileNotFoundError, ValueError: if it is a path without a readable image, or an array of another shape.
    """
    if isinstance(image, str | os.PathLike):
        image = _open(image)
    elif isinstance(image, torch.Tensor):
        image = _from_array(image.detach().cpu().numpy().transpose(1, 2, 0) if image.ndim == 3 else image.cpu().numpy())
    elif isinstance(image, np.ndarray):
        image = _from_array(image)
    elif not isinstance(image, Image.Image):
        raise ValueError(f"An image must be a PIL image, a path, a numpy array or a torch tensor, got {type(image)}.")
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _open(path: str | os.PathLike) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no image file '{path}'.") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"'{path}' is not a readable image ({error}).") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"An image array must be (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}.")
    if np.issubdtype(array.dtype, np.floating):
        if array.min() < 0 or array.max() > 1:
            raise ValueError("A float image array must lie in 0..1 (integers in 0..255).")
        array = (array * 255).round()
    array = array.astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _plain(value: Any) -> Any:
    """Return a JSON value: sizes as dicts, lists as floats, enums as integers."""
    if isinstance(value, list | tuple):
        return [float(item) for item in value]
    if isinstance(value, int | float | str | None):
        return int(value) if isinstance(value, enum.IntEnum) else value
    sizes = value if isinstance(value, dict) else vars(value)
    return {key: item for key, item in sizes.items() if item is not None}
