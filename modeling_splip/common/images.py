"""The one image reader, and what it tells of pictures, for those who may import nothing else of the package."""

from ..image_files import FORMATS, MAX_PIXELS, doubt, image_formats, image_suffixes, open_image, sample, upright_rgb
from ..image_memory import MAX_BYTES

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "doubt",
    "image_formats",
    "image_suffixes",
    "open_image",
    "sample",
    "upright_rgb",
]
