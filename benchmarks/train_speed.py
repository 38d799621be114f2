"""Does the input pipeline hide behind the training step? And CLIP-AT's step beside the way its public code writes it.

    python -m benchmarks.train_speed               # ViT-B/32 sizes, random weights; about an hour on two cores
    OMP_NUM_THREADS=1 python -m benchmarks.train_speed --batch 4 --steps 5 --files 1000   # the committed result
    python -m benchmarks.train_speed --quick       # tiny widths, 2 steps, and no result file

Images are drawn by program and prepared by `splip prepare`, so that what is measured is what training does: decode,
resize, augment, normalise. Rates are images a second (three of every triplet), from medians over steps: of the
pipeline alone, of the step alone on one batch, and of both together. The pipeline hides where both together are as
fast as the step alone, within 5 %. With as many threads as cores a worker competes with the step on a CPU.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from benchmarks.prepare_speed import CLASSES, UNSEEN, draw_files
from benchmarks.speed_cases import SHAPES, clip_config
from datasets_scripts.world.instances import CATEGORY_NAMES
from modeling_splip.clip_base import MINI_CLIP, resolve_base
from modeling_splip.common.files import write_json
from modeling_splip.common.processes import worker_count
from modeling_splip.data.dataset import open_dataset
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training import sampling
from modeling_splip.training.augmentation import Augmentation
from modeling_splip.training.losses import class_loss, cosine_distance, triplet_loss
from modeling_splip.training.methods import METHODS
from modeling_splip.training.objective import Objective
from modeling_splip.training.objective_clip_at import ClipAtObjective
from modeling_splip.training.pixels import TrainingPixels
from modeling_splip.training.sampling import EpochBatches, TrainingItems, collate

RESULTS = Path(__file__).parent / "results" / "train_speed.json"
IMAGES_OF_A_TRIPLET = 3
HIDES_WITHIN = 1.05
PRECISIONS = {"no": None, "bf16": torch.bfloat16}
NAMED_CLASSES = 104  # of Sketchy's second split: what SpLIP's text pass costs grows with them
# Typical strengths; off in every recipe.
AUGMENTATION = Augmentation(
    flip=0.5, crop=0.2, colour=0.2, thickness=1, dropout=0.1, rotation=10, scale=0.1, shift=0.05
)


class ThreeForwards(ClipAtObjective):
    """CLIP-AT's category loss the way its public code runs it: sketch, photo and negative in forwards of their own."""

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the same losses as `ClipAtObjective` at category level."""
        s, p, n = (
            self.model(batch[name], modality, return_class_embeds=False).embeds
            for name, modality in (("sketch", "sketch"), ("positive", "photo"), ("negative", "photo"))
        )
        labels = (batch["label"], batch["label"], batch["negative_label"])
        terms = [class_loss(x, self.class_embeds, y, self.tau) for x, y in zip((s, p, n), labels, strict=True)]
        triplet = triplet_loss(s, p, n, self.settings.margin, cosine_distance)
        return {"loss": triplet + self.settings.alpha * torch.stack(terms).mean()}


class Step:
    """Forward, backward and Adam on a batch."""

    def __init__(self, objective: Objective, device: str, precision: str):
        self.objective, self.device, self.dtype = objective.to(device).train(), device, PRECISIONS[precision]
        self.optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad])

    def __call__(self, batch: dict[str, Tensor]) -> float:
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            loss = self.objective(batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())  # waits for the device


def median_seconds(work: Callable[[], Any], steps: int, title: str) -> float:
    """Return the median time of some work, after one unmeasured time."""
    work()
    seconds = []
    for _ in tqdm(range(steps), desc=title, leave=False):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def random_base(folder: Path, shape: str) -> Path:
    """Write a random CLIP of a published shape, with the packaged tokenizer."""
    torch.manual_seed(0)
    CLIPModel(clip_config(shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_base(MINI_CLIP), trust_remote_code=False).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def endless(items: TrainingItems, args: argparse.Namespace, start: int = 0) -> Iterator[dict[str, Tensor]]:
    """Yield batches as train_accelerate.py does, epoch after epoch."""
    batches = EpochBatches(items, args.batch)
    loader = DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
        pin_memory=args.device == "cuda",
    )
    for batches.epoch in range(start, 10**6):
        yield from loader


def pipeline(items: TrainingItems, step: Step, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the pipeline alone, the step alone, and both together."""
    alone, together = endless(items, args), endless(items, args, start=1)
    batch = next(alone)
    seconds = {
        "pipeline alone": median_seconds(lambda: next(alone), args.steps, "pipeline"),
        "step alone": median_seconds(lambda: step(batch), args.steps, "step"),
        "both together": median_seconds(lambda: step(next(together)), args.steps, "both"),
    }
    images = IMAGES_OF_A_TRIPLET * args.batch
    return {
        "images_a_second": {name: round(images / value, 1) for name, value in seconds.items()},
        "together_by_step_alone": round(seconds["both together"] / seconds["step alone"], 3),
        "hides": seconds["both together"] <= HIDES_WITHIN * seconds["step alone"],
    }


