"""Opening image files: which formats are read, and how. One reader for data, galleries, models and the Space."""

import io
import os
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# PIL knows more formats, and starts other programs for some: Ghostscript for EPS.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# PIL's own limit for a decompression bomb: 2^31 bytes / 4 / 3, in pixels.
MAX_PIXELS = 178_956_970


def image_formats() -> list[str]:
    """Return the names of the formats that are read and that the installed PIL has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def image_suffixes() -> tuple[str, ...]:
    """Return the endings of file names, such as ".jpg", of the formats that are read, sorted."""
    formats = image_formats()
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in formats))


def open_image(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file.

    Args:
        source: a path, or the file's content.
        max_pixels: an image of more pixels is refused before it is decoded.

    Returns:
        The image in its own mode and size, with all pixels in memory.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no regular file, no image of a known format, damaged, or too large. The message is a
            sentence with the file's name; if `source` is the content, only the reason.
    """
    name = None if isinstance(source, bytes) else str(source)
    try:
        return _decoded(source if isinstance(source, bytes) else _content(Path(source)), max_pixels)
    except (ValueError, TypeError, OSError, SyntaxError, OverflowError, MemoryError, Image.DecompressionBombError) as e:
        if name is not None and not os.path.exists(name):
            raise FileNotFoundError(f"There is no image file '{name}'.") from None
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(f"'{name}' is not a readable image ({reason})." if name is not None else reason) from e


def _content(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise ValueError("no regular file")
    return path.read_bytes()


def _decoded(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=image_formats())
    except UnidentifiedImageError:  # PIL's message names an object in memory
        raise ValueError("no image of a known kind") from None
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels, more than {max_pixels:,d}")
        image.load()
        return _with_sound_exif(image)


def _with_sound_exif(image: Image.Image) -> Image.Image:
    """Return the image, or a copy without its EXIF data where they cannot be parsed: the pixels are whole."""
    try:
        image.getexif().tobytes()
        return image
    except Exception:  # PIL raises a dozen kinds
        plain = image.copy()
        for name in ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"):
            plain.info.pop(name, None)
        return plain
