"""Parts of `speed.py` that show what a device does: batches, compilation, training, metrics, indexing, its ceiling.

A part of several cases hands over what it has after each (`args.keep`), so that a time limit loses one case. Rates are
images a second from medians. Shares are of the multiplications that the device was measured to do, and of what its
datasheet says.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, CLIPImageProcessorPil

from benchmarks.packing import packing
from benchmarks.speed_cases import TrainingStep, build, plain_vision
from benchmarks.timing import Cases, Timer
from modeling_splip.clip_base import MINI_CLIP, resolve_base
from modeling_splip.common.processes import cores
from modeling_splip.evaluation.device_arrays import TorchArrays
from modeling_splip.image_files import open_image
from modeling_splip.metrics.by_class import retrieval_metrics
from modeling_splip.metrics.inputs import unit_norm
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.search.build import build_gallery
from modeling_splip.search.encode import decoding_threads
from modeling_splip.search.photos import find_photos
from modeling_splip.training.objective_splip import SplipObjective

# Dense bfloat16 products, 10^12 operations a second, by a part of the card's name.
DATASHEET = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L4": 121.0, "4090": 165.0}
IMAGES_OF_A_TRIPLET = 4  # s, s', p+, p-
# Conditioning, triplets, checkpointing, compilation.
STEPS = {
    "image, 16": ("image", 16, False, "no"),
    "image, 16, compiled": ("image", 16, False, "default"),
    "image, 16, CUDA graphs": ("image", 16, False, "reduce-overhead"),
    "image, 192": ("image", 192, False, "no"),
    "image, 192, checkpointing": ("image", 192, True, "no"),
    "image, 192, compiled": ("image", 192, False, "default"),
    "domain, 192": ("domain", 192, False, "no"),
    "domain, 192, compiled": ("domain", 192, False, "default"),
}
METRICS = (12_694, 10_453, 21, 512)  # queries, photos, classes and width of Sketchy's second split
JPEG_SIDE = 500


def ceiling(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Multiply large matrices: the most that the device was seen to do."""
    side = 8192 if args.device == "cuda" else 512
    one, other = (torch.randn(side, side, device=args.device, dtype=args.torch_dtype) for _ in range(2))
    seconds = timer.interleave("ceiling", {"product": lambda: one @ other}, args.repeats)["product"]
    name = torch.cuda.get_device_name() if args.device == "cuda" else ""
    sheet = next((value for part, value in DATASHEET.items() if part in name), None)
    return {"measured_tflops": round(2 * side**3 / float(np.median(seconds)) / 1e12, 3), "datasheet_tflops": sheet}


def _encoders(args: argparse.Namespace) -> dict[str, Any]:
    domain, image = (build(args.shape, kind, args.device).to(args.torch_dtype) for kind in ("domain", "image"))
    return {"plain CLIP": plain_vision(domain), "folded": domain.fold(), "domain": domain, "image": image}


def _pixels(args: argparse.Namespace, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 224, 224, device=args.device, dtype=args.torch_dtype)


def _rates(args: argparse.Namespace, timer: Timer, batch: int, cases: Cases) -> dict[str, Any]:
    seconds = timer.interleave(f"encoding {batch}", cases, args.repeats)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        name: {"images_a_second": round(batch / value, 1), "of_plain": round(value / medians["plain CLIP"], 3)}
        for name, value in medians.items()
    }


