"""Streams are stored once, byte by byte, and are then a prepared dataset like any other."""

import dataclasses
import re

import datasets
import pytest
import torch

from modeling_splip.data.dataset import SPLITS, open_dataset
from modeling_splip.data.streams import store_streams
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training.sampling import EpochBatches, TrainingItems


def streamed(dataset, **changes):
    """Return the dataset with streams for splits."""
    streams = {split: getattr(dataset, split).to_iterable_dataset() for split in SPLITS}
    return dataclasses.replace(dataset, **(streams | changes))


def undecoded(rows: datasets.Dataset) -> list[dict]:
    return list(rows.cast_column("image", datasets.Image(decode=False)))


def test_what_is_stored_is_what_was_streamed(polygons, tiny_clip, tmp_path, capsys):
    stored = store_streams(streamed(polygons), tmp_path / "data")
    assert "train: 1" in capsys.readouterr().err  # the bar
    for split in SPLITS:
        ours, theirs = (getattr(dataset, split) for dataset in (stored, polygons))
        assert ours.features == theirs.features and undecoded(ours) == undecoded(theirs)
    about = ("name", "version", "seen", "unseen", "class_names")
    assert all(getattr(stored, name) == getattr(polygons, name) for name in about)
    # The same batches as from the dataset that was streamed.
    processor = SplipProcessor.from_clip(tiny_clip)
    items = [TrainingItems(data, list(polygons.seen), processor, "category", 0) for data in (stored, polygons)]
    keys = [key for batch in EpochBatches(items[0], 12) for key in batch]
    assert keys == [key for batch in EpochBatches(items[1], 12) for key in batch]
    for key in keys[:12]:
        ours, theirs = (each[key] for each in items)
        assert all(torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(theirs[name])) for name in theirs)


def test_images_that_are_files_are_stored_with_their_bytes(polygons, prepared, tmp_path):
    raw = sorted(prepared.parent.parent.glob("raw*"))[0] / "photo" / "ant" / "ant0.png"
    row = {"modality": "photo", "label": 0, "instance_id": "", "source": "user", "copies": 1}
    features = polygons.gallery.features
    stream = datasets.IterableDataset.from_generator(
        lambda: iter([row | {"image": {"path": str(raw), "bytes": None}}]), features=features
    )
    stored = store_streams(streamed(polygons, gallery=stream), tmp_path / "data")
    assert undecoded(stored.gallery)[0]["image"]["bytes"] == raw.read_bytes()


def test_a_stream_that_breaks_leaves_nothing_half(polygons, tmp_path):
    reads = []

    def breaking():
        reads.append("train")
        yield from polygons.train.select(range(3))
        if len(reads) == 1:
            raise ConnectionError("the network is gone")

    stream = datasets.IterableDataset.from_generator(breaking, features=polygons.train.features)
    dataset = streamed(polygons, train=stream)
    with pytest.raises(ConnectionError):
        store_streams(dataset, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    assert len(store_streams(dataset, tmp_path / "data").train) == 3
    # From now on the folder is read, and the stream is not.
    assert len(store_streams(dataset, tmp_path / "data").train) == 3 == len(open_dataset(tmp_path / "data").train)
    assert len(reads) == 2 and [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_cannot_be_stored(polygons, tmp_path):
    lacking = streamed(polygons, query=polygons.query.remove_columns("copies").to_iterable_dataset())
    with pytest.raises(ValueError, match="The stream of 'query' has no column 'copies' of a known type"):
        store_streams(lacking, tmp_path / "data")
    untyped = datasets.IterableDataset.from_generator(lambda: iter([]))
    with pytest.raises(ValueError, match="The stream of 'train' has no column 'image' of a known type"):
        store_streams(streamed(polygons, train=untyped), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
    store_streams(streamed(polygons), tmp_path / "data")
    other = dataclasses.replace(streamed(polygons), version="2-other")
    with pytest.raises(
        ValueError, match=re.escape(f"'{tmp_path / 'data'}' holds 'polygons', version {polygons.version}, not")
    ):
        store_streams(other, tmp_path / "data")
