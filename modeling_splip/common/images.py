"""The one image reader, for those who may import nothing else of the package."""

from ..image_files import FORMATS, MAX_BYTES, MAX_PIXELS, image_formats, image_suffixes, open_image

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "image_formats", "image_suffixes", "open_image"]
