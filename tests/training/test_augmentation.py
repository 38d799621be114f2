"""Each change of a training image does what its name says, and nothing where it is off."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance
from torch import Tensor

from modeling_splip.training.augmentation import Augmentation


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Smooth colours, (3, 64, 64) bytes."""
    small = Image.fromarray(np.random.default_rng(1).integers(60, 180, (8, 8, 3), np.uint8))
    return as_tensor(small.resize((64, 64), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def sketch() -> Tensor:
    """A cross of lines two pixels wide, off the centre, (3, 64, 64) bytes."""
    sheet = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(sheet).rectangle((10, 20, 49, 21), fill="black")
    ImageDraw.Draw(sheet).rectangle((40, 8, 41, 55), fill="black")
    return as_tensor(sheet)


def changed(change: Augmentation, modality: str, image: Tensor, rng, times: int = 1, mirrored: bool = False) -> Tensor:
    """Return copies of one image, each changed anew, in one batch: (times, 3, H, W)."""
    changes = torch.stack([change.sample(modality, rng, mirrored) for _ in range(times)])
    return change.apply(modality, image.expand(times, -1, -1, -1), changes)


def ink(image: Tensor) -> np.ndarray:
    return (image.float().mean(dim=0) < 128).numpy()


def test_off_is_off(photo, sketch, rng):
    off = Augmentation()
    assert not off and not off.mirrors(rng)
    assert torch.equal(changed(off, "photo", photo, rng)[0], photo.float())
    assert torch.equal(changed(off, "sketch", sketch, rng)[0], sketch.float())


def test_each_image_of_a_batch_has_its_own_changes(photo, sketch, rng):
    every = Augmentation(0.5, crop=0.3, colour=0.4, thickness=2, dropout=0.2, rotation=20, scale=0.2, shift=0.1)
    for modality, image in (("photo", photo), ("sketch", sketch)):
        images = torch.stack([image, image.flip(-2), image.flip(-1)])
        changes = torch.stack([every.sample(modality, rng, mirrored) for mirrored in (False, True, False)])
        together = every.apply(modality, images, changes)
        alone = torch.cat([every.apply(modality, images[i : i + 1], changes[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(together, alone)
        assert together.min() >= 0 and together.max() <= 255
        assert not torch.allclose(together[0], images[0].float())


def test_flip(photo, sketch, rng):
    half = Augmentation(flip=0.5)
    assert half and 0.4 < np.mean([half.mirrors(rng) for _ in range(1000)]) < 0.6
    for modality, image in (("photo", photo), ("sketch", sketch)):
        assert torch.equal(changed(half, modality, image, rng, mirrored=True)[0], image.float().flip(-1))
        assert torch.equal(changed(half, modality, image, rng)[0], image.float())


def test_crop_takes_a_part_of_the_photo_in_its_proportions(rng):
    """A photo whose red is x and whose green is y tells which part is left."""
    ramp = torch.arange(64.0) * 4
    photo = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
    parts = changed(Augmentation(crop=0.5), "photo", photo, rng, 200)[
        ..., 8:-8, 8:-8
    ]  # cubic weights overshoot at edges
    width = parts[:, 0].diff(dim=-1).mean(dim=(-2, -1)) / 4  # pixels of the photo for one of the part
    height = parts[:, 1].diff(dim=-2).mean(dim=(-2, -1)) / 4
    torch.testing.assert_close(width, height, atol=0.01, rtol=0)
    assert 0.49 < width.min() < 0.55 and 0.95 < width.max() <= 1.01
    centre = parts.mean(dim=(-2, -1))[:, :2] / 4 - 31.5
    room = 32 * (1 - width[:, None])
    assert (centre.abs() <= room + 0.3).all() and (centre.abs() > 0.8 * room).float().mean() > 0.1
    assert centre.std(dim=0).min() > 3


def test_colours_are_those_of_pillow(photo, rng):
    change = Augmentation(colour=0.4)
    for _ in range(20):
        changes = change.sample("photo", rng, False)
        image = Image.fromarray(photo.permute(1, 2, 0).numpy())
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhance, factor in zip(enhancers, changes[6:9].tolist(), strict=True):
            image = enhance(image).enhance(factor)
        found = change.apply("photo", photo[None], changes[None])[0]
        assert (found - as_tensor(image).float()).abs().max() < 5  # Pillow cuts decimals off after each


def test_thickness_grows_strokes_on_each_side(sketch, rng):
    widths = set()
    for thick in map(ink, changed(Augmentation(thickness=2), "sketch", sketch, rng, 30)):
        assert (thick >= ink(sketch)).all()
        widths.add(int(thick[:, 15].sum()))  # across the level line only
    assert widths == {2, 4, 6}


def test_dropout_erases_cells(sketch, rng):
    left = []
    for erased in map(ink, changed(Augmentation(dropout=0.25), "sketch", sketch, rng, 60)):
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
    for moved in changed(Augmentation(**{name: value}), "sketch", sketch, rng, 40):
        assert moved[:, 0, 0].tolist() == [255, 255, 255]
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


def test_around_a_drawing_is_white_and_around_a_photo_nothing(rng):
    black = torch.zeros(3, 64, 64, dtype=torch.uint8)
    moved = changed(Augmentation(shift=0.5), "sketch", black, rng, 20)
    assert (moved[:, :, 32, 32] < 0.01).all()  # the centre is ink still
    edges = moved[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (edges.amax(dim=1) > 254.99).all()
    torch.testing.assert_close(
        changed(Augmentation(crop=0.5), "photo", black + 100, rng, 20) - 100, moved * 0, atol=0.01, rtol=0
    )


def test_no_content_decides_what_is_computed():
    """So a GPU never waits, and nothing compiles again: images on the meta device have no content to ask for."""
    every = Augmentation(0.5, crop=0.3, colour=0.4, thickness=2, dropout=0.2, rotation=20, scale=0.2, shift=0.1)
    for modality in ("photo", "sketch"):
        changes = torch.stack([every.sample(modality, np.random.default_rng(seed), False) for seed in range(2)])
        images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        assert every.apply(modality, images.to("meta"), changes.to("meta")).shape == images.shape


@pytest.mark.parametrize("wrong", [{"flip": -0.1}, {"crop": 1.0}, {"thickness": 9}, {"dropout": float("nan")}])
def test_impossible_values_are_refused(wrong):
    with pytest.raises(ValueError, match=f"augment.{next(iter(wrong))} must lie between 0 and"):
        Augmentation(**wrong)
