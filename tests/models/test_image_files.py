"""What a picture shows: light strokes on dark ground, a line drawing, no drawing; and files that nobody can decode."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from modeling_splip.image_files import (
    SAMPLE,
    doubt,
    has_dark_ground,
    is_line_drawing,
    is_no_drawing,
    open_image,
    sample,
    upright_rgb,
)


def drawing(ground: int = 255, ink: int = 0, side: int = 100) -> Image.Image:
    image = Image.new("L", (side, side), ground)
    ImageDraw.Draw(image).ellipse(
        [side // 5, side // 5, side - side // 5, side - side // 5], outline=ink, width=max(1, side // 30)
    )
    return image


def noise(mean: float, spread: float) -> Image.Image:
    grey = np.random.default_rng(0).normal(mean, spread, (100, 100))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def test_a_dark_ground():
    assert has_dark_ground(drawing(0, 255))
    assert has_dark_ground(drawing(60, 120))  # chalk
    assert not has_dark_ground(drawing())
    assert not has_dark_ground(drawing(110, 0))  # ink on dark paper
    assert not has_dark_ground(Image.new("RGB", (40, 40), "black"))  # nothing drawn
    assert not has_dark_ground(noise(50, 60))  # a photo at night
    silhouette = Image.new("L", (100, 100), 255)
    silhouette.paste(0, (5, 5, 95, 95))
    assert not has_dark_ground(silhouette)


def test_a_line_drawing():
    assert is_line_drawing(drawing()) and is_line_drawing(drawing(side=1000)) and is_line_drawing(drawing(side=30))
    assert not is_line_drawing(Image.new("RGB", (40, 40), "white"))  # nothing drawn
    assert not is_line_drawing(noise(128, 60))
    product = Image.new("L", (100, 100), 255)
    product.paste(noise(128, 30).resize((40, 40)), (30, 30))  # a thing on white
    assert not is_line_drawing(product)


def test_no_drawing():
    assert is_no_drawing(noise(128, 60))
    assert not is_no_drawing(drawing()) and not is_no_drawing(drawing(0, 255)) and not is_no_drawing(drawing(200, 30))


def test_most_pictures_decide():
    drawn, photo = drawing(), noise(128, 60)
    assert doubt([drawn] * 3, [photo] * 3) == doubt() == doubt([drawn, photo], [photo, drawn]) == ""
    assert doubt([photo] * 2, [photo, drawn]) == "2 of 2 sketches do not look drawn"
    assert doubt(photos=[drawn, drawn, photo]) == "2 of 3 photos look like line drawings"
    assert " and " in doubt([photo], [drawn])


def test_a_sample_is_spread():
    assert sample(3) == [0, 1, 2] and sample(0) == []
    chosen = sample(1000)
    assert len(set(chosen)) == len(chosen) == SAMPLE and chosen[0] == 0 and 960 < chosen[-1] < 1000


@pytest.mark.parametrize("name", ["open23", "real_mini", "sketchy21", "seen"])
def test_on_drawings_and_photos(shared_data, name):
    """A part of what docs/data.md reports."""
    folder = shared_data / name
    sketches, photos = (
        [upright_rgb(open_image(path)) for path in sorted((folder / kind).rglob("*.*"))[::50]]
        for kind in ("sketch", "photo")
    )
    assert len(sketches) > 10 and len(photos) > 20
    assert not any(map(has_dark_ground, sketches))
    assert all(has_dark_ground(ImageOps.invert(sketch)) for sketch in sketches)
    assert not any(map(is_no_drawing, sketches))
    assert sum(map(is_line_drawing, sketches)) >= 0.99 * len(sketches)
    assert sum(map(is_line_drawing, photos)) < 0.05 * len(photos)
    assert not doubt(sketches, photos)
    assert "sketches do not look drawn and" in doubt(photos, sketches)


@pytest.mark.parametrize("box", [b"pitm", b"iloc", b"iinf", b"av01"])
def test_whatever_a_decoder_raises_is_one_sentence(tmp_path, box):
    """PIL's decoder of AVIF raises RuntimeError."""
    Image.init()
    if "AVIF" not in Image.OPEN:
        pytest.skip("this PIL reads no AVIF")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "x.avif")
    (tmp_path / "x.avif").write_bytes((tmp_path / "x.avif").read_bytes().replace(box, b"xxxx", 1))
    with pytest.raises(ValueError, match=r"x\.avif' is not a readable image \(.*\)\.$"):
        open_image(tmp_path / "x.avif")
