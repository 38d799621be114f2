"""Each change of a training image does what its name says, and nothing where it is off."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_splip.training.augmentation import Augmentation


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(60, 180, (40, 60, 3), np.uint8))


@pytest.fixture(scope="module")
def sketch() -> Image.Image:
    """A cross of lines two pixels wide, off the centre, in 64 x 64."""
    sheet = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(sheet).rectangle((10, 20, 49, 21), fill="black")
    ImageDraw.Draw(sheet).rectangle((40, 8, 41, 55), fill="black")
    return sheet


def ink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")) < 128


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_off_is_off(photo, sketch, rng):
    off = Augmentation()
    assert not off and not off.mirrors(rng)
    assert same(off.photo(photo, rng, False), photo) and same(off.sketch(sketch, rng, False), sketch)


def test_flip(photo, sketch, rng):
    half = Augmentation(flip=0.5)
    assert half and 0.4 < np.mean([half.mirrors(rng) for _ in range(1000)]) < 0.6
    assert np.array_equal(np.asarray(half.photo(photo, rng, True)), np.asarray(photo)[:, ::-1])
    assert np.array_equal(np.asarray(half.sketch(sketch, rng, True)), np.asarray(sketch)[:, ::-1])


def test_crop_takes_a_part_of_the_photo_in_its_proportions(photo, rng):
    pixels, sizes, corners = np.asarray(photo), set(), set()
    for _ in range(50):
        part = np.asarray(Augmentation(crop=0.5).photo(photo, rng, False))
        height, width = part.shape[:2]
        assert 20 <= height <= 40 and abs(width / height - 1.5) < 0.1
        windows = np.lib.stride_tricks.sliding_window_view(pixels, part.shape)[..., 0, :, :, :]
        places = np.argwhere((windows == part).all(axis=(2, 3, 4)))
        assert len(places) == 1
        sizes.add(height)
        corners.add(tuple(places[0]))
    assert len(sizes) > 10 and len(corners) > 25


def test_colour_changes_no_shape(photo, rng):
    means = [np.asarray(Augmentation(colour=0.4).photo(photo, rng, False)).mean() for _ in range(50)]
    plain = np.asarray(photo).mean()
    assert min(means) < 0.8 * plain and max(means) > 1.2 * plain
    assert 0.6 * plain - 2 < min(means) and max(means) < 1.4 * plain + 2


def test_thickness_grows_strokes_on_each_side(sketch, rng):
    widths = set()
    for _ in range(30):
        thick = ink(Augmentation(thickness=2).sketch(sketch, rng, False))
        assert (thick >= ink(sketch)).all()
        widths.add(int(thick[:, 15].sum()))  # across the level line only
    assert widths == {2, 4, 6}


def test_dropout_erases_cells(sketch, rng):
    left = []
    for _ in range(60):
        erased = ink(Augmentation(dropout=0.25).sketch(sketch, rng, False))
        assert (erased <= ink(sketch)).all()
        gone = (ink(sketch) & ~erased).reshape(8, 8, 8, 8).any(axis=(1, 3))
        kept = erased.reshape(8, 8, 8, 8).any(axis=(1, 3))
        assert not (gone & kept).any()  # whole cells
        left.append(erased.sum() / ink(sketch).sum())
    assert 0.65 < np.mean(left) < 0.85


@pytest.mark.parametrize(("name", "value"), [("rotation", 30.0), ("scale", 0.4), ("shift", 0.1)])
def test_affine_moves_the_drawing_on_white(sketch, rng, name, value):
    spots = np.argwhere(ink(sketch)) + 0.5 - 32
    seen = []
    for _ in range(40):
        moved = Augmentation(**{name: value}).sketch(sketch, rng, False)
        assert np.asarray(moved)[0, 0].tolist() == [255, 255, 255]
        places = np.argwhere(ink(moved)) + 0.5 - 32
        if name == "shift":
            seen.append(np.abs(places.mean(axis=0) - spots.mean(axis=0)).max() / 64)
        elif name == "scale":
            seen.append(abs(np.linalg.norm(places.mean(axis=0)) / np.linalg.norm(spots.mean(axis=0)) - 1))
        else:
            angles = [np.degrees(np.arctan2(*points.mean(axis=0))) for points in (places, spots)]
            seen.append(abs((angles[0] - angles[1] + 180) % 360 - 180))
    most = value * 1.15 + 0.01
    assert 0.6 * value < max(seen) < most and min(seen) < 0.3 * value


@pytest.mark.parametrize("wrong", [{"flip": -0.1}, {"crop": 1.0}, {"thickness": 9}, {"dropout": float("nan")}])
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ValueError, match=f"augment.{next(iter(wrong))} must lie between 0 and"):
        Augmentation(**wrong)
