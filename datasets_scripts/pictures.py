"""What the builders take for a picture: how it is named, which files are pictures, and reading with a check."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from PIL import Image

from modeling_splip.common.images import MAX_BYTES, doubt, image_suffixes, open_image, sample, upright_rgb
from modeling_splip.common.text import one_line

from .archive import Member

SAME_FORMAT = {"MPO": "JPEG"}  # JPEG with a second picture behind the first, as many cameras write


class Picture(Protocol):
    """A file of an archive (`archive.Member`), or what stands for one: strokes to draw, a row of a Parquet file.

    Attributes:
        path: what messages call it.
        name: the file name that it is stored under, without folders.
        size: bytes, as far as they are known before reading.
    """

    @property
    def path(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self) -> bytes:
        """Return the encoded image."""
        ...


def read_picture(picture: Picture) -> tuple[bytes | None, dict[str, str]]:
    """Read a picture and decode it to its end.

    Returns:
        Its bytes as they are, None where they cannot be used, and what is wrong: {} or {kind of problem: words}.
    """
    try:
        content = _content(picture)
        image = open_image(content)
        check_range(image)
    except Exception as error:  # archives and image decoders raise nearly anything on damaged files
        return None, {"unreadable": f"{picture.path} ({one_line(error) or type(error).__name__})"}
    kind = SAME_FORMAT.get(str(image.format), image.format)
    if Image.registered_extensions().get(suffix(picture.name)) != kind:
        return content, {"wrong_extension": f"{picture.path} ({kind})"}
    return content, {}


def _content(picture: Picture) -> bytes:
    """Return a picture's bytes. Raises ValueError, before any are read, where they are more than a picture has."""
    if picture.size > MAX_BYTES:
        raise ValueError(f"{picture.size:,d} bytes, more than {MAX_BYTES:,d}")
    return picture.read()


def looks_swapped(sketches: Sequence[Picture], photos: Sequence[Picture]) -> str:
    """Return a line of doubt if most sketches do not look drawn, or most photos do, by some of them; "" otherwise."""
    wrong = doubt(_sample(sketches), _sample(photos))
    return wrong and f"{wrong}: are sketches and photos swapped?"


def _sample(pictures: Sequence[Picture]) -> Iterator[Image.Image]:
    for number in sample(len(pictures)):
        with suppress(Exception):  # as in `read_picture`, which names what cannot be read
            yield upright_rgb(open_image(_content(pictures[number])))


def check_range(image: Image.Image) -> None:
    """Raise ValueError for an image of floats outside 0..1: nobody knows which of them is white."""
    if image.mode == "F":
        low, high = image.getextrema()
        if not (low >= 0 and high <= 1):  # also where they are no numbers
            raise ValueError(f"Floats must lie in 0..1, got {low}..{high}.")


def is_picture(member: Member) -> bool:
    """Return whether a file is one by its extension or, where that is unknown, by its content."""
    if member.name.startswith(".") or "__MACOSX" in member.path.split("/") or not has_text_name(member):
        return False
    return suffix(member.name) in image_suffixes() or _opens(member)


def has_text_name(member: Member) -> bool:
    """Return whether a path is text. On Linux a file's name may hold any bytes; a dataset stores text only."""
    return member.path.encode(errors="replace").decode() == member.path


def _opens(member: Member) -> bool:
    try:
        open_image(_content(member))
    except Exception:  # as in `read_picture`
        return False
    return True


def suffix(name: str) -> str:
    """Return a file name's extension in lower case, with its dot, "" where it has none."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def stem(name: str) -> str:
    """Return a file name without its extension."""
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


def photo_id_of(sketch_name: str, separator: str = "-") -> str:
    """Return the photo that a sketch was drawn of: `n02691156_58-1.png` is of `n02691156_58`; "" without a number."""
    photo, _, number = stem(sketch_name).rpartition(separator)
    return photo if number.isdigit() else ""
