"""Pretrain the offline backbone `modeling_splip/mini_clip` contrastively on the drawn world's photos and captions.

    python -m benchmarks.pretrain_mini_clip

Images are matched with captions as CLIP does, over all 40 categories: photos, easy ones before hard ones, and clean
"web" drawings, first many and then few. Captions that name all of an instance are solved by colours and backgrounds,
and a tower this small then never looks at shapes: so each image is also told apart from the short captions of the other
categories, and a classifier that is thrown away afterwards helps the image tower off its plateau. Drawings are also
matched with the photos of the same instances. The instances come from sequences of their own: no picture of a data set
is ever seen here.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, trainers
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from datasets_scripts.world import (
    CATEGORY_NAMES,
    KNOBS,
    WORLD_VERSION,
    Instance,
    caption,
    generator,
    make_instance,
    vocabulary,
    world_hash,
)
from datasets_scripts.world_render import SIZE, draw_photo, draw_sketch

OUT = Path(__file__).resolve().parents[1] / "modeling_splip" / "mini_clip"
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = 0.5, 0.27
PAIRS = 48  # instances of a batch that it holds both as photo and as drawing, at most
TOLD_PHOTOS, TOLD_DRAWINGS = 96, 32  # images of a batch with a caption, at most


def build_tokenizer() -> CLIPTokenizer:
    """Return a byte-level BPE tokenizer in which every word of the world is one token.

    As in CLIP's own vocabulary all 256 bytes are there, within and at the end of a word, so that unknown words are
    spelt in pieces.
    """
    trainer_model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner = trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    trainer_model.train_from_iterator(vocabulary(), learner)
    learnt = json.loads(trainer_model.to_str())["model"]
    alphabet = sorted({chr(code) for code in _byte_characters()})
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=40)


def _byte_characters() -> list[int]:
    """Return the code points that byte-level BPE writes the 256 bytes with: printable ones as they are."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return printable + [256 + k for k in range(256 - len(printable))]


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return a randomly initialised CLIP whose vision and text widths differ, so that no code can mix them up."""
    eos = tokenizer.eos_token_id
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": eos,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 16,
    }
    both = {"projection_dim": 64, "hidden_act": "gelu"}
    model = CLIPModel(CLIPConfig(text_config=text | both, vision_config=vision | both, projection_dim=64))
    _start_positions(model)
    return model


def _start_positions(model: CLIPModel) -> None:
    """Start the patch positions as waves along both axes.

    CLIP's own start is 20 times fainter than the patches here, and positions take hundreds of steps to be noticed.
    """
    table = model.vision_model.embeddings.position_embedding.weight  # (1 + P, d_v)
    side = math.isqrt(len(table) - 1)
    rows, columns = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    rates = 2 * math.pi * 20 ** -torch.linspace(0, 1, table.shape[1] // 4)
    angles = [axis.reshape(-1, 1) * rates for axis in (rows, columns)]  # 2 x (P, d_v / 4)
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)  # (P, d_v)
    with torch.no_grad():
        table[1:] = 0.3 * waves


def build_processor() -> CLIPImageProcessorPil:
    """Return the image processor: resize and crop to 64 pixels, centre the values about 0."""
    size = {"shortest_edge": SIZE}
    crop = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(size=size, crop_size=crop, image_mean=[MEAN] * 3, image_std=[STD] * 3)


def _render(job: tuple[int, int, int, float]) -> tuple[list[Instance], np.ndarray, np.ndarray]:
    """Return instances with increasing hardness, their photos and every `1/share`-th one's drawing."""
    start, stop, seed, total = job
    photos = np.empty((stop - start, SIZE, SIZE, 3), np.uint8)
    drawings = np.empty((stop - start, SIZE, SIZE, 3), np.uint8)
    instances = []
    for row, number in enumerate(range(start, stop)):
        name = CATEGORY_NAMES[number % len(CATEGORY_NAMES)]
        instance = make_instance(name, number, "pretraining", seed, hard=number / total)
        photos[row] = draw_photo(instance)
        drawings[row] = draw_sketch(instance, 0, KNOBS.web)
        instances.append(instance)
    return instances, photos, drawings


def render_pool(count: int, seed: int, workers: int) -> tuple[list[Instance], np.ndarray, np.ndarray]:
    """Return `count` instances from easy to hard, their photos and clean drawings, each (count, 64, 64, 3) uint8."""
    jobs = [(k, min(k + 1000, count), seed, count) for k in range(0, count, 1000)]
    instances: list[Instance] = []
    photos = np.empty((count, SIZE, SIZE, 3), np.uint8)
    drawings = np.empty_like(photos)
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        results = pool.imap(_render, jobs)
        for job, (some, a, b) in zip(jobs, tqdm(results, "drawing", len(jobs)), strict=True):
            instances += some
            photos[job[0] : job[1]], drawings[job[0] : job[1]] = a, b
    return instances, photos, drawings


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Return (B, 3, 64, 64) float32 as the saved image processor would, from (B, 64, 64, 3) uint8."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # (B, 3, 64, 64)
    return (pixels / 255 - MEAN) / STD


