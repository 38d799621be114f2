"""One processor for both modalities and for class prompts."""

import enum
import os
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, CLIPImageProcessorPil, ProcessorMixin

from .clip_base import resolve_base
from .configuration_retriever import check_modality
from .image_files import open_image

# All of these limits are our choice.
BLANK_RANGE = 16  # if the grey levels (0..255) of a drawing differ by less than this, nothing is drawn
# A drawing is likely white on black if its mean grey (0..1) is below DARK_MEAN, and less than MIDDLE_SHARE of its
# pixels have a grey level in the middle.
DARK_MEAN = 0.3
MIDDLE_GREYS = slice(64, 192)
MIDDLE_SHARE = 0.15
MOST_RATIO = 16  # of a photo whose sides have a larger ratio, only the middle is used
_IMAGE_SETTINGS = (
    "image_mean", "image_std", "size", "crop_size", "do_resize", "do_center_crop", "resample", "do_rescale",
    "rescale_factor", "do_normalize",
)  # fmt: skip


class SplipProcessor(ProcessorMixin):
    """Turns sketches, photos and texts into model inputs.

    It takes PIL images, paths, numpy arrays (H, W), (H, W, 3) or (H, W, 4) of 0..255 integers, 0..1 floats or booleans,
    and torch tensors (H, W), (3, H, W) or (4, H, W) of the same ranges. Images are turned upright by their EXIF data,
    and transparent ones are laid on white. Sketches are padded with white to a square and never cropped. Photos are
    resized and centre-cropped as by the base CLIP. Always PIL resizes, since torchvision gives other pixels.

    Args:
        image_processor: the base CLIP's.
        tokenizer: the base CLIP's; only texts need it.
        invert_sketches: invert sketches that are likely white on black; otherwise they cause a warning.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, invert_sketches: bool = False, **kwargs: Any
    ):
        # A saved processor names torchvision's class, which is loaded if torchvision is installed.
        if image_processor is not None and not isinstance(image_processor, CLIPImageProcessorPil):
            image_processor = CLIPImageProcessorPil.from_dict(image_processor.to_dict())
        self.invert_sketches = invert_sketches
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_clip(cls, base: str, **settings: Any) -> "SplipProcessor":
        """Return the processor of a pretrained CLIP.

        Args:
            base: folder, Hub id, or the name of a packaged one, such as "mini_clip".
            **settings: `invert_sketches`.

        Raises:
            OSError: in one sentence, if there is no such CLIP, or no image processor and tokenizer with it.
        """
        path = resolve_base(base)
        try:
            parts = CLIPImageProcessorPil.from_pretrained(path), AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            local = "has no loadable image processor and tokenizer"
            where = local if os.path.isdir(path) else "is no local folder and not on the Hub or in the cache"
            raise OSError(f"Base CLIP '{base}' {where}: check the name and the network.") from error
        return cls(*parts, **settings)

    def __call__(
        self, images: Any = None, text: Any = None, modality: str = "photo", return_tensors: str = "pt"
    ) -> BatchFeature:
        """Return model inputs for images of one modality, or texts, or both.

        Args:
            images: one image or a list of them.
            text: a string or a list of strings.
            modality: "sketch" or "photo".
            return_tensors: "pt", nothing else.

        Returns:
            `pixel_values` (B, 3, H, W) in float32 and `modality` for images, so that `model(**inputs)` knows both;
            `input_ids` and `attention_mask` (N, J) for texts.

        Raises:
            FileNotFoundError, ValueError: if there is nothing to process, or an image cannot be read.
        """
        data: dict[str, Any] = {}
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}: convert the tensors afterwards.")
        if images is not None:
            check_modality(modality)
            batch = images if isinstance(images, list | tuple) else [images]
            if not batch:
                raise ValueError("images is empty: pass at least one image.")
            prepared = [self.prepare(image, modality) for image in batch]
            data["pixel_values"] = self.image_processor(prepared, return_tensors="pt")["pixel_values"]
            data["modality"] = modality
        if text is not None:
            if not text:
                raise ValueError("text is empty: pass at least one.")
            data.update(self.tokenizer(text, padding=True, truncation=True, return_tensors="pt"))
        if not data:
            raise ValueError("Nothing to process: pass images= or text=.")
        return BatchFeature(data)

    def prepare(self, image: Any, modality: str) -> Image.Image:
        """Return the RGB image that is then resized: a sketch padded to a square; of a very long photo the middle.

        Raises:
            FileNotFoundError, ValueError: if the image cannot be read.
        """
        rgb = to_rgb(image)
        if modality == "photo":
            return self._cut(rgb)
        if is_white_on_black(rgb):
            if self.invert_sketches:
                rgb = ImageChops.invert(rgb)
            else:
                warnings.warn(
                    "A sketch looks white on black, but models expect black on white: invert it, or set "
                    "invert_sketches=True on the processor.",
                    stacklevel=2,
                )
        if rgb.width == rgb.height:
            return rgb
        side = max(rgb.size)
        square = Image.new("RGB", (side, side), "white")
        square.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
        return square

    def view(self, image: Any, modality: str) -> Image.Image:
        """Return the part of an image that the model sees, in the image's own resolution.

        Raises:
            FileNotFoundError, ValueError: if the image cannot be read.
        """
        rgb, settings = self.prepare(image, modality), self.image_processor
        if not settings.do_center_crop:
            return rgb
        size, crop = _plain(settings.size), _plain(settings.crop_size)
        across, down = rgb.width / size.get("width", rgb.width), rgb.height / size.get("height", rgb.height)
        if "shortest_edge" in size and settings.do_resize:
            across = down = min(rgb.size) / size["shortest_edge"]
        width, height = crop["width"] * across, crop["height"] * down
        left, top = (rgb.width - width) / 2, (rgb.height - height) / 2
        return rgb.crop((round(left), round(top), round(left + width), round(top + height)))

    def _cut(self, rgb: Image.Image) -> Image.Image:
        """Return the middle of a very long photo: resized as a whole, it might not fit into memory."""
        short, long = sorted(rgb.size)
        if not self.image_processor.do_center_crop or long <= MOST_RATIO * short:
            return rgb
        width, height = (min(side, MOST_RATIO * short) for side in rgb.size)
        left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
        return rgb.crop((left, top, left + width, top + height))

    def is_blank(self, image: Any) -> bool:
        """Return whether nothing is drawn: all grey levels are nearly the same."""
        return int(np.ptp(np.asarray(to_rgb(image).convert("L")))) < BLANK_RANGE

    def image_settings(self) -> dict[str, Any]:
        """Return the settings that decide the pixel values, for the fingerprint."""
        settings = {name: _plain(getattr(self.image_processor, name, None)) for name in _IMAGE_SETTINGS}
        return settings | {"invert_sketches": self.invert_sketches}


# Saved folders carry the code that they need (`trust_remote_code`).
SplipProcessor.register_for_auto_class("AutoProcessor")


def is_white_on_black(image: Any) -> bool:
    """Return whether a drawing likely has light strokes on a dark ground: dark, with light parts, few greys between."""
    counts = np.array(to_rgb(image).convert("L").histogram())
    mean = (counts @ np.arange(256)) / counts.sum() / 255
    middle, light = counts[MIDDLE_GREYS].sum(), counts[128:].sum()
    return bool(mean < DARK_MEAN and light > 0 and middle < MIDDLE_SHARE * counts.sum())


def to_rgb(image: Any) -> Image.Image:
    """Return an RGB image, upright, transparency laid on white.

    Raises:
        FileNotFoundError, ValueError: if it is a path without a readable image, or an array of another shape.
    """
    if isinstance(image, str | os.PathLike):
        image = open_image(image)
    elif isinstance(image, torch.Tensor):
        image = _from_tensor(image)
    elif isinstance(image, np.ndarray):
        image = _from_array(image)
    elif not isinstance(image, Image.Image):
        raise ValueError(f"An image must be a PIL image, a path, a numpy array or a torch tensor, got {type(image)}.")
    if not image.width or not image.height:
        raise ValueError(f"An image must have pixels, got one of {image.width} x {image.height}.")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("La", "RGBa"):  # colours times transparency
        image = image.convert(image.mode.upper())
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_wide_greys(np.asarray(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_wide_greys(grey: np.ndarray) -> Image.Image:
    """Return an 8-bit image of greys that PIL would clip: of 16 bits, of 8 bits in wider pixels, or floats in 0..1."""
    if grey.dtype.kind == "f":
        return _from_array(grey)
    bits_8 = grey.dtype.itemsize > 2 and grey.max() <= 255
    return Image.fromarray((grey / (1 if bits_8 else 257)).round().clip(0, 255).astype(np.uint8))


def _from_tensor(tensor: Tensor) -> Image.Image:
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor  # numpy has no bfloat16
    if tensor.ndim == 3:
        tensor = tensor.movedim(0, -1)  # (H, W, channels)
    elif tensor.ndim != 2:
        raise ValueError(
            f"An image tensor must be (channels, H, W) or (H, W), got shape {tuple(tensor.shape)}: pass a list "
            "of images for a batch."
        )
    return _from_array(tensor.numpy())


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise ValueError(f"An image array must be (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}.")
    if array.dtype.kind not in "buif":
        raise ValueError(f"An image array must hold numbers, got {array.dtype}.")
    largest = 255 if np.issubdtype(array.dtype, np.integer) else 1
    # Also false for NaN.
    if not (array.min() >= 0 and array.max() <= largest):
        raise ValueError(
            f"An image array of {array.dtype} must lie in 0..{largest}, got {array.min()}..{array.max()} (integers "
            "lie in 0..255, floats in 0..1)."
        )
    if largest == 1:
        array = (array * 255.0).round()
    array = array.astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _plain(value: Any) -> Any:
    """Return a setting as a JSON value: a size as a dict, a list with floats, an enum as an integer."""
    if isinstance(value, list | tuple):
        return [float(item) for item in value]
    if isinstance(value, int | float | str | None):
        return int(value) if isinstance(value, enum.IntEnum) else value
    sizes = value if isinstance(value, dict) else vars(value)
    return {key: item for key, item in sizes.items() if item is not None}