def clip_at(batch: dict[str, Tensor], objectives: dict[str, Objective], args: argparse.Namespace) -> dict[str, Any]:
    """Time CLIP-AT's step and the three-forward one in turn, on the same weights at the start."""
    steps = {name: Step(objective, args.device, args.precision) for name, objective in objectives.items()}
    first = {name: step(batch) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in tqdm(range(args.steps), desc="CLIP-AT", leave=False):
        for name in sorted(steps, reverse=bool(index % 2)):
            began = time.perf_counter()
            steps[name](batch)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds_a_step": {name: round(value, 4) for name, value in medians.items()},
        "three_forwards_by_ours": round(medians["three forwards"] / medians["ours"], 3),
        "first_losses": {name: round(value, 5) for name, value in first.items()},
    }


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Draw and prepare the data, build the models, measure everything."""
    sampling.CACHE_BYTES = 0  # the images of a benchmark do not fit: each is decoded every time
    draw_files(folder / "raw", args.files)
    command = [sys.executable, "-m", "modeling_splip", "prepare", "folder", "--data-dir", str(folder / "raw")]
    subprocess.run([*command, "--out", str(folder / "data"), "--unseen", ",".join(UNSEEN)], check=True)
    dataset = open_dataset(folder / "data")
    base = str(random_base(folder / "base", args.shape))
    processor, classes = SplipProcessor.from_clip(base), list(dataset.seen)
    names = [*classes, *(f"{colour}{name}" for colour in ("", "red ", "blue ") for name in CATEGORY_NAMES)]
    names = names[:NAMED_CLASSES]  # of two or three tokens, as class names have
    models = {name: METHODS[name].model.from_clip(base, names) for name in args.methods}
    report: dict[str, Any] = {}
    for method, model in models.items():
        objective = METHODS[method].objective(model)
        step = Step(objective, args.device, args.precision)
        cases = {"plain": (Augmentation(), 0), "augmented": (AUGMENTATION, 0)}
        if args.predecode:
            cases["predecoded"] = (Augmentation(), max(args.workers, 1))
            cases["predecoded, augmented"] = (AUGMENTATION, max(args.workers, 1))
        for title, (augmentation, store) in cases.items():
            objective.pixels = TrainingPixels(processor.image_processor, augmentation).to(args.device)
            items = TrainingItems(dataset, classes, processor, "category", 0, augmentation, store)
            report.setdefault(method, {})[title] = pipeline(items, step, args)
            args.keep(report)
    if "clip_at" not in args.methods:
        return report
    ways = {"ours": ClipAtObjective, "three forwards": ThreeForwards}
    model_class = METHODS["clip_at"].model
    objectives = {name: way(model_class.from_clip(base, names).to(args.device)) for name, way in ways.items()}
    for objective in objectives.values():
        objective.pixels = TrainingPixels(processor.image_processor)
    items = TrainingItems(dataset, classes, processor, "category", 0)
    batch = collate([items[key] for key in next(iter(EpochBatches(items, args.batch)))])
    return report | {"clip_at beside three forwards": clip_at(batch, objectives, args)}


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="triplets in a batch (192 on a GPU)")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of every case")
    parser.add_argument("--files", type=int, default=2000, help="images drawn")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare images; -1 by the device")
    parser.add_argument("--predecode", action="store_true", help="also from images that were decoded once")
    parser.add_argument("--output", type=Path, help="JSON file; default results/train_speed.json, none with --quick")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--methods", nargs="+", default=["splip", "clip_at"], choices=["splip", "clip_at", "cross_align"]
    )
    parser.add_argument("--shape", choices=SHAPES, default="B/32", help="of the random CLIP")
    parser.add_argument("--quick", action="store_true", help="2 steps of 2 triplets, tiny widths, no result file")
    args = parser.parse_args()
    if args.quick:
        args.batch, args.steps, args.files, args.shape = 2, 2, 6 * CLASSES, "tiny"
    args.workers = worker_count(args.workers)
    args.output = args.output or (None if args.quick else RESULTS)
    args.keep = partial(keep, args)
    with tempfile.TemporaryDirectory() as folder:
        result = args.keep(measure(Path(folder), args))
    print(json.dumps(result, indent=2))


def keep(args: argparse.Namespace, report: dict[str, Any]) -> dict[str, Any]:
    """Return the result with what was measured so far, and write it where there is a file for it."""
    settings = {name: getattr(args, name) for name in ("batch", "steps", "files", "workers", "precision", "device")}
    settings |= {"classes": NAMED_CLASSES, "threads": torch.get_num_threads()}
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if args.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    result = {
        "shape": f"{args.shape} {SHAPES[args.shape]}",
        "settings": settings,
        "machine": machine,
        "versions": versions,
    }
    result["measured"] = report
    if args.output:
        write_json(args.output, result)
    return result


if __name__ == "__main__":
    main()
