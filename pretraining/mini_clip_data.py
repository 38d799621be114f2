"""Training batches of `mini_clip`: the drawn world's instances as photos and drawings, with captions."""

import multiprocessing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from datasets_scripts.world.instances import CATEGORY_NAMES, KNOBS, Instance, caption, generator, make_instance
from datasets_scripts.world.render import SIZE, draw_photo, draw_sketch

MEAN, STD = 0.5, 0.27
CHUNK = 1000  # instances that a process draws at a time
PAIRS = 48  # instances of a batch that it holds both as photo and as drawing, at most
TOLD_PHOTOS, TOLD_DRAWINGS = 96, 32  # images of a batch with a caption, at most


def to_pixels(images: np.ndarray) -> Tensor:
    """Return (B, 3, 64, 64) float32 as the saved image processor would, from (B, 64, 64, 3) uint8."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # (B, 3, 64, 64)
    return (pixels / 255 - MEAN) / STD


def render_pool(count: int, seed: int, workers: int) -> tuple[list[Instance], np.ndarray, np.ndarray]:
    """Return `count` instances from easy to hard, their photos and clean drawings, each (count, 64, 64, 3) uint8."""
    jobs = [(k, min(k + CHUNK, count), seed, count) for k in range(0, count, CHUNK)]
    instances: list[Instance] = []
    photos = np.empty((count, SIZE, SIZE, 3), np.uint8)
    drawings = np.empty_like(photos)
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        results = pool.imap(_render, jobs)
        for job, (some, a, b) in zip(jobs, tqdm(results, "drawing", len(jobs)), strict=True):
            instances += some
            photos[job[0] : job[1]], drawings[job[0] : job[1]] = a, b
    return instances, photos, drawings


def _render(job: tuple[int, int, int, float]) -> tuple[list[Instance], np.ndarray, np.ndarray]:
    """Return the instances of one job (start, stop, seed, total), their photos and their drawings."""
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

    pixels: Tensor
    categories: Tensor
    photos: int
    both: int
    told: np.ndarray
    captions: dict[str, Tensor]


class Batches:
    """Draws training batches from the pool: easy instances first, many drawings before few."""

    def __init__(self, batch: int, pool: int, seed: int, workers: int, tokenizer: CLIPTokenizer):
        self.batch, self.tokenizer = batch, tokenizer
        self.instances, self.photos, self.drawings = render_pool(pool, seed, workers)
        self.rng = generator("pretraining batches", seed)

    def draw(self, progress: float) -> Batch:
        """Return a batch for a point of the training, 0 to 1."""
        rng = self.rng
        drawn = int(max(0.25, 0.75 - 1.25 * progress) * self.batch)
        photos = self.batch - drawn
        known = int(len(self.instances) * min(1.0, 0.15 + 1.2 * progress))
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
