"""Images as bytes on their way to a device, where they are finished: a third of what float32 values take."""

from typing import Any

import torch
from torch import Tensor, nn


def byte_pixels(image_processor: Any, image: Any) -> Tensor:
    """Return a prepared RGB image resized and cut as a CLIP's processor does, not normalised yet: (3, H, W) uint8."""
    settings = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    return image_processor([image], **settings)["pixel_values"][0]


class PixelValues(nn.Module):
    """The rest of what a CLIP's image processor does, on the device: the same float32 values to the last bit.

    It has no state: its constants come from the processor.

    Args:
        image_processor: of the CLIP.
    """

    levels: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, image_processor: Any):
        super().__init__()
        scale = float(image_processor.rescale_factor) if image_processor.do_rescale else 1.0
        mean, std = (
            (image_processor.image_mean, image_processor.image_std) if image_processor.do_normalize else (0.0, 1.0)
        )
        # What each byte is, scaled in double precision and rounded once, as the processor does.
        self.register_buffer("levels", (torch.arange(256, dtype=torch.float64) * scale).float(), persistent=False)
        for name, value in (("mean", mean), ("std", std)):
            constant = torch.tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixel values (B, 3, H, W) of bytes of that shape."""
        return (self.levels[pixels.int()] - self.mean) / self.std
