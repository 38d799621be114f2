"""What a training batch holds: triplets across classes, or pairs in groups of one class.

Every random choice, augmentation included, is a function of (seed, epoch, position). So a batch does not depend on the
number of workers and processes, and a resumed run continues exactly where it stopped.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..common.pixels import byte_pixels
from ..data.dataset import SbirDataset
from .augmentation import NO_AUGMENTATION, Augmentation
from .pixels import StoredPixels

CACHE_BYTES = 2**30  # decoded images stay in memory where those of the whole dataset take no more than this


class Key(NamedTuple):
    """What a sampler asks of `TrainingItems`: epoch, position in the epoch, row of the sketch in `train`."""

    epoch: int
    position: int
    row: int


class TrainingItems(Dataset):
    """Sketches of the seen classes, each with its photos.

    An item is a dict of images, (3, H, W) bytes that `TrainingPixels` normalises, and whole numbers: `sketch`, its
    `label`, a random number `draw`, and `positive`. At category level `positive` is any photo of the class; `negative`
    is a photo of another class, drawn uniformly over the classes, and `negative_label` that class. At fine-grained
    level `positive` is the sketch's own photo, and `instance` its row. With augmentation there are also the numbers of
    each image's changes, such as `sketch_changes`, which the device that trains carries out.

    Args:
        dataset: the prepared dataset.
        classes: names of the classes to train on; labels index this list.
        processor: prepares the images.
        level: "category" or "fine_grained".
        seed: of all random choices.
        augmentation: random changes of the images.
        store: decode every image once, to a file on the disk, by this many processes; 0 to decode them when needed.

    Raises:
        ValueError: in one sentence, if the data cannot be trained on at this level.
    """

    def __init__(
        self,
        dataset: SbirDataset,
        classes: list[str],
        processor: Any,
        level: str,
        seed: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        store: int = 0,
    ):
        if isinstance(dataset.train, datasets.IterableDataset):
            raise ValueError(
                "Training needs any image at any time, which a stream cannot give: write the data to the disk with "
                "`splip prepare NAME --out OUT`, or open a prepared dataset by its Hub id, which downloads it."
            )
        self.level, self.seed, self.processor, self.rows = level, seed, processor, dataset.train
        self.augmentation = augmentation
        columns = dataset.columns["train"]
        self.modalities = columns["modality"]
        index = {dataset.class_names.index(name): number for number, name in enumerate(classes)}
        self.labels = np.array([index.get(label, -1) for label in columns["label"].tolist()])
        self.photos = [dataset.rows("train", "photo", [name]) for name in classes]
        self.sketches = dataset.rows("train", "sketch", classes)
        for name, photos in zip(classes, self.photos, strict=True):
            if not len(photos):
                raise ValueError(f"Seen class '{name}' has no photos: add photos, or leave the class out of the split.")
        if level == "category" and len(classes) < 2:
            raise ValueError("Category-level training needs two seen classes or more: hold back fewer of them.")
        if level == "fine_grained":
            self._pair(dataset.name, columns["instance_id"])
        if not len(self.sketches):
            raise ValueError(f"Dataset '{dataset.name}' has no training sketches of the classes asked for.")
        self._stored = StoredPixels(dataset.train, processor, store) if store else None
        self._cache: dict[int, torch.Tensor] | None = None
        if self._stored is None and self.pixels(int(self.sketches[0])).nbytes * len(dataset.train) <= CACHE_BYTES:
            self._cache = {}

    def __len__(self) -> int:
        return len(self.sketches)

    def __getitem__(self, key: Key) -> dict[str, torch.Tensor | int]:
        rng = np.random.default_rng([self.seed, key.epoch, key.position])
        label = int(self.labels[key.row])
        item: dict[str, Any] = {"label": label, "draw": int(rng.integers(2**31))}
        rows = {"sketch": key.row}
        if self.level == "fine_grained":
            rows["positive"] = item["instance"] = self.photo_of[key.row]
        else:
            other = int(rng.integers(len(self.photos) - 1))
            other += other >= label
            rows["positive"] = int(rng.choice(self.photos[label]))
            rows["negative"] = int(rng.choice(self.photos[other]))
            item["negative_label"] = other
        images = {name: self.pixels(row) for name, row in rows.items()}
        if not self.augmentation:
            return images | item
        mirrored = {name: self.augmentation.mirrors(rng) for name in rows}
        if self.level == "fine_grained":
            mirrored["positive"] = mirrored["sketch"]
        changes = {
            f"{name}_changes": self.augmentation.sample(self.modalities[row], rng, mirrored[name])
            for name, row in rows.items()
        }
        return images | changes | item

    def _pair(self, name: str, instance_ids: np.ndarray) -> None:
        """Keep the sketches whose own photo is there, and remember it: `photo_of` is sketch row -> photo row."""
        photos = {instance_ids[row]: int(row) for rows in self.photos for row in rows if instance_ids[row]}
        self.photo_of = {int(row): photos.get(instance_ids[row]) for row in self.sketches}
        self.sketches = np.array([row for row in self.sketches if self.photo_of[int(row)] is not None], dtype=int)
        if not len(self.sketches):
            raise ValueError(
                f"Dataset '{name}' has no training sketch whose photo is known: fine-grained training needs instance "
                "pairs."
            )

    def images(self, modality: str) -> np.ndarray:
        """Return the rows of `train` that training takes sketches or photos from."""
        return self.sketches if modality == "sketch" else np.concatenate(self.photos)

    def pixels(self, row: int) -> torch.Tensor:
        """Return one prepared image of `train`, not augmented: (3, H, W) bytes; it may be kept in memory."""
        if self._stored is not None:
            return self._stored[row]
        if self._cache is not None and row in self._cache:
            return self._cache[row]
        record = self.rows[row]
        image = self.processor.prepare(record["image"], record["modality"])
        result = byte_pixels(self.processor.image_processor, image)
        if self._cache is not None:
            self._cache[row] = result
        return result


class EpochBatches(Sampler):
    """Batches of keys, in one global order that does not depend on the number of processes.

    A global batch is one optimiser step. It consists of consecutive micro-batches, one for each process and
    accumulation step. Sketches that do not fill a global batch are left out of the epoch.

    Args:
        items: what to sample.
        batch_size: sketches in a micro-batch.
        micro_batches: number of micro-batches in a global batch.
        pairs_per_class: at fine-grained level, the size of the class groups; a group is never split over micro-batches.
    """

    def __init__(self, items: TrainingItems, batch_size: int, micro_batches: int = 1, pairs_per_class: int = 4):
        self.items, self.batch_size, self.micro_batches = items, batch_size, micro_batches
        self.pairs_per_class, self.drop_last = pairs_per_class, True
        self.epoch = 0
        self.start = 0  # global batches to skip, on resuming
        if items.level == "fine_grained" and batch_size % pairs_per_class:
            raise ValueError(
                f"A micro-batch of {batch_size} cannot hold whole groups of pairs_per_class={pairs_per_class}: make "
                "the batch size over processes and accumulation a multiple of it."
            )
        self.steps = len(self._order(0)) // (batch_size * micro_batches)  # global batches in an epoch
        if self.steps == 0:
            raise ValueError(
                f"{len(self._order(0))} training sketches do not fill one global batch of {batch_size * micro_batches}"
                ": lower batch_size."
            )

    def __len__(self) -> int:
        return (self.steps - self.start) * self.micro_batches

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order(self.epoch)
        first = self.start * self.micro_batches
        for batch in range(first, self.steps * self.micro_batches):
            positions = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [Key(self.epoch, position, int(order[position])) for position in positions]

    def _order(self, epoch: int) -> np.ndarray:
        """Return the rows of an epoch's sketches in order."""
        rng = np.random.default_rng([self.items.seed, epoch])
        if self.items.level == "category":
            return rng.permutation(self.items.sketches)
        return self._grouped(rng)

    def _grouped(self, rng: np.random.Generator) -> np.ndarray:
        """Return the rows of the sketches in shuffled groups, each of one class and of different photos."""
        size, groups, small = self.pairs_per_class, [], 0
        labels = self.items.labels[self.items.sketches]
        for label in np.unique(labels):
            rows = rng.permutation(self.items.sketches[labels == label])
            rounds: list[list[int]] = []  # round i holds every photo's i-th sketch, so no photo comes twice in it
            seen: dict[int, int] = {}
            for row in rows.tolist():
                photo = self.items.photo_of[row]
                turn = seen[photo] = seen.get(photo, -1) + 1
                if turn == len(rounds):
                    rounds.append([])
                rounds[turn].append(row)
            small += len(rounds[0]) < size
            for chosen in rounds:
                groups += [chosen[i : i + size] for i in range(0, len(chosen) - size + 1, size)]
        if not groups:
            raise ValueError(
                f"No seen class has {size} photos with sketches: lower pairs_per_class, or train at category level."
            )
        if small:
            warnings.warn(
                f"{small} seen classes have fewer than pairs_per_class={size} photos with sketches and are left out.",
                stacklevel=2,
            )
        return np.concatenate([groups[i] for i in rng.permutation(len(groups))])


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack items into a batch."""
    return {
        name: torch.stack([item[name] for item in items])
        if isinstance(items[0][name], torch.Tensor)
        else torch.tensor([item[name] for item in items])
        for name in items[0]
    }