def contrast(a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the symmetric cross-entropy of matching row i of `a` with row i of `b`, both (B, D) unit-norm."""
    logits = scale * a @ b.T  # (B, B)
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def zero_shot_accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, per_category: int = 25) -> float:
    """Return the share of new photos whose nearest "photo of a {category}" is right; chance is 1/40."""
    model.eval()
    jobs = [(k, n) for k in range(len(CATEGORY_NAMES)) for n in range(per_category)]
    photos = np.stack([draw_photo(make_instance(CATEGORY_NAMES[k], n, "pretraining check")) for k, n in jobs])
    text = tokenizer([f"photo of a {name}" for name in CATEGORY_NAMES], padding=True, return_tensors="pt")
    classes = F.normalize(model.get_text_features(**text).pooler_output, dim=-1)  # (40, D)
    images = F.normalize(model.get_image_features(to_pixels(photos)).pooler_output, dim=-1)  # (N, D)
    found = (images @ classes.T).argmax(1)
    return float((found == torch.tensor([k for k, _ in jobs])).float().mean())


class Batch(NamedTuple):
    """Photos first, then drawings; the first `both` photos and the first `both` drawings show the same instances.

    Attributes:
        pixels: (B, 3, 64, 64).
        categories: (B,).
        photos: how many of the rows are photos.
        both: see above.
        told: (C,) rows that have a caption.
        captions: token ids and mask of the captions, (C, J).
    """

    pixels: torch.Tensor
    categories: torch.Tensor
    photos: int
    both: int
    told: np.ndarray
    captions: dict[str, torch.Tensor]


class Batches:
    """Draws training batches from the pool: easy instances first, many drawings before few."""

    def __init__(self, args: argparse.Namespace, tokenizer: CLIPTokenizer):
        self.args, self.tokenizer = args, tokenizer
        self.instances, self.photos, self.drawings = render_pool(args.pool, args.seed, args.workers)
        self.rng = generator("pretraining batches", args.seed)

    def draw(self, progress: float) -> Batch:
        """Return a batch for a point of the training, 0 to 1."""
        args, rng = self.args, self.rng
        drawn = int(max(0.25, 0.75 - 1.25 * progress) * args.batch)
        photos = args.batch - drawn
        known = int(args.pool * min(1.0, 0.15 + 1.2 * progress))
        rows = rng.integers(0, known, photos)
        both = min(photos, drawn, PAIRS)
        rows = np.concatenate([rows, rows[:both], rng.integers(0, known, drawn - both)])
        images = np.concatenate([self.photos[rows[:photos]], self.drawings[rows[photos:]]])
        # Captions: photos, and drawings of other instances than those.
        told = np.concatenate(
            [np.arange(min(photos, TOLD_PHOTOS)), photos + both + np.arange(drawn - both)[:TOLD_DRAWINGS]]
        )
        keep = min(0.85, 0.3 + progress)
        words = [("sketch", "drawing")[row % 2] if row >= photos else "photo" for row in told]
        texts = [caption(self.instances[rows[row]], word, rng, keep) for row, word in zip(told, words, strict=True)]
        ids = self.tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")
        categories = torch.from_numpy(rows % len(CATEGORY_NAMES))
        return Batch(to_pixels(images), categories, photos, both, told, dict(ids))


def train(args: argparse.Namespace, model: CLIPModel, tokenizer: CLIPTokenizer) -> list[float]:
    """Train in place and return the caption loss of every step."""
    batches = Batches(args, tokenizer)
    classifier = torch.nn.Linear(model.config.projection_dim, len(CATEGORY_NAMES))
    parameters = [*model.parameters(), *classifier.parameters()]
    decayed, rest = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    short = [f"{modality} of a {name}" for modality in ("photo", "sketch") for name in CATEGORY_NAMES]
    short_ids = tokenizer(short, padding=True, return_tensors="pt")
    losses = []
    model.train()
    bar = tqdm(range(args.steps), "pretraining")
    for step in bar:
        warm = min(1.0, (step + 1) / 60)
        lr = args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = batches.draw(step / args.steps)
        images = F.normalize(model.get_image_features(batch.pixels).pooler_output, dim=-1)  # (B, D)
        names = F.normalize(model.get_text_features(**short_ids).pooler_output, dim=-1).chunk(2)  # 2 x (40, D)
        texts = F.normalize(model.get_text_features(**batch.captions).pooler_output, dim=-1)  # (C, D)
        scale = model.logit_scale.exp().clamp(max=100)
        told = scale * torch.cat([images[: batch.photos] @ names[0].T, images[batch.photos :] @ names[1].T])  # (B, 40)
        category = F.cross_entropy(told, batch.categories)
        direct = F.cross_entropy(10 * classifier(images), batch.categories)
        matching = contrast(images[batch.told], texts, scale)
        same = contrast(images[: batch.both], images[batch.photos : batch.photos + batch.both], scale)
        optimizer.zero_grad()
        (0.5 * category + 0.5 * direct + 0.5 * matching + args.instance_weight * same).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(matching.item())
        if step % 20 == 0:
            right = (told.argmax(1) == batch.categories).float().mean().item()
            bar.set_postfix(captions=f"{np.mean(losses[-20:]):.3f}", category=f"{right:.2f}", same=f"{same.item():.3f}")
    return losses


def save(folder: Path, model: CLIPModel, tokenizer: CLIPTokenizer, record: dict) -> None:
    """Write the backbone aside, then put it in `folder`'s place."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    build_processor().save_pretrained(partial)
    (partial / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=192, help="images a step, drawings included")
    parser.add_argument("--instance-weight", type=float, default=0.3, help="weight of matching drawing and photo")
    parser.add_argument("--pool", type=int, default=40_000, help="instances drawn beforehand")
    parser.add_argument("--threads", type=int, default=2, help="of torch; 1 is faster on a busy machine")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    args = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    losses = train(args, model, tokenizer)
    record = {
        "world_version": WORLD_VERSION,
        "world_hash": world_hash(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "workers", "threads")},
        "steps": args.steps,
        "images": args.steps * args.batch,
        "loss": round(float(np.mean(losses[-50:])), 4),
        "zero_shot_accuracy": round(zero_shot_accuracy(model, tokenizer), 4),
        "zero_shot_classes": len(CATEGORY_NAMES),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": args.seed,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    save(args.out, model, tokenizer, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