@torch.no_grad()
def encoding(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Encode batches of several sizes: plain CLIP, folded, and unfolded with either conditioning."""
    models = _encoders(args)
    plain, folded, domain, image = models.values()
    with FlopCounterMode(display=False) as counter:
        plain(_pixels(args, 1))
    report: dict[str, Any] = {"gflop_an_image": round(counter.get_total_flops() / 1e9, 3), "batches": {}}
    for batch in args.batches:
        pixels = _pixels(args, batch)
        cases: Cases = {
            "plain CLIP": lambda pixels=pixels: plain(pixels),
            "folded": lambda pixels=pixels: folded(pixels, "sketch"),
            "domain": lambda pixels=pixels: domain(pixels, "sketch", return_class_embeds=False),
            "domain, for training": torch.enable_grad()(
                lambda pixels=pixels: domain(pixels, "sketch", return_class_embeds=False)
            ),
        }
        if batch <= 256:
            cases["image"] = lambda pixels=pixels: image(pixels, "sketch", return_class_embeds=False)
        report["batches"][str(batch)] = _rates(args, timer, batch, cases)
        args.keep(report)
    return report


@torch.no_grad()
def compiled_encoding(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Encode with compiled towers: batch 256 as usual, batch 1 as CUDA graphs."""
    if args.quick:
        return {"skipped": "--quick compiles nothing"}
    models = _encoders(args)
    plain, folded = models["plain CLIP"], models["folded"]
    report: dict[str, Any] = {"batches": {}}
    for batch, kind, mode in ((256, "compiled", "default"), (1, "CUDA graphs", "reduce-overhead")):
        pixels = _pixels(args, batch)
        fast_plain, fast_folded = (torch.compile(model, mode=mode, dynamic=False) for model in (plain, folded))
        cases: Cases = {
            "plain CLIP": lambda pixels=pixels: plain(pixels),
            f"plain CLIP, {kind}": lambda fast=fast_plain, pixels=pixels: fast(pixels),
            f"folded, {kind}": lambda fast=fast_folded, pixels=pixels: fast(pixels, "sketch"),
        }
        report["batches"][str(batch)] = _rates(args, timer, batch, cases)
        args.keep(report)
    return report


def training_steps(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Take training steps of the full objective, each case alone on the device."""
    return _steps(args, timer, [name for name in STEPS if STEPS[name][-1] == "no"])


def compiled_steps(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Take compiled training steps; a compiler may take minutes for each."""
    if args.quick:
        return {"skipped": "--quick compiles nothing"}
    return _steps(args, timer, [name for name in STEPS if STEPS[name][-1] != "no"])


def _steps(args: argparse.Namespace, timer: Timer, names: list[str]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for name in names:
        if args.cases and name not in args.cases:
            continue
        conditioning, triplets, checkpointing, compile_mode = STEPS[name]
        triplets = min(triplets, args.most_triplets)
        torch.cuda.empty_cache()
        began = time.perf_counter()
        try:
            report[name] = _training_step(args, timer, conditioning, triplets, checkpointing, compile_mode)
        except torch.cuda.OutOfMemoryError:
            report[name] = {"triplets": triplets, "out_of_memory": True}
        report[name]["seconds_with_compilation"] = round(time.perf_counter() - began, 1)
        gc.collect()
        args.keep(report)
    return report


def _training_step(
    args: argparse.Namespace, timer: Timer, conditioning: str, triplets: int, checkpointing: bool, compile_mode: str
) -> dict[str, Any]:
    model = build(args.shape, conditioning, args.device)
    if checkpointing:
        model.gradient_checkpointing_enable()
    step = TrainingStep(model, triplets, torch.bfloat16)
    if compile_mode != "no":
        step.objective.compile(mode=compile_mode, dynamic=False)
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timer.interleave("training", {"step": step}, args.slow_repeats)["step"]
    median = float(np.median(seconds))
    peak = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else None
    return {
        "triplets": triplets,
        "seconds": round(median, 4),
        "images_a_second": round(IMAGES_OF_A_TRIPLET * triplets / median, 1),
        "peak_gb": None if peak is None else round(peak, 2),
    }


def exactness(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """The first losses of a step in float32, compiled and not: what compilation changes."""
    if args.quick:
        return {"skipped": "--quick compiles nothing"}
    model = build(args.shape, "image", args.device)
    batch = TrainingStep(model, 4, torch.float32).batch
    objective: nn.Module = SplipObjective(model).to(args.device).train()
    eager = objective(batch)
    objective.compile(dynamic=False)
    compiled = objective(batch)
    return {"losses_differ_by": max(float((compiled[name] - eager[name]).detach().abs()) for name in eager)}


def metrics(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Measure random embeddings of a benchmark's size by NumPy and by torch on the device."""
    queries, photos, classes, width = (value // (20 if args.quick and i < 2 else 1) for i, value in enumerate(METRICS))
    rng = np.random.default_rng(0)
    query, gallery = (unit_norm(rng.standard_normal((n, width), np.float32)) for n in (queries, photos))
    labels = rng.integers(0, classes, queries), np.arange(photos) % classes
    results: dict[str, dict[str, Any]] = {}

    def work(name: str, **options: Any) -> Callable[[], None]:
        return lambda: results.update({name: retrieval_metrics(query, gallery, *labels, **options)["metrics"]})

    seconds = {
        "numpy": timer.interleave("metrics, NumPy", {"": work("numpy")}, 1)[""][0],
        "torch": min(timer.interleave("metrics", {"": work("torch", arrays=TorchArrays(args.device))}, 3)[""]),
    }
    return {
        "queries": queries,
        "photos": photos,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "numpy_by_torch": round(seconds["numpy"] / seconds["torch"], 2),
        "largest_difference": max(abs(results["torch"][name] - value) for name, value in results["numpy"].items()),
    }


def indexing(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Index JPEG files of 500 pixels with a random model of the shape; and only read and prepare them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_photos(folder / "photos", args.photos)
        image_processor = CLIPImageProcessorPil()
        tokenizer = AutoTokenizer.from_pretrained(resolve_base(MINI_CLIP), trust_remote_code=False)
        processor = SplipProcessor(image_processor, tokenizer)
        model = build(args.shape, "domain", args.device)
        began = time.perf_counter()
        build_gallery(folder / "photos", model, processor, folder / "gallery", model_name="clip", progress=False)
        indexed = time.perf_counter() - began
        small = find_photos(folder / "photos", None, False).photos[: min(500, args.photos // 4)]
        began = time.perf_counter()
        for photo in small:
            processor(images=[open_image(photo.read())])
        alone = (time.perf_counter() - began) / len(small)
    return {
        "photos": args.photos,
        "images_a_second": round(args.photos / indexed, 1),
        "one_thread_prepares_a_second": round(1 / alone, 1),
        "threads": decoding_threads(args.device),
        "cores": cores(),
    }


def _write_photos(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)

    def write(number: int) -> None:
        # Smooth, so that files are as large as photos' are.
        coarse = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        image = Image.fromarray(coarse).resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:06d}.jpg", quality=90)

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, range(count)))


def device_bars(report: dict[str, Any]) -> list[tuple[str, float, float, int]]:
    """Return what was promised for a GPU: what, the bar, what was measured, and 1 for at most or -1 for at least."""
    found: list[tuple[str, float, float, int]] = []
    batches = report.get("encoding", {}).get("batches", {})
    for batch, case, bar in (
        ("256", "folded", 1.03),
        ("1024", "folded", 1.03),
        ("1", "folded", 1.05),
        ("256", "domain, for training", 1.10),
    ):
        if case in batches.get(batch, {}):
            found.append((f"{case}, batch {batch}, of plain CLIP: at most", bar, batches[batch][case]["of_plain"], 1))
    for batch, kind, bar in (("256", "compiled", 1.02), ("1", "CUDA graphs", 1.05)):
        rows = report.get("compiled_encoding", {}).get("batches", {}).get(batch, {})
        if f"folded, {kind}" in rows:
            ratio = rows[f"folded, {kind}"]["of_plain"] / rows[f"plain CLIP, {kind}"]["of_plain"]
            found.append((f"folded, both {kind}, batch {batch}: at most", bar, round(ratio, 3), 1))
    if report["machine"]["device"] != "cuda":
        return found
    steps = report.get("training_steps", {}) | report.get("compiled_steps", {})
    for size, before in (("16", 412.0), ("192", 1509.0)):
        rates = [row.get("images_a_second", 0) for name, row in steps.items() if name.startswith(f"image, {size}")]
        if rates:
            found.append((f"image conditioning, {size} triplets, images/s: at least", 3 * before, max(rates), -1))
    if "metrics" in report:
        found.append(("metrics, NumPy's time by the device's: at least", 10, report["metrics"]["numpy_by_torch"], -1))
        found.append(("metrics differ by: at most", 1e-6, report["metrics"]["largest_difference"], 1))
    for case, row in report.get("feeding", {}).get("splip", {}).items():
        if case != "augmented":
            share = round(1 / row["together_by_step_alone"], 3)
            found.append((f"training from files, {case}, of the step's own rate: at least", 0.9, share, -1))
    return found


PARTS: dict[str, Callable[[argparse.Namespace, Timer], dict[str, Any]]] = {
    "ceiling": ceiling,
    "encoding": encoding,
    "compiled_encoding": compiled_encoding,
    "packing": packing,
    "metrics": metrics,
    "training_steps": training_steps,
    "compiled_steps": compiled_steps,
    "indexing": indexing,
    "exactness": exactness,
}
