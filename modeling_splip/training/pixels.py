"""Training images as bytes: made once on the disk if asked for, moved to the device as they are, finished there."""

from typing import Any

import datasets
import numpy as np
import PIL
import torch
import transformers
from datasets.fingerprint import Hasher
from torch import Tensor

from ..common.pixels import PixelValues, byte_pixels
from .augmentation import NO_AUGMENTATION, Augmentation


class TrainingPixels(PixelValues):
    """`PixelValues` whose images may be changed on the device.

    Args:
        image_processor: of the CLIP.
        augmentation: how images are changed that come with the numbers of their changes.
    """

    def __init__(self, image_processor: Any, augmentation: Augmentation = NO_AUGMENTATION):
        super().__init__(image_processor)
        self.augmentation = augmentation

    def forward(self, pixels: Tensor, modality: str = "photo", changes: Tensor | None = None) -> Tensor:
        """Return pixel values (B, 3, H, W) of bytes of that shape.

        Args:
            pixels: (B, 3, H, W) bytes.
            modality: what they show, "sketch" or "photo".
            changes: the numbers of their changes, (B, 75); None to leave them as they are.
        """
        if changes is None:
            return super().forward(pixels)
        return (self.augmentation.apply(modality, pixels, changes) * self.levels[1] - self.mean) / self.std


class StoredPixels:
    """The byte pixels of every row of a split, in a memory-mapped file that `datasets` keeps and that workers share.

    It is made once for a data set and a processor's settings; an interrupted or failed making leaves no file.

    Args:
        rows: the split.
        processor: the model's `SplipProcessor`.
        workers: processes that decode.
    """

    def __init__(self, rows: datasets.Dataset, processor: Any, workers: int):
        def decode(record: dict[str, Any]) -> dict[str, bytes]:
            image = processor.prepare(record["image"], record["modality"])
            return {"pixels": byte_pixels(processor.image_processor, image).numpy().tobytes()}

        libraries = PIL.__version__, transformers.__version__
        stored = rows.map(
            decode,
            remove_columns=rows.column_names,
            features=datasets.Features({"pixels": datasets.Value("large_binary")}),
            num_proc=workers if workers > 1 else None,
            writer_batch_size=64,  # images, of which each takes 150 kB at 224 pixels
            load_from_cache_file=True,
            new_fingerprint=Hasher.hash([rows._fingerprint, processor.image_settings(), libraries]),
            desc="Decoding",
        )
        self._rows = stored.with_format("arrow")
        size = processor.image_processor.crop_size
        self._shape = (3, int(size["height"]), int(size["width"]))

    def __getitem__(self, row: int) -> Tensor:
        """Return one image: (3, H, W) uint8."""
        data = self._rows[row]["pixels"][0].as_buffer()
        return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(self._shape).copy())
