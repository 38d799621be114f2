"""Small models of every method, a batch for their objectives, and a script that loads them elsewhere."""

import torch
from tiny import CLASSES

from modeling_splip.modeling_retriever import Retriever
from modeling_splip.training.methods import METHODS

# A method joins with its row in the registry; what it can be besides its defaults stands here.
SETTINGS = {
    "splip": [{}, {"conditioning": "domain", "share_layer_norms": False}],
    "clip_at": [{}, {"layer_norms": "both"}],
}
CASES = [(name, each) for name in METHODS for each in SETTINGS.get(name, [{}])]
MODALITIES = ("sketch", "photo")


def build(name: str, settings: dict, base: str) -> Retriever:
    """Return a model whose trained parts are no longer those of the start."""
    torch.manual_seed(3)
    model = METHODS[name].model.from_clip(base, CLASSES, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    if settings.get("conditioning") == "domain":
        for modality in MODALITIES:
            model.set_domain_mean(modality, torch.randn(model.config.clip_config.vision_config.hidden_size))
    return model


def batch_of(level: str) -> dict[str, torch.Tensor]:
    images = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    batch = {"sketch": images[0], "positive": images[1], "draw": torch.tensor([7, 123, 0, 2**31 - 1])}
    if level == "category":
        labels = {"label": torch.tensor([0, 3, 1, 4]), "negative_label": torch.tensor([4, 2, 2, 0])}
        return batch | {"negative": images[2]} | labels
    return batch | {"label": torch.tensor([2, 0, 2, 0]), "instance": torch.tensor([50, 60, 70, 80])}


# A method with every part switched off is plain CLIP.
OFF = {
    "splip": {"use_b_t": False, "use_b_v": False, "use_b_vt": False, "layer_norms": "none"},
    "clip_at": {"prompts": 0, "layer_norms": "none"},
    "cross_align": {"layer_norms": "none"},
}

ELSEWHERE = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1)
for name in ("modeling_splip", "datasets_scripts"):
    sys.modules[name] = None  # as if it were not installed
from transformers import AutoModel, AutoProcessor

jobs = json.load(open(sys.argv[1]))
for job in jobs:
    try:
        AutoModel.from_pretrained(job["name"], trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("code ran that nobody trusted")
    processor = AutoProcessor.from_pretrained(job["name"], trust_remote_code=True)
    model = AutoModel.from_pretrained(job["name"], trust_remote_code=True, **job["options"])
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"
    pixels = processor(images=[job["image"]], modality="sketch")["pixel_values"]
    np.save(job["out"], model.encode(pixels, "sketch").numpy())
    print(model.fingerprint(processor))
"""
