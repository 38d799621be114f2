"""What is decoded, and how much memory it may take: tiles, sizes, bands of rows, few large pictures at once."""

import io
import os
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_splip import image_files, image_memory
from modeling_splip.image_files import image_in_work, open_image, upright_rgb
from modeling_splip.processing_splip import SplipProcessor

SIZE = (23, 17)


def tiff(entries: list[tuple[int, int]], order: str = "<", big: bool = False) -> bytes:
    """Return a grey TIFF of 1 x 1 pixel, compressed, with further entries (tag, value), in order as given."""
    pixels = zlib.compress(bytes(256))
    known = [(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (277, 1)]
    count = len(known) + len(entries) + 2
    head, step = (16 + 8, 20) if big else (8 + 2, 12)
    at = head + step * count + (8 if big else 4)
    every = [*known, *entries, (324, at), (325, len(pixels))]
    word = "Q" if big else "I"
    rows = [struct.pack(f"{order}HH{word}I", tag, 4, 1, value) + bytes(4 * big) for tag, value in every]
    start = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    number = struct.pack(f"{order}{'Q' if big else 'H'}", count)
    return (b"II" if order == "<" else b"MM") + start + number + b"".join(rows) + bytes(8 if big else 4) + pixels


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tile_larger_than_any_picture_is_refused(order, big):
    """The picture has one pixel, but its tile would be decoded whole: 2 GB from 150 bytes."""
    assert open_image(tiff([(322, 16), (323, 16)], order, big)).size == (1, 1)
    with pytest.raises(ValueError, match=r"^tiles of 46336 x 46336 pixels, more than 178,956,970$"):
        open_image(tiff([(322, 46336), (323, 46336)], order, big))
    with pytest.raises(ValueError, match=r"^tiles of 16 x 16 pixels, more than 255$"):
        open_image(tiff([(322, 16), (323, 16)], order, big), 255)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_size_that_is_given_twice_is_refused(order, big):
    """PIL reads the last entry, the library below it the first: a check of one says nothing of the other."""
    twice = [(322, 46336), (323, 46336), (322, 16), (323, 16)]
    with pytest.raises(ValueError, match="gives one of its sizes twice"):
        open_image(tiff(twice, order, big))


def test_a_file_larger_than_any_picture_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(2**30 + 1)  # sparse
    with pytest.raises(ValueError, match=r"large.png' is not a readable image \(1,073,741,825 bytes, more than"):
        open_image(tmp_path / "large.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="no regular file"):
        open_image(tmp_path / "pipe.png")


def pictures() -> dict[str, Image.Image]:
    """One picture of every mode, with transparency in all its ways."""
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 4), dtype=np.uint8))
    wide = rng.integers(0, 65536, SIZE[::-1], dtype=np.uint16)
    found = {mode: rgba.convert(mode) for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")}
    found |= {"La": found["LA"].convert("La"), "RGBa": rgba.convert("RGBa"), "I;16": Image.fromarray(wide)}
    found |= {"I": Image.fromarray(wide.astype(np.int32)), "narrow": Image.fromarray((wide // 257).astype(np.int32))}
    found["F"] = Image.fromarray((wide / 65535).astype(np.float32))
    for name, key in (("P", 3), ("RGB", (1, 2, 3)), ("L", 9)):
        found[f"{name} keyed"] = found[name].copy()
        found[f"{name} keyed"].putpixel((0, 0), key)
        found[f"{name} keyed"].info["transparency"] = key
    return found


def whole_to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image at once, as plainly as possible."""
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode in ("I", "I;16", "F"):
        grey = np.asarray(image).astype(np.float64)
        top = 1 if image.mode == "F" else 255 if grey.max() <= 255 else 65535
        image = Image.fromarray((grey / top * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@pytest.mark.parametrize("band", [1, 50, 1 << 20])
def test_bands_of_rows_give_the_pixels_of_the_whole(monkeypatch, band):
    monkeypatch.setattr(image_memory, "BAND", band)
    for name, image in pictures().items():
        assert np.array_equal(np.asarray(upright_rgb(image)), np.asarray(whole_to_rgb(image))), name


@pytest.mark.parametrize("size", [(60, 25), (25, 60), (41, 41), (400, 3), (3, 400)])
@pytest.mark.parametrize("modality", ["photo", "sketch"])
def test_a_large_image_is_made_small_early_and_to_the_same_pixels(tiny_clip, monkeypatch, size, modality):
    processor = SplipProcessor.from_clip(tiny_clip)
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    wanted = processor(images=image, modality=modality)["pixel_values"]
    monkeypatch.setattr(image_memory, "LARGE", 0)
    for band in (1, 100, 1 << 20):
        monkeypatch.setattr(image_memory, "BAND", band)
        assert max(processor.prepare(image, modality).size) <= 16 * 32
        assert processor(images=image, modality=modality)["pixel_values"].equal(wanted)


def test_a_thin_drawing_is_never_padded_to_its_square(tiny_clip, monkeypatch):
    """40,000 x 40 pixels would need a square of 5 GB."""
    image = Image.new("RGB", (40_000, 40), "white")
    ImageDraw.Draw(image).line([0, 20, 40_000, 20], fill="black", width=30)
    largest = []
    new = Image.new
    monkeypatch.setattr(
        Image, "new", lambda mode, size, *rest: largest.append(size[0] * size[1]) or new(mode, size, *rest)
    )
    assert SplipProcessor.from_clip(tiny_clip).prepare(image, "sketch").size == (32, 32)
    assert max(largest) <= 32 * 40_000


def test_few_large_pictures_are_in_work_at_once_and_small_ones_never_wait(monkeypatch):
    """Nine threads want 4 of 9 pixels each, one wants 20: never more than 9, but the one is served, alone."""
    monkeypatch.setattr(image_memory, "LARGE", 3)
    room, used, seen, lock = image_memory.Room(9), 0, [], threading.Lock()

    def work(pixels: int) -> None:
        nonlocal used
        with room.taken(pixels):
            with lock:
                used += pixels
                seen.append(used)
            time.sleep(0.01)
            with lock:
                used -= pixels

    threads = [threading.Thread(target=work, args=(20 if number == 5 else 4,)) for number in range(10)]
    for thread in threads:
        thread.start()
    with room.taken(3):  # returns at once, whoever waits
        pass
    for thread in threads:
        thread.join(60)
    assert len(seen) == 10 and sorted(seen)[-1] == 20 and sorted(seen)[-2] <= 8
    with pytest.raises(RuntimeError), room.taken(9):
        raise RuntimeError
    with room.taken(9):  # given back by who failed
        pass


def test_a_large_picture_is_in_work_until_its_caller_is_done(monkeypatch):
    file = io.BytesIO()
    Image.new("L", (40, 40)).save(file, "PNG")
    monkeypatch.setattr(image_memory, "LARGE", 0)
    monkeypatch.setattr(image_files, "ROOM", image_memory.Room(1600))
    with image_in_work(file.getvalue()) as image:
        assert image.size == (40, 40)
        waiting = threading.Thread(target=open_image, args=(file.getvalue(),))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()
