"""What both pretraining scripts share: tokenizer, start of the positions, optimizer, contrast, the saved folder."""

import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, trainers
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

RECORD = "record.json"
TEXT_LENGTH = 40  # tokens of the longest caption
START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Return a byte-level BPE tokenizer in which every one of `words` is one token.

    As in CLIP's own vocabulary all 256 bytes are there, within and at the end of a word, so that unknown words are
    spelt in pieces.
    """
    pieces = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner = trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    pieces.train_from_iterator(words, learner)
    learnt = json.loads(pieces.to_str())["model"]
    alphabet = sorted({chr(code) for code in _byte_characters()})
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TEXT_LENGTH)


def _byte_characters() -> list[int]:
    """Return the code points that byte-level BPE writes the 256 bytes with: printable ones as they are."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [256 + k for k in range(256 - len(printable))]


def text_settings(tokenizer: CLIPTokenizer, **sizes: int) -> dict[str, Any]:
    """Return the text part of a `CLIPConfig` for that tokenizer; `sizes` are width, layers and heads."""
    eos = tokenizer.eos_token_id
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": eos, "pad_token_id": eos}
    return {"vocab_size": len(tokenizer), "max_position_embeddings": TEXT_LENGTH, **ids, **sizes}


@torch.no_grad()
def start_positions(model: CLIPModel, height: float) -> None:
    """Start the patch positions as waves of that height along both axes, in place.

    CLIP's own start is many times fainter than the patches of so small a tower, and positions then take hundreds of
    steps to be noticed.
    """
    table = model.vision_model.embeddings.position_embedding.weight  # (1 + P, d_v)
    side = math.isqrt(len(table) - 1)
    rows, columns = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    rates = 2 * math.pi * 20 ** -torch.linspace(0, 1, table.shape[1] // 4)
    angles = [axis.reshape(-1, 1) * rates for axis in (rows, columns)]  # 2 x (P, d_v / 4)
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)  # (P, d_v)
    table[1:] = height * waves


def build_processor(size: int, mean: Sequence[float], std: Sequence[float]) -> CLIPImageProcessorPil:
    """Return the image processor: resize and crop to `size` pixels, centre the values of each channel about 0."""
    crop = {"height": size, "width": size}
    return CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size=crop, image_mean=list(mean), image_std=list(std)
    )


def build_optimizer(parameters: Sequence[torch.nn.Parameter], rate: float, decay: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices alone: no bias, no LayerNorm, no scale."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float, warm: float, progress: float, floor: float) -> None:
    """Set the rate of a step: `warm` (0 to 1) of the warm-up, then a half cosine from `rate` to `floor * rate`.

    Args:
        progress: share of the training that is done, 0 to 1.
    """
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, warm) * (floor + (1 - floor) * cosine)


def contrast(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric cross-entropy of matching row i of `a` with row i of `b`, both (B, D) unit-norm."""
    logits = scale * a @ b.T  # (B, B)
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def check_folder(folder: Path) -> None:
    """Raise before any long work if a backbone cannot be saved there; makes nothing.

    Raises:
        ValueError: the folder holds other things than a backbone; `save_backbone` would remove them.
        OSError: nothing can be written there.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise ValueError(f"'{folder}' holds other files than a backbone's: choose an empty or a new folder by --out.")
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if folder.is_file() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OSError(f"Cannot write the folder '{folder}': choose another one by --out.")


def save_backbone(
    folder: Path,
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    processor: CLIPImageProcessorPil,
    record: dict[str, Any],
) -> None:
    """Write a backbone aside, then put it in `folder`'s place: weights, tokenizer, processor and `record.json`.

    A card (README.md) that the folder holds is kept.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    processor.save_pretrained(partial)
    (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    card = folder / "README.md"
    if card.is_file():
        shutil.copy(card, partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
