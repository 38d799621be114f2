"""Opening image files, RGB images of them, and telling what these show. One reader for data, galleries and models.

What a picture shows is told from its grey levels: a drawing in light strokes on a dark ground, a line drawing, or no
drawing. All limits are our choice; docs/data.md says how often they are right on people's drawings and real photos.
"""

import importlib.util
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor

from .image_memory import MAX_BYTES, ROOM, check_tiles, row_bands

# PIL knows more formats, and starts other programs for some: Ghostscript for EPS.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# PIL's own limit for a decompression bomb: 2^31 bytes / 4 / 3, in pixels.
MAX_PIXELS = 178_956_970
HEIF = ("heic", "heif", "mif1", "msf1", "hevc", "heix")  # brands at the start of such a file
NEEDS_HEIF = "a HEIC picture, which pip install 'splip[heic]' lets be read"

BLANK_RANGE = 16  # if the grey levels (0..255) of a drawing differ by less than this, nothing is drawn
_SIDE = 128  # a picture is judged at about this many pixels on its longer side
_NEAR = 32  # grey levels (0..255) that are close enough to the ground's to belong to it
_EVEN = 0.5  # a dark ground covers at least this share of a drawing
_MOSTLY = 0.6  # at least this share of a drawing is paper
_WHITE = 230  # grey levels from here on are near white
_BRIGHT = 0.85  # times the level that 5 % of the pixels reach: from here on a pixel may be paper
_STROKES = 16  # a stroke is thinner than the longer side divided by this
_THICK = 0.01  # less than this share of a line drawing is thicker than a stroke
SAMPLE = 32  # as many pictures tell what a data set or a gallery holds


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
    with image, ROOM.taken(image.width * image.height):
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


@contextmanager
def _sentences(name: str | None) -> Iterator[None]:
    """Turn what PIL and the system raise into one sentence that names the file, if there is one."""
    try:
        yield
    except Exception as e:  # decoders raise nearly anything on damaged files
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
        check_tiles(image, data, max_pixels)
    return image


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
    """Return an RGB image, upright by its EXIF data, transparency laid on white.

    What would not be seen on white, such as white strokes, is laid on black.

    Raises:
        ValueError: if the image has no pixels, or floats outside 0..1.
    """
    if not image.width or not image.height:
        raise ValueError(f"An image must have pixels, got one of {image.width} x {image.height}.")
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    on_white = _in_bands(image, "white")
    if not is_blank(on_white) or not (image.has_transparency_data or image.mode in ("La", "RGBa")):
        return on_white
    on_black = _in_bands(image, "black")
    return on_white if is_blank(on_black) else on_black


def _in_bands(image: Image.Image, ground: str) -> Image.Image:
    """Return an image as RGB, transparency laid on a colour; rows are converted in bands, so that copies are small."""
    narrow = image.mode == "I" and bool(np.max(image.getextrema()) <= 255)
    rgb = Image.new("RGB", image.size)
    for box in row_bands(*image.size):
        band = image.crop(box)
        if band.mode in ("La", "RGBa"):  # colours times transparency
            band = band.convert(band.mode.upper())
        if band.mode.startswith("I") or band.mode == "F":
            band = _from_wide_greys(np.asarray(band), narrow)
        if band.has_transparency_data:
            rgba = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", rgba.size, ground), rgba)
        rgb.paste(band.convert("RGB"), box)
    return rgb


def image_from_array(array: np.ndarray) -> Image.Image:
    """Return an image of an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): integers in 0..255, floats in 0..1.

    Raises:
        ValueError: if it has another shape or holds other values.
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


def image_from_tensor(tensor: Tensor) -> Image.Image:
    """Return an image of a tensor (H, W) or (channels, H, W), as `image_from_array` does."""
    tensor = tensor.detach().cpu()
    tensor = tensor.float() if tensor.is_floating_point() else tensor  # numpy has no bfloat16
    if tensor.ndim == 3:
        tensor = tensor.movedim(0, -1)  # (H, W, channels)
    elif tensor.ndim != 2:
        raise ValueError(
            f"An image tensor must be (channels, H, W) or (H, W), got shape {tuple(tensor.shape)}: pass a list "
            "of images for a batch."
        )
    return image_from_array(tensor.numpy())


def _from_wide_greys(grey: np.ndarray, narrow: bool) -> Image.Image:
    """Return an 8-bit image of greys that PIL would clip: of 16 bits, of 8 bits in wider pixels, or floats in 0..1."""
    if grey.dtype.kind == "f":
        return image_from_array(grey)
    return Image.fromarray((grey / (1 if narrow else 257)).round().clip(0, 255).astype(np.uint8))


def is_blank(image: Image.Image) -> bool:
    """Return whether nothing is drawn on an RGB image: all grey levels are nearly the same."""
    return int(np.ptp(np.asarray(image.convert("L")))) < BLANK_RANGE


def has_dark_ground(image: Image.Image) -> bool:
    """Return whether a drawing has light strokes on a dark ground: an even one, and what is on it is lighter.

    The ground's grey level is the median of the picture's border.
    """
    values = np.asarray(_small_grey(image)).astype(int)
    level = np.median(np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]]))
    lighter, darker = (values > level + _NEAR).mean(), (values < level - _NEAR).mean()
    return bool(level < 128 and lighter + darker <= 1 - _EVEN and lighter > darker)


def is_line_drawing(image: Image.Image) -> bool:
    """Return whether a picture looks like a line drawing: mostly near white, nothing on it thicker than a stroke."""
    grey = _small_grey(image)
    white = (np.asarray(grey) >= _WHITE).mean()
    if not _MOSTLY <= white < 1:
        return False
    size = max(3, max(grey.size) // _STROKES | 1)
    thick = (np.asarray(grey.filter(ImageFilter.MaxFilter(size))) < _WHITE).mean()
    return bool(thick < _THICK)


def is_no_drawing(image: Image.Image) -> bool:
    """Return whether a picture does not look drawn: most of it is not as bright as paper. A dark ground is inverted."""
    values = np.asarray(_small_grey(ImageOps.invert(upright_rgb(image)) if has_dark_ground(image) else image))
    return bool((values >= _BRIGHT * np.percentile(values, 95)).mean() < _MOSTLY)


def doubt(sketches: Iterable[Image.Image] = (), photos: Iterable[Image.Image] = ()) -> str:
    """Return what looks wrong about pictures, without a full stop, if most of a modality look so; "" otherwise.

    Args:
        sketches, photos: about `SAMPLE` of what is taken for sketches, and for photos.
    """
    clauses = []
    for name, wrong, looks in (
        ("sketches", [is_no_drawing(image) for image in sketches], "do not look drawn"),
        ("photos", [is_line_drawing(image) for image in photos], "look like line drawings"),
    ):
        if 2 * sum(wrong) > len(wrong):
            clauses.append(f"{sum(wrong)} of {len(wrong)} {name} {looks}")
    return " and ".join(clauses)


def sample(count: int) -> list[int]:
    """Return at most `SAMPLE` of the numbers below `count`, evenly spread."""
    step = max(1, count / SAMPLE)
    return [int(number * step) for number in range(min(count, SAMPLE))]


def _small_grey(image: Image.Image) -> Image.Image:
    """Return the grey levels of a picture, reduced to about `_SIDE` pixels."""
    grey = upright_rgb(image).convert("L")
    return grey.reduce(max(1, max(grey.size) // _SIDE))
