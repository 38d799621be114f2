"""One processor for both modalities and for class prompts."""

import difflib
import enum
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops
from transformers import AutoTokenizer, BatchFeature, CLIPImageProcessorPil, ProcessorMixin
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, TextKwargs
from transformers.utils import logging

from .clip_base import resolve_base
from .configuration_retriever import check_modality
from .image_files import (
    has_dark_ground,
    image_from_array,
    image_from_tensor,
    image_in_work,
    is_blank,
    is_line_drawing,
    is_no_drawing,
    open_image,
    upright_rgb,
)
from .image_memory import final_size, square

logger = logging.get_logger(__name__)

MOST_RATIO = 16  # of a photo whose sides have a larger ratio, only the middle is used; our choice
INVERSIONS = ("auto", "true", "false")
# Said about inputs, each once in a process.
INVERTED = "A sketch looks white on black and is inverted; invert_sketches=false would take it as it is."
NOT_INVERTED = (
    "A sketch looks white on black, but models expect black on white: with invert_sketches=auto it would be inverted."
)
NOT_DRAWN = "A sketch does not look drawn, and models expect a line drawing: is it a photo?"
TAKEN_AS_PHOTO = (
    "No modality was passed, so images count as photos, but one looks like a line drawing: pass modality='sketch'."
)
_IMAGE_SETTINGS = (
    "image_mean", "image_std", "size", "crop_size", "do_resize", "do_center_crop", "resample", "do_rescale",
    "rescale_factor", "do_normalize",
)  # fmt: skip


class SplipProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """What a call of the processor may say about texts and images, and what holds if it does not."""

    _defaults = {  # noqa: RUF012
        "text_kwargs": {"padding": True, "truncation": True},
        "common_kwargs": {"return_tensors": "pt"},
    }


class SplipProcessor(ProcessorMixin):
    """Turns sketches, photos and texts into model inputs.

    It takes PIL images, paths, numpy arrays (H, W), (H, W, 3) or (H, W, 4) of 0..255 integers, 0..1 floats or booleans,
    and torch tensors (H, W), (3, H, W) or (4, H, W) of the same ranges. Images are turned upright by their EXIF data,
    and transparent ones are laid on white. Sketches are padded with white to a square and never cropped. Photos are
    resized and centre-cropped as by the base CLIP. Always PIL resizes, since torchvision gives other pixels.

    Args:
        image_processor: the base CLIP's.
        tokenizer: the base CLIP's; only texts need it.
        invert_sketches: "auto" inverts sketches that look white on black, and says so once; "true", or True, inverts
            every sketch; "false", or False, none. Photos are never inverted.

    Raises:
        ValueError: if `invert_sketches` is something else.
    """

    valid_processor_kwargs = SplipProcessorKwargs
    skip_tensor_conversion = ("modality",)

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, invert_sketches: str | bool = "auto", **kwargs: Any
    ):
        # A saved processor names torchvision's class, which is loaded if torchvision is installed.
        if image_processor is not None and not isinstance(image_processor, CLIPImageProcessorPil):
            image_processor = CLIPImageProcessorPil.from_dict(image_processor.to_dict())
        self.invert_sketches = inversion(invert_sketches)
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
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            parts = CLIPImageProcessorPil.from_pretrained(path), tokenizer
        except (OSError, ValueError) as error:
            local = "has no loadable image processor and tokenizer"
            where = local if os.path.isdir(path) else "is no local folder and not on the Hub or in the cache"
            raise OSError(f"Base CLIP '{base}' {where}: check the name and the network.") from error
        return cls(*parts, **settings)

    @classmethod
    def get_processor_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the saved settings, where true and false are from before there was a choice of three: now "auto".

        What is said in a call, such as `invert_sketches=True`, is not touched, and is saved as "true" or "false".
        """
        settings, kwargs = super().get_processor_dict(*args, **kwargs)
        if isinstance(settings.get("invert_sketches"), bool):
            settings["invert_sketches"] = "auto"
        return settings, kwargs

    @property
    def model_input_names(self) -> list[str]:
        """The names of what a call with images and texts returns."""
        return [*super().model_input_names, "modality"]

    def __call__(
        self, images: Any = None, text: Any = None, modality: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return model inputs for images of one modality, or texts, or both.

        Args:
            images: one image or a list of them.
            text: a string or a list of strings.
            modality: "sketch" or "photo"; left out, images count as photos, and a line drawing among them causes a line
                of doubt.
            **kwargs: as for every processor of transformers: `return_tensors` ("pt" by default), those of the tokenizer
                (`padding`, `max_length`, ...) and of the image processor (`do_normalize`, ...), flat or in
                `text_kwargs`, `images_kwargs` and `common_kwargs`.

        Returns:
            `pixel_values` (B, 3, H, W) in float32 and `modality` for images, so that `model(**inputs)` knows both;
            `input_ids` and `attention_mask` (N, J) for texts.

        Raises:
            FileNotFoundError, ValueError: if there is nothing to process, or an image cannot be read.
            TypeError: if there is no argument of a name.
        """
        self._check_names(kwargs)
        words = getattr(self.tokenizer, "init_kwargs", {})
        chosen = self._merge_kwargs(SplipProcessorKwargs, tokenizer_init_kwargs=words, **kwargs)
        data: dict[str, Any] = {}
        if images is not None:
            left_out, modality = modality is None, "photo" if modality is None else modality
            check_modality(modality)
            batch = images if isinstance(images, list | tuple) else [images]
            if not batch:
                raise ValueError("images is empty: pass at least one image.")
            prepared = [self.prepare(image, modality) for image in batch]
            if left_out and any(map(is_line_drawing, prepared)):
                say(TAKEN_AS_PHOTO)
            data["pixel_values"] = self.image_processor(prepared, **chosen["images_kwargs"])["pixel_values"]
            data["modality"] = modality
        if text is not None:
            if not text:
                raise ValueError("text is empty: pass at least one.")
            data.update(self.tokenizer(text, **chosen["text_kwargs"]))
        if not data:
            raise ValueError("Nothing to process: pass images= or text=.")
        return BatchFeature(data)

    def _check_names(self, kwargs: dict[str, Any]) -> None:
        """Raise TypeError if there is no argument of a name: transformers would ignore it."""
        own = getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {})
        known = {"text_kwargs": {*TextKwargs.__annotations__}, "images_kwargs": {*ImagesKwargs.__annotations__, *own}}
        flat = {"modality", "common_kwargs", *known, *known["text_kwargs"], *known["images_kwargs"]}
        known["common_kwargs"] = known["text_kwargs"] & known["images_kwargs"]
        for key, value in kwargs.items():
            names, among = (value, known[key]) if key in known else ([key], flat)
            for name in names:
                if name not in among:
                    near = difflib.get_close_matches(name, sorted(among), n=1, cutoff=0.0)[0]
                    raise TypeError(f"SplipProcessor takes no argument '{name}' (nearest: '{near}').")

    def prepare(self, image: Any, modality: str) -> Image.Image:
        """Return the RGB image that is then resized: a sketch padded to a square; of a very long photo the middle.

        A large image is resized here, to the same pixels, without copies of its full size.

        Raises:
            FileNotFoundError, ValueError: if the image cannot be read.
        """
        with rgb_in_work(image) as rgb:
            resample = self.image_processor.resample
            if modality == "photo":
                rgb = self._cut(rgb)
                size = final_size(self.image_processor, *rgb.size)
                return rgb.resize(size, resample) if size else rgb
            dark = self.invert_sketches != "true" and has_dark_ground(rgb)
            if dark:
                say(INVERTED if self.invert_sketches == "auto" else NOT_INVERTED)
            if self.invert_sketches == "true" or (dark and self.invert_sketches == "auto"):
                rgb = ImageChops.invert(rgb)
            size = final_size(self.image_processor, max(rgb.size), max(rgb.size))
            return rgb if rgb.width == rgb.height and not size else square(rgb, size, resample)

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
        return is_blank(to_rgb(image))

    def remark(self, sketch: Any) -> str:
        """Return a line for whoever searches with this sketch: it is inverted, or does not look drawn; "" otherwise."""
        rgb = to_rgb(sketch)
        if self.invert_sketches != "true" and has_dark_ground(rgb):
            return INVERTED if self.invert_sketches == "auto" else NOT_INVERTED
        return NOT_DRAWN if is_no_drawing(rgb) else ""

    def image_settings(self) -> dict[str, Any]:
        """Return the settings that decide the pixel values, for the fingerprint.

        Whether a sketch is inverted is no part of it: photos never are, and a sketch that is can be compared with them.
        The fingerprint has held false under that name since before there was a choice.
        """
        settings = {name: _plain(getattr(self.image_processor, name, None)) for name in _IMAGE_SETTINGS}
        return settings | {"invert_sketches": False}


