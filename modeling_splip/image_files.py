"""Opening images: which files are read, and how; any image as RGB. One reader for data, galleries, models, Space."""

import importlib.util
import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# PIL knows more formats, and starts other programs for some: Ghostscript for EPS.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
HEIF = ("heic", "heif", "mif1", "msf1", "hevc", "heix")  # brands at the start of such a file
NEEDS_HEIF = "a HEIC picture, which pip install 'splip[heic]' lets be read"
# PIL's own limit for a decompression bomb: 2^31 bytes / 4 / 3, in pixels.
MAX_PIXELS = 178_956_970
# A larger file is no picture of that many pixels. Reading it may fill the memory.
MAX_BYTES = 2**30
# Pictures of more pixels are large: decoding takes up to 20 bytes a pixel, so only AT_ONCE pixels are in work at once.
LARGE = 1_000_000
AT_ONCE = 48_000_000
# Pixels of a band of rows: what copies an image in wider types does it band by band.
BAND = 1 << 20
# Tags of a TIFF file that decide how much memory decoding takes: sides, bits, samples, rows of a strip, plane, tile.
_TIFF_SIZES = frozenset({256, 257, 258, 277, 278, 284, 322, 323})
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def image_formats() -> list[str]:
    """Return the names of the formats that are read and that the installed PIL has."""
    Image.init()
    if "HEIF" not in Image.OPEN and importlib.util.find_spec("pillow_heif"):
        # By name, since a file that travels to the Hub imports common libraries only.
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    return [name for name in FORMATS if name in Image.OPEN]


def image_suffixes() -> tuple[str, ...]:
    """Return the endings of file names, such as ".jpg", of the formats that are read, sorted."""
    formats = image_formats()
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in formats))


def open_image(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file.

    Args:
        source: a path, or the file's content.
        max_pixels: an image of more pixels, or with larger tiles, is refused before it is decoded.

    Returns:
        The image in its own mode and size, with all pixels in memory.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no regular file, no image of a known format, damaged, or too large. The message is a
            sentence with the file's name; if `source` is the content, only the reason.
    """
    with image_in_work(source, max_pixels) as image:
        return image


@contextmanager
def image_in_work(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Yield a decoded image, as `open_image` does; large ones in other threads wait until it is no longer in work.

    Sixteen large pictures at once take the memory of a few: at most `AT_ONCE` pixels are in work, or one picture. A
    thread that has one in work must not open another large one, since it may wait for itself.

    Args:
        source: a path, or the file's content.
        max_pixels: an image of more pixels, or with larger tiles, is refused before it is decoded.

    Raises:
        FileNotFoundError, ValueError: as `open_image`.
    """
    data, name = (source, None) if isinstance(source, bytes) else (None, str(source))
    with _sentences(name):
        image = _opened(read_regular(Path(name or "")) if data is None else data, max_pixels)
    with image, _ROOM.taken(image.width * image.height):
        with _sentences(name):
            image.load()
            image = _with_sound_exif(image)
        yield image


def read_regular(path: Path) -> bytes:
    """Return the content of a picture's file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is a pipe or a device, which may never end, or larger than any picture.
    """
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size:,d} bytes, more than {MAX_BYTES:,d}")
    return path.read_bytes()


class _Room:
    """Pixels that may be in work at once; who comes first goes first."""

    def __init__(self, most: int):
        self._most, self._used = most, 0
        self._door, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for a picture, and keep it; small pictures need none."""
        if pixels <= LARGE:
            yield
            return
        with self._door, self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + pixels <= self._most)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


_ROOM = _Room(AT_ONCE)


@contextmanager
def _sentences(name: str | None) -> Iterator[None]:
    """Turn what PIL and the system raise into one sentence that names the file, if there is one."""
    try:
        yield
    except (ValueError, TypeError, OSError, SyntaxError, OverflowError, MemoryError, Image.DecompressionBombError) as e:
        if name is not None and not os.path.exists(name):
            raise FileNotFoundError(f"There is no image file '{name}'.") from None
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ValueError(f"'{name}' is not a readable image ({reason})." if name is not None else reason) from e


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """Return an image whose size is known and allowed; its pixels are not decoded yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=image_formats())
    except UnidentifiedImageError:  # PIL's message names an object in memory
        heif = data[4:8] == b"ftyp" and data[8:12].decode("latin-1") in HEIF
        raise ValueError(NEEDS_HEIF if heif else "no image of a known kind") from None
    if image.width * image.height > max_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {max_pixels:,d}")
    if image.format == "TIFF":
        _check_tiles(image, data, max_pixels)
    return image


def _check_tiles(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise ValueError for a TIFF whose tile needs more memory than its picture may have.

    A tile is decoded whole, however small the picture is. Of a tag that is listed twice, PIL reads the last entry and
    the library below it the first one.
    """
    tags = _tiff_tags(data)
    if any(tags.count(tag) > 1 for tag in _TIFF_SIZES):
        raise ValueError("a TIFF that gives one of its sizes twice")
    width, length = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))  # type: ignore[attr-defined]
    if width * length > max_pixels:
        raise ValueError(f"tiles of {width} x {length} pixels, more than {max_pixels:,d}")


def _tiff_tags(data: bytes) -> list[int]:
    """Return the tags of a TIFF's first directory, one for each entry."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
        first, step = (start + 8, 20) if big else (start + 2, 12)
        last = min(first + step * count, len(data) - 2)
        return [struct.unpack_from(f"{order}H", data, at)[0] for at in range(first, last, step)]
    except struct.error:
        raise ValueError("a TIFF that ends too soon") from None


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


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, upright by its EXIF data, transparency laid on white.

    Colours are converted in bands of rows, so that a large image is never copied whole in wider types.

    Raises:
        ValueError: if its pixels are floats outside 0..1.
    """
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # Greys of 8 bits may be stored in wider pixels.
    narrow = image.mode == "I" and bool(np.max(image.getextrema()) <= 255)
    rgb = Image.new("RGB", image.size)
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(_band_to_rgb(image.crop(box), narrow), box)
    return rgb


def _band_to_rgb(image: Image.Image, narrow: bool) -> Image.Image:
    """Return some rows of an image as RGB, transparency laid on white; `narrow`: wide greys lie in 0..255."""
    if image.mode in ("La", "RGBa"):  # colours times transparency
        image = image.convert(image.mode.upper())
    if image.mode.startswith("I") or image.mode == "F":
        image = _from_wide_greys(np.asarray(image), narrow)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_wide_greys(grey: np.ndarray, narrow: bool) -> Image.Image:
    """Return an 8-bit image of greys that PIL would clip: of 16 bits, of 8 bits in wider pixels, or floats in 0..1."""
    if grey.dtype.kind == "f":
        return from_array(grey)
    return Image.fromarray((grey / (1 if narrow else 257)).round().clip(0, 255).astype(np.uint8))


def from_array(array: np.ndarray) -> Image.Image:
    """Return an image of an array: (H, W) or (H, W, channels), of 0..255 integers, 0..1 floats or booleans.

    Raises:
        ValueError: if it has another shape, or values out of range.
    """
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
