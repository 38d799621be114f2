"""Fixtures: a tiny random CLIP of uneven shape (d_v != d_t, L_v != L_t), and the shared real data where present."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CLASSES = ["cup", "hot air balloon", "zebra", "ant", "big old owl"]


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