# Saved folders carry the code that they need (`trust_remote_code`).
SplipProcessor.register_for_auto_class("AutoProcessor")


def inversion(value: str | bool) -> str:
    """Return "auto", "true" or "false".

    Raises:
        ValueError: if the value is none of them, and neither True nor False.
    """
    text = str(value).lower()
    if text not in INVERSIONS:
        raise ValueError(f"invert_sketches must be auto, true or false, got {value!r}.")
    return text


def say(line: str) -> None:
    """Log a line about an input, once in a process."""
    logger.warning_once(line)


def to_rgb(image: Any) -> Image.Image:
    """Return an RGB image, upright, transparency laid on white; on black if it would not be seen on white.

    Raises:
        FileNotFoundError, ValueError: if it is a path without a readable image, or an array of another shape.
    """
    if isinstance(image, str | os.PathLike):
        image = open_image(image)
    elif isinstance(image, torch.Tensor):
        image = image_from_tensor(image)
    elif isinstance(image, np.ndarray):
        image = image_from_array(image)
    elif not isinstance(image, Image.Image):
        raise ValueError(f"An image must be a PIL image, a path, a numpy array or a torch tensor, got {type(image)}.")
    return upright_rgb(image)


@contextmanager
def rgb_in_work(image: Any) -> Iterator[Image.Image]:
    """Yield what `to_rgb` returns; while a large file is in work, other large ones wait (`image_in_work`)."""
    if isinstance(image, str | os.PathLike):
        with image_in_work(image) as opened:
            yield to_rgb(opened)
    else:
        yield to_rgb(image)


def _plain(value: Any) -> Any:
    """Return a setting as a JSON value: a size as a dict, a list with floats, an enum as an integer."""
    if isinstance(value, list | tuple):
        return [float(item) for item in value]
    if isinstance(value, int | float | str | None):
        return int(value) if isinstance(value, enum.IntEnum) else value
    sizes = value if isinstance(value, dict) else vars(value)
    return {key: item for key, item in sizes.items() if item is not None}
