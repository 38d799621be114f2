"""Images as bytes: normalised they are what the processor gives, to the last bit, and stored ones are the same."""

import os

import numpy as np
import pytest
import torch
from conftest import SEEN
from PIL import Image
from transformers import CLIPImageProcessorPil

from modeling_splip.common import processes
from modeling_splip.common.pixels import byte_pixels
from modeling_splip.common.processes import worker_count
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training import pixels as pixels_file
from modeling_splip.training.augmentation import Augmentation
from modeling_splip.training.pixels import TrainingPixels
from modeling_splip.training.sampling import EpochBatches, TrainingItems


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.5]},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False},
        {"size": {"height": 40, "width": 24}, "crop_size": {"height": 32, "width": 32}},
    ],
    ids=str,
)
def test_bytes_normalised_later_are_the_processors_values(settings):
    processor = CLIPImageProcessorPil(
        **{"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}} | settings
    )
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    noise[:16, :16] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for image in (Image.fromarray(noise), Image.fromarray(noise[:32, :32])):
        found = byte_pixels(processor, image)
        assert found.dtype == torch.uint8 and found.shape == (3, 32, 32)
        expected = processor([image], return_tensors="pt")["pixel_values"]
        assert torch.equal(TrainingPixels(processor)(found[None]), expected.float())


def test_normalising_adds_nothing_to_a_checkpoint():
    assert not TrainingPixels(CLIPImageProcessorPil()).state_dict()


@pytest.fixture
def processor(tiny_clip) -> SplipProcessor:
    return SplipProcessor.from_clip(tiny_clip)


def test_stored_images_are_the_decoded_ones_and_are_made_once(polygons, processor, monkeypatch):
    plain = TrainingItems(polygons, SEEN, processor, "category", 0)
    decoded = []
    original = pixels_file.byte_pixels
    monkeypatch.setattr(pixels_file, "byte_pixels", lambda *args: (decoded.append(1), original(*args))[1])
    stored = TrainingItems(polygons, SEEN, processor, "category", 0, store=1)
    assert len(decoded) in (0, len(polygons.train))  # 0 where an earlier run of the tests left the file
    for key in next(iter(EpochBatches(plain, 12))):
        one, other = stored[key], plain[key]
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in other)
    decoded.clear()
    row = int(plain.sketches[0])
    expected = plain.pixels(row)
    again = TrainingItems(polygons, SEEN, processor, "category", 0, store=1)
    assert not decoded and torch.equal(again.pixels(row), expected)
    # Other settings are another file.
    processor.image_processor.resample = Image.Resampling.NEAREST
    other = TrainingItems(polygons, SEEN, processor, "category", 0, store=1)
    assert len(decoded) == len(polygons.train) and not torch.equal(other.pixels(row), expected)


def test_stored_images_are_changed_like_others(polygons, processor):
    change = Augmentation(flip=0.5, crop=0.3, rotation=20)
    stored, plain = (TrainingItems(polygons, SEEN, processor, "category", 0, change, store) for store in (1, 0))
    for key in next(iter(EpochBatches(plain, 12))):
        one, other = stored[key], plain[key]
        assert one.keys() == other.keys() and "negative_changes" in one
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in other)


def test_images_with_drawn_changes_are_changed_then_normalised():
    settings, change = CLIPImageProcessorPil(), Augmentation(flip=1.0)
    values = TrainingPixels(settings, change)
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    changes = torch.stack([change.sample("photo", rng, mirrored) for mirrored in (True, False)])
    expected = torch.stack([values(pixels)[0].flip(-1), values(pixels)[1]])
    torch.testing.assert_close(values(pixels, "photo", changes), expected)


def test_workers_by_the_device(monkeypatch):
    assert worker_count(3) == 3 and worker_count(0, 2) == 0
    monkeypatch.setattr(processes, "on_cpu", lambda: True)
    assert worker_count(-1) == 0
    monkeypatch.setattr(processes, "on_cpu", lambda: False)
    for cores, computing, expected in ((64, 1, 16), (16, 1, 15), (16, 4, 3), (2, 1, 1), (1, 1, 1), (8, 8, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert worker_count(-1, computing) == expected
