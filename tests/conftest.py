"""Fixtures: a tiny random CLIP of uneven shape (d_v != d_t, L_v != L_t), and the shared real data where present."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CLASSES = ["cup", "hot air balloon", "zebra", "ant", "power outlet"]


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: every byte is a token, so that class names have different lengths."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

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


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> str:
    """Folder of a random CLIP: 32 px, patch 8, vision 32 x 4 layers, text 24 x 3 layers, D = 16."""
    return save_clip(tiny_config(), tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def real_mini() -> Path:
    folder = SHARED / "data" / "real_mini"
    if not folder.is_dir():
        pytest.skip(f"the real drawings and photos are not at {folder}")
    return folder


SEEN = ["ant", "cup", "kite", "owl", "star", "zebra"]
UNSEEN = ["bell", "fish", "hot air balloon"]


def draw_pair(folder: Path, name: str, corners: int, number: int, sketches: int) -> None:
    """Write a photo of a coloured polygon, whose corners tell the class, and drawings of its outline."""
    import numpy as np
    from PIL import Image, ImageDraw

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


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Folder that `splip prepare folder` wrote: SEEN and UNSEEN classes with 6 photos each, 2 drawings of every photo.

    Besides, every unseen class has photo 6 that nothing was drawn of, and every class but "bell" a drawing of no photo.
    """
    from modeling_splip.commands.main import main

    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared") / "polygons"
    for corners, name in enumerate(SEEN + UNSEEN, 3):
        for modality in ("photo", "sketch"):
            (raw / modality / name).mkdir(parents=True)
        for number in range(6):
            draw_pair(raw, name, corners, number, 2)
        if name in UNSEEN:
            draw_pair(raw, name, corners, 6, 0)
        if name != "bell":
            draw_pair(raw, name, corners, 9, 1)
            (raw / "photo" / name / f"{name}9.png").unlink()
    arguments = ["--data-dir", str(raw), "--out", str(out), "--unseen", ",".join(UNSEEN), "--title", "polygons"]
    assert main(["prepare", "folder", *arguments]) == 0
    return out


@pytest.fixture(scope="session")
def polygons(prepared):
    """The dataset in `prepared`, opened."""
    from modeling_splip.data.dataset import open_dataset

    return open_dataset(prepared)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order, so that equal runs are equal to the bit; tiny models are faster so, too."""
    torch.set_num_threads(1)
