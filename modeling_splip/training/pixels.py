"""Training images as bytes: made once on the disk if asked for, moved to the device as they are, finished there."""

from typing import Any

import datasets
import numpy as np
import PIL
import torch
import transformers
from datasets.fingerprint import Hasher
from torch import Tensor, nn

from .augmentation import NO_AUGMENTATION, Augmentation


def byte_pixels(image_processor: Any, image: Any) -> Tensor:
    """Return a prepared RGB image resized and cut as a CLIP's processor does, not normalised yet: (3, H, W) uint8."""
    settings = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    return image_processor([image], **settings)["pixel_values"][0]


class PixelValues(nn.Module):
    """The rest of what a CLIP's image processor does, on the device: the same float32 values to the last bit.

    It has no state: its constants come from the processor.

    Args:
        image_processor: of the CLIP.
        augmentation: how images are changed that come with the numbers of their changes.
    """

    def __init__(self, image_processor: Any, augmentation: Augmentation = NO_AUGMENTATION):
        super().__init__()
        self.augmentation = augmentation
        scale = float(image_processor.rescale_factor) if image_processor.do_rescale else 1.0
        mean, std = (
            (image_processor.image_mean, image_processor.image_std) if image_processor.do_normalize else (0.0, 1.0)
        )
        # What each byte is, scaled in double precision and rounded once, as the processor does.
        self.register_buffer("levels", (torch.arange(256, dtype=torch.float64) * scale).float(), persistent=False)
        for name, value in (("mean", mean), ("std", std)):
            constant = torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, pixels: Tensor, modality: str = "photo", changes: Tensor | None = None) -> Tensor:
        """Return pixel values (B, 3, H, W) of bytes of that shape.

        Args:
            pixels: (B, 3, H, W) bytes.
            modality: what they show, "sketch" or "photo".
            changes: the numbers of their changes, (B, 75); None to leave them as they are.
        """
        if changes is None:
            return (self.levels[pixels.int()] - self.mean) / self.std
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
