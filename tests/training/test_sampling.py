"""What a training batch holds: the same whatever draws it, and never a held-back class."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from conftest import SEEN
from torch.utils.data import DataLoader

from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training.augmentation import Augmentation
from modeling_splip.training.sampling import EpochBatches, Key, TrainingItems, collate

CLASSES = [name for name in SEEN if name not in ("cup", "star")]  # the others are held back


@pytest.fixture(scope="module")
def processor(tiny_clip) -> SplipProcessor:
    return SplipProcessor.from_clip(tiny_clip)


@pytest.fixture(scope="module")
def category(polygons, processor) -> TrainingItems:
    return TrainingItems(polygons, CLASSES, processor, "category", seed=0)


@pytest.fixture(scope="module")
def pairs(polygons, processor) -> TrainingItems:
    return TrainingItems(polygons, CLASSES, processor, "fine_grained", seed=0)


def keys(batches: EpochBatches, epoch: int = 0, start: int = 0) -> list[list[Key]]:
    batches.epoch, batches.start = epoch, start
    return list(batches)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
    )


def rows_named(dataset, modality: str, names: list[str]) -> set[int]:
    return set(dataset.rows("train", modality, names).tolist())


def test_an_epoch_holds_every_sketch_once(category, polygons):
    batches = EpochBatches(category, 4, micro_batches=1)
    rows = [key.row for batch in keys(batches) for key in batch]
    assert len(category) == 4 * 13 and batches.steps == len(batches) == 13
    assert set(rows) == rows_named(polygons, "sketch", CLASSES) and len(rows) == 52
    assert [key.position for batch in keys(batches) for key in batch] == list(range(52))
    # What does not fill a global batch is left out, another part in every epoch.
    batches = EpochBatches(category, 10, micro_batches=2)
    assert batches.steps == 2 and len(batches) == 4
    left = [set(rows) - {key.row for batch in keys(batches, epoch) for key in batch} for epoch in range(3)]
    assert [len(rest) for rest in left] == [12, 12, 12] and left[0] != left[1]


def test_the_order_depends_on_seed_and_epoch_alone(category, polygons, processor):
    batches = EpochBatches(category, 4)
    assert keys(batches, 0) == keys(EpochBatches(category, 4), 0)
    assert [k.row for b in keys(batches, 0) for k in b] != [k.row for b in keys(batches, 1) for k in b]
    other = TrainingItems(polygons, CLASSES, processor, "category", seed=1)
    assert [k.row for b in keys(EpochBatches(other, 4)) for k in b] != [k.row for b in keys(batches, 0) for k in b]


def test_an_item_depends_on_seed_epoch_and_position_alone(category, polygons, processor):
    key = Key(3, 17, int(category.sketches[5]))
    again = TrainingItems(polygons, CLASSES, processor, "category", seed=0)
    _ = again[Key(0, 0, int(category.sketches[0]))]  # an earlier draw changes nothing
    assert same(category[key], again[key])
    others = [key._replace(epoch=4), key._replace(position=18)]
    assert all(not same(category[key], category[other]) for other in others)
    reseeded = TrainingItems(polygons, CLASSES, processor, "category", seed=1)
    assert not same(category[key], reseeded[key])


def test_triplets(category, polygons):
    photos, seen_negatives, seen_positives = {}, Counter(), set()
    for row in polygons.rows("train", "photo"):
        name = polygons.class_names[polygons.columns["train"]["label"][row]]
        photos[category.pixels(int(row)).numpy().tobytes()] = (name, int(row))
    assert len(photos) == 36
    for epoch in range(5):
        for key in [key for batch in keys(EpochBatches(category, 4), epoch) for key in batch]:
            item = category[key]
            label = polygons.class_names[polygons.columns["train"]["label"][key.row]]
            assert CLASSES[item["label"]] == label
            assert torch.equal(item["sketch"], category.pixels(key.row))
            assert item["sketch"].shape == item["positive"].shape == item["negative"].shape == (3, 32, 32)
            positive, negative = photos[item["positive"].numpy().tobytes()], photos[item["negative"].numpy().tobytes()]
            assert positive[0] == label
            assert negative[0] == CLASSES[item["negative_label"]] != label
            seen_negatives[label, negative[0]] += 1
            seen_positives.add(positive[1])
    # Every photo of the classes trained on, every pair of classes, and nothing of those held back.
    assert seen_positives == rows_named(polygons, "photo", CLASSES)
    assert len(seen_negatives) == 4 * 3


def test_pairs_are_the_sketch_and_its_own_photo(pairs, polygons):
    ids = polygons.columns["train"]["instance_id"]
    assert len(pairs) == 4 * 12  # the drawing without a photo is left out
    for row in pairs.sketches:
        item = pairs[Key(0, 0, int(row))]
        assert ids[item["instance"]] == ids[row] != ""
        assert torch.equal(item["positive"], pairs.pixels(item["instance"]))
        assert "negative" not in item


@pytest.mark.parametrize("size", [2, 3, 6])
def test_groups_of_one_class_stay_in_their_micro_batch(pairs, size):
    batches = EpochBatches(pairs, 2 * size, micro_batches=2, pairs_per_class=size)
    for epoch in range(3):
        rows = [key.row for batch in keys(batches, epoch) for key in batch]
        assert len(rows) == len(set(rows)) == batches.steps * 4 * size
        for batch in keys(batches, epoch):
            for first in range(0, len(batch), size):
                group = [pairs[key] for key in batch[first : first + size]]
                assert len({item["label"] for item in group}) == 1
                assert len({item["instance"] for item in group}) == size
    # Two drawings of each of six photos: nothing is left over by groups of 2, 3 and 6.
    assert batches.steps * 4 * size == len(pairs)


def test_groups_leave_small_classes_out_and_say_so(polygons, processor):
    columns = polygons.columns["train"]
    few = np.flatnonzero(
        (columns["label"] != SEEN.index("ant")) | np.isin(columns["instance_id"], ["ant/ant0", "ant/ant1"])
    )
    smaller = dataclasses.replace(polygons, train=polygons.train.select(few))
    items = TrainingItems(smaller, CLASSES, processor, "fine_grained", seed=0)
    with pytest.warns(UserWarning, match=r"1 seen classes have fewer than pairs_per_class=3 photos .* left out"):
        batches = EpochBatches(items, 3, pairs_per_class=3)
    labels = {items[key]["label"] for batch in keys(batches) for key in batch}
    assert labels == {1, 2, 3}


@pytest.mark.parametrize("level", ["category", "pairs"])
def test_processes_share_one_global_order(level, request):
    items = request.getfixturevalue(level)
    whole = keys(EpochBatches(items, 12))
    parts = EpochBatches(items, 6, micro_batches=2, pairs_per_class=3)
    ranks = [list(BatchSamplerShard(parts, num_processes=2, process_index=rank)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == parts.steps
    if level == "category":
        assert [first + second for first, second in zip(*ranks, strict=True)] == whole
    else:
        grouped = keys(EpochBatches(items, 12, pairs_per_class=3))
        assert [first + second for first, second in zip(*ranks, strict=True)] == grouped


def test_workers_change_nothing(category):
    def load(workers: int) -> list[dict]:
        batches = EpochBatches(category, 13)
        batches.epoch = 2
        return list(DataLoader(category, batch_sampler=batches, collate_fn=collate, num_workers=workers))

    alone, shared = load(0), load(2)
    assert len(alone) == len(shared) == 4
    assert all(same(one, other) for one, other in zip(alone, shared, strict=True))
    assert alone[0]["sketch"].shape == (13, 3, 32, 32) and alone[0]["label"].dtype == torch.int64


ALL = Augmentation(0.5, crop=0.3, colour=0.4, thickness=2, dropout=0.2, rotation=20, scale=0.2, shift=0.1)


@pytest.mark.parametrize("level", ["category", "fine_grained"])
def test_augmentation_is_a_function_of_seed_epoch_and_position(polygons, processor, level):
    items = TrainingItems(polygons, CLASSES, processor, level, 0, ALL)
    plain = TrainingItems(polygons, CLASSES, processor, level, 0)
    batches = EpochBatches(items, 8, pairs_per_class=2)
    first, again = ([items[key] for batch in keys(batches, 3) for key in batch] for _ in range(2))
    assert all(same(one, other) for one, other in zip(first, again, strict=True))
    # Sketches and photos are those without it; beside each stand the numbers of its changes.
    for key, item in zip((key for batch in keys(batches, 3) for key in batch), first, strict=True):
        expected = plain[key]
        images = [name for name, value in expected.items() if isinstance(value, torch.Tensor)]
        assert item.keys() == expected.keys() | {f"{name}_changes" for name in images}
        assert same({name: item[name] for name in expected}, expected)
        assert len({tuple(item[f"{name}_changes"].tolist()) for name in images}) == len(images)
    key = keys(batches, 3)[0][0]
    for other in (key._replace(epoch=4), key._replace(position=18)):
        assert not torch.equal(items[key]["sketch_changes"], items[other]["sketch_changes"])
    # Workers, each with a cache of its own, change nothing.
    loaded = DataLoader(items, batch_sampler=batches, collate_fn=collate, num_workers=2)
    stacked = [collate(first[start : start + 8]) for start in range(0, len(first), 8)]
    assert all(same(one, other) for one, other in zip(loaded, stacked, strict=True))
    # The images as they are, of which the domain means are made, stay what they were.
    for modality in ("sketch", "photo"):
        row = int(items.images(modality)[0])
        assert torch.equal(items.pixels(row), plain.pixels(row))


def test_a_sketch_and_its_own_photo_are_mirrored_together(polygons, processor):
    def mirrored(level: str) -> list[tuple[bool, bool]]:
        items = TrainingItems(polygons, CLASSES, processor, level, 0, Augmentation(flip=0.5))
        drawn = [items[Key(0, position, int(row))] for position, row in enumerate(items.sketches)]
        return [tuple(bool(item[f"{name}_changes"][-1]) for name in ("sketch", "positive")) for item in drawn]

    assert set(mirrored("fine_grained")) == {(True, True), (False, False)}
    assert len(set(mirrored("category"))) == 4


def test_an_epoch_continues_where_it_stopped(category):
    batches = EpochBatches(category, 4, micro_batches=2)
    whole = keys(batches, epoch=1)
    assert keys(batches, epoch=1, start=4) == whole[8:]
    assert len(batches) == len(whole) - 8


def test_only_the_classes_trained_on_feed_the_means(category, polygons):
    for modality in ("sketch", "photo"):
        assert set(category.images(modality).tolist()) == rows_named(polygons, modality, CLASSES)


def test_what_cannot_be_trained_on(polygons, processor, category, pairs):
    with pytest.raises(ValueError, match="needs two seen classes or more"):
        TrainingItems(polygons, ["ant"], processor, "category", seed=0)
    with pytest.raises(ValueError, match="a stream cannot give: write the data to the disk with `splip prepare"):
        streaming = dataclasses.replace(polygons, train=polygons.train.with_format(None).to_iterable_dataset())
        TrainingItems(streaming, CLASSES, processor, "category", seed=0)
    with pytest.raises(ValueError, match="52 training sketches do not fill one global batch of 60: lower batch_size"):
        EpochBatches(category, 30, micro_batches=2)
    with pytest.raises(ValueError, match="A micro-batch of 6 cannot hold whole groups of pairs_per_class=4"):
        EpochBatches(pairs, 6, pairs_per_class=4)
    with pytest.raises(ValueError, match="No seen class has 7 photos with sketches: lower pairs_per_class"):
        EpochBatches(pairs, 14, pairs_per_class=7)
    nameless = polygons.train.remove_columns("instance_id").add_column("instance_id", [""] * len(polygons.train))
    with pytest.raises(ValueError, match="'polygons' has no training sketch whose photo is known"):
        TrainingItems(dataclasses.replace(polygons, train=nameless), CLASSES, processor, "fine_grained", seed=0)
    drawings = polygons.train.select(polygons.rows("train", "sketch"))
    with pytest.raises(ValueError, match="Seen class 'ant' has no photos"):
        TrainingItems(dataclasses.replace(polygons, train=drawings), CLASSES, processor, "category", seed=0)
    photos = polygons.train.select(polygons.rows("train", "photo"))
    with pytest.raises(ValueError, match="'polygons' has no training sketches"):
        TrainingItems(dataclasses.replace(polygons, train=photos), CLASSES, processor, "category", seed=0)
