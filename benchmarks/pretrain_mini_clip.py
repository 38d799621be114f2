"""Pretrain the offline backbone `modeling_splip/mini_clip` contrastively on the drawn world's photos and captions.

    python -m benchmarks.pretrain_mini_clip

Images and captions are matched as CLIP does, over all 40 categories: mostly photos, easy ones before hard ones, and a
small share of clean "web" drawings. Drawings are also matched with the photos of the same instances. The instances come
from sequences of their own, so that no picture of a data set is ever seen here.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import time
from pathlib import Path

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
        "patch_size": 8,
    }
    both = {"projection_dim": 64, "hidden_act": "gelu"}
    return CLIPModel(CLIPConfig(text_config=text | both, vision_config=vision | both, projection_dim=64))


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


class Batches:
    """Draws training batches from the pool: photos and drawings with captions, easy instances first."""

    def __init__(self, args: argparse.Namespace, tokenizer: CLIPTokenizer):
        self.args, self.tokenizer = args, tokenizer
        self.instances, self.photos, self.drawings = render_pool(args.pool, args.seed, args.workers)
        self.rng = generator("pretraining batches", args.seed)

    def draw(self, progress: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return pixels (B, 3, 64, 64) and token ids for a point of the training, 0 to 1.

        The last `drawings` rows are drawings of the first `drawings` rows' instances.
        """
        args, rng = self.args, self.rng
        limit = int(args.pool * min(1.0, 0.15 + 1.4 * progress))
        rows = rng.integers(0, limit, args.batch - args.drawings)
        drawn = rows[: args.drawings]
        keep = min(0.85, 0.3 + progress)
        texts = [caption(self.instances[i], "photo", rng, keep) for i in rows]
        texts += [caption(self.instances[i], ("sketch", "drawing")[k % 2], rng, keep) for k, i in enumerate(drawn)]
        pixels = to_pixels(np.concatenate([self.photos[rows], self.drawings[drawn]]))
        ids = self.tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")
        return pixels, dict(ids)


def train(args: argparse.Namespace, model: CLIPModel, tokenizer: CLIPTokenizer) -> list[float]:
    """Train in place and return the matching loss of every step."""
    batches = Batches(args, tokenizer)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    losses = []
    model.train()
    bar = tqdm(range(args.steps), "pretraining")
    for step in bar:
        warm = min(1.0, (step + 1) / 60)
        lr = args.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        pixels, ids = batches.draw(step / args.steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            images = model.get_image_features(pixels).pooler_output
            texts = model.get_text_features(**ids).pooler_output
        images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)  # (B, D)
        scale = model.logit_scale.exp().clamp(max=100)
        matching = contrast(images, texts, scale)
        same = contrast(images[: args.drawings], images[-args.drawings :], scale)
        optimizer.zero_grad()
        (matching + args.instance_weight * same).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(matching.item())
        if step % 20 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", same=f"{same.item():.3f}")
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
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=256, help="images a step, drawings included")
    parser.add_argument("--drawings", type=int, default=32, help="clean drawings a step")
    parser.add_argument("--instance-weight", type=float, default=0.3, help="weight of matching drawing and photo")
    parser.add_argument("--pool", type=int, default=50_000, help="instances drawn beforehand")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    started = time.perf_counter()
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    losses = train(args, model, tokenizer)
    record = {
        "world_version": WORLD_VERSION,
        "world_hash": world_hash(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "workers")},
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
