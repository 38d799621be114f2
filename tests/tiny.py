"""What many tests share: a tiny random CLIP, class names, and drawings of polygons with their photos.

The CLIP is of uneven shape, d_v != d_t and L_v != L_t, so that one in the other's place is noticed.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CLASSES = ["cup", "hot air balloon", "zebra", "ant", "power outlet"]
SEEN = ["ant", "cup", "kite", "owl", "star", "zebra"]
UNSEEN = ["bell", "fish", "hot air balloon"]


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: every byte is a token, so that class names have different lengths."""
    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])


def tiny_config(**vision) -> CLIPConfig:
    text = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 48,
        "vocab_size": 514,
        "bos_token_id": 512,
        "eos_token_id": 513,
        "pad_token_id": 513,
        "projection_dim": 16,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 16,
    } | vision
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def save_clip(config: CLIPConfig, folder: Path) -> str:
    torch.manual_seed(0)
    # Ten times CLIP's initial spread: with the usual one attention is almost uniform and errors in it hide.
    config.initializer_factor = 1.0
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    size = config.vision_config.image_size
    CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(
        folder
    )
    return str(folder)


def draw_pair(folder: Path, name: str, corners: int, number: int, sketches: int) -> None:
    """Write a photo of a coloured polygon, whose corners tell the class, and drawings of its outline."""
    rng = np.random.default_rng([corners, number])
    angles = rng.uniform(0, 6.28) + np.arange(corners) * 6.28 / corners
    points = np.stack([20 + 13 * np.cos(angles), 16 + 13 * np.sin(angles)], axis=1)
    photo = Image.fromarray(rng.integers(90, 160, (32, 40, 3), np.uint8))
    colour = (25 * corners, int(rng.integers(256)), 255 - 25 * corners)
    ImageDraw.Draw(photo).polygon([tuple(point) for point in points], fill=colour)
    photo.save(folder / "photo" / name / f"{name}{number}.png")
    for index in range(sketches):
        sketch = Image.new("L", (40, 32), 255)
        near = points + rng.normal(0, 1, points.shape)
        ImageDraw.Draw(sketch).polygon([tuple(point) for point in near], outline=0, width=2)
        sketch.save(folder / "sketch" / name / f"{name}{number}-{index + 1}.png")
