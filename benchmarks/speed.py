"""Time SpLIP at the sizes of published CLIPs, random weights, against plain CLIP and the usual ways to compute it.

    python -m benchmarks.speed                   # B/32; on a CPU about half an hour at one thread
    python -m benchmarks.speed --quick           # fewer repeats, no compilation and no memory: some minutes
    python -m benchmarks.speed --device cuda     # on a GPU: bfloat16, batches up to 1024; gpu.sh runs part by part
    python -m benchmarks.speed --parts encoding metrics --quick --output /tmp/speed.json

A CPU's parts are here, those that a GPU needs besides in `speed_device.py`; `--parts` takes any on any device. A result
is written after every part. Everything is measured in one run; the cases of a comparison take turns, and medians are
compared. On a CPU with one thread the clock counts this process's CPU seconds, so that other programs disturb little;
otherwise wall seconds. Peak memory is measured in processes of their own.
"""

import argparse
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm

from benchmarks.speed_cases import CLASSES, CONTEXT, SHAPES, TrainingStep, build, plain_vision, text_pass
from benchmarks.speed_device import PARTS as DEVICE_PARTS
from benchmarks.speed_device import STEPS, device_bars
from benchmarks.speed_table import device, speed
from benchmarks.timing import Cases, Timer, ratio, summary
from modeling_splip.common.files import write_json

RESULTS = Path(__file__).parent / "results"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLASS_COUNTS = (26, 52, 104, 208, 416)
# Of a training step: conditioning, whether the text is padded, whether activations are checkpointed.
TRAINING_CASES = {
    "cut text": ("image", True, False),
    "image": ("image", False, False),
    "image, checkpointing": ("image", False, True),
    "domain": ("domain", False, False),
    "domain, checkpointing": ("domain", False, True),
}


@torch.no_grad()
def vision(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Encode images: plain CLIP, the folded encoder, both compiled, and SpLIP unfolded with either conditioning."""
    dtype = DTYPES[args.dtype]
    domain = build(args.shape, "domain", args.device).to(dtype)
    image = build(args.shape, "image", args.device).to(dtype)
    folded, plain = domain.fold(), plain_vision(domain)
    pixels = torch.randn(args.batch, 3, 224, 224, generator=torch.Generator().manual_seed(3)).to(args.device, dtype)
    difference = float((folded.encode(pixels, "sketch") - domain.encode(pixels, "sketch")).abs().max())
    cases: Cases = {
        "plain CLIP": lambda: plain(pixels),
        "folded": lambda: folded(pixels, "sketch"),
        "domain": lambda: domain(pixels, "sketch", return_class_embeds=False),
        "image": lambda: image(pixels, "sketch", return_class_embeds=False),
    }
    eager = timer.interleave("vision", cases, args.repeats)
    report = {
        "milliseconds_an_image": summary(eager, args.batch),
        "ratios": {f"{name} / plain CLIP": ratio(eager, name, "plain CLIP") for name in ("folded", "domain", "image")},
        "folded_differs_by": difference,
    }
    if args.quick or not (args.device == "cuda" or shutil.which("c++") or shutil.which("g++")):
        return report
    fast_plain, fast_folded = torch.compile(plain), torch.compile(folded)
    cases = {
        "plain CLIP, compiled": lambda: fast_plain(pixels),
        "folded, compiled": lambda: fast_folded(pixels, "sketch"),
        "plain CLIP": lambda: plain(pixels),
    }
    compiled = timer.interleave("compiled", cases, args.repeats)
    report["compiled"] = {
        "milliseconds_an_image": summary(compiled, args.batch),
        "ratios": {
            "folded, compiled / plain CLIP, compiled": ratio(compiled, "folded, compiled", "plain CLIP, compiled"),
            "folded, compiled / plain CLIP": ratio(compiled, "folded, compiled", "plain CLIP"),
        },
    }
    return report


@torch.no_grad()
def text(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """The text pass of image conditioning: packed, cut to the longest prompt, padded to CLIP's context."""
    packed = build(args.shape, "image", args.device)
    cut = build(args.shape, "image", args.device, padded=True)
    full = build(args.shape, "image", args.device, padded=True, length=CONTEXT)
    models = {"packed": packed, "cut": cut, "padded": full}
    expected = text_pass(packed, args.text_batch)
    difference = max(float((text_pass(model, args.text_batch) - expected).abs().max()) for model in (cut, full))
    for model in models.values():
        model.to(DTYPES[args.dtype])
    cases: Cases = {name: lambda model=model: text_pass(model, args.text_batch) for name, model in models.items()}
    seconds = timer.interleave("text", cases, args.slow_repeats)
    return {
        "milliseconds_an_image": summary(seconds, args.text_batch),
        "ratios": {f"{name} / packed": ratio(seconds, name, "packed") for name in ("cut", "padded")},
        "means_differ_by": difference,
    }


def training(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """A training step of the full objective: cut text, and SpLIP with either conditioning, in the same dtype."""
    report = {}
    for name, dtype in DTYPES.items():
        if args.device == "cuda" and name == "fp32":
            continue
        steps: Cases = {case: training_step(args, case, args.triplets, dtype) for case in TRAINING_CASES}
        losses = {case: step() for case, step in steps.items()}
        seconds = timer.interleave(f"training {name}", steps, args.slow_repeats)
        report[name] = {
            "milliseconds_a_triplet": summary(seconds, args.triplets),
            "ratios": {f"cut text / {case}": ratio(seconds, "cut text", case) for case in steps},
            "first_loss_differs_by": abs(losses["cut text"] - losses["image"]),
        }
        del steps
        gc.collect()
    return report


def training_step(args: argparse.Namespace, case: str, triplets: int, dtype: torch.dtype) -> TrainingStep:
    """Build one of the training cases."""
    conditioning, padded, checkpointing = TRAINING_CASES[case]
    model = build(args.shape, conditioning, args.device, padded=padded)
    if checkpointing:
        model.gradient_checkpointing_enable()
    return TrainingStep(model, triplets, dtype)


def classes(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """The packed text pass against the number of classes, with t = a + b C + c C^2 fitted."""
    models = {count: build(args.shape, "image", args.device, classes=count) for count in CLASS_COUNTS}

    def backward(model: torch.nn.Module) -> None:
        text_pass(model, args.text_batch).square().sum().backward()
        model.zero_grad()

    def forward(model: torch.nn.Module) -> None:
        with torch.no_grad():
            text_pass(model, args.text_batch)

    report: dict[str, Any] = {"classes": list(CLASS_COUNTS)}
    for name, work in (("forward", forward), ("forward and backward", backward)):
        cases: Cases = {str(count): lambda model=model, work=work: work(model) for count, model in models.items()}
        seconds = timer.interleave(f"classes, {name}", cases, args.slow_repeats)
        times = [float(np.median(values)) * 1000 / args.text_batch for values in seconds.values()]
        c, b, a = np.polyfit(CLASS_COUNTS, times, 2)
        fitted = np.polyval([c, b, a], CLASS_COUNTS)
        report[name] = {
            "milliseconds_an_image": [round(value, 2) for value in times],
            "fit": {"a": float(f"{a:.3g}"), "b": float(f"{b:.3g}"), "c": float(f"{c:.3g}")},
            "fit_misses_by_percent": round(float(np.abs(fitted / times - 1).max() * 100), 1),
        }
    return report


def memory(args: argparse.Namespace, timer: Timer) -> dict[str, Any]:
    """Peak memory that one more image adds to a training step, from two sizes of batch."""
    low, high = args.triplets, 2 * args.triplets
    report = {}
    for dtype in ("bf16",) if args.device == "cuda" else ("fp32", "bf16"):
        report[dtype] = {}
        for name in tqdm(TRAINING_CASES, desc=f"memory {dtype}"):
            peaks = [_peak_in_own_process(args, name, dtype, triplets) for triplets in (low, high)]
            report[dtype][name] = round((peaks[1] - peaks[0]) / (4 * (high - low)) / 1e6)
    return {"megabytes_an_image": report, "triplets": [low, high]}


def _peak_in_own_process(args: argparse.Namespace, name: str, dtype: str, triplets: int) -> int:
    command = [sys.executable, "-m", "benchmarks.speed", "--shape", args.shape, "--device", args.device]
    command += ["--dtype", dtype, "--threads", str(args.threads)]
    command += ["--triplets", str(triplets), "--measure-memory", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure_memory(args: argparse.Namespace) -> int:
    """Take one training step; return the bytes at its peak beyond what was there before."""
    step = training_step(args, args.measure_memory, args.triplets, DTYPES[args.dtype])
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


CPU_PARTS = {"vision": vision, "text": text, "training": training, "classes": classes, "memory": memory}
PARTS = CPU_PARTS | DEVICE_PARTS


def bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised, what was measured, and whether it holds."""
    promised = device_bars(report)
    if "vision" in report:
        promised.append(("folded, eager: at most", 1.03, report["vision"]["ratios"]["folded / plain CLIP"], 1))
    if "compiled" in report.get("vision", {}):
        found = report["vision"]["compiled"]["ratios"]["folded, compiled / plain CLIP, compiled"]
        promised.append(("folded, both compiled: at most", 1.05, found, 1))
    if "text" in report:
        ratios = report["text"]["ratios"]
        promised.append(("text pass against 77 tokens: at least", 30, ratios["padded / packed"], -1))
        promised.append(("text pass against cut text: at least", 6, ratios["cut / packed"], -1))
    for dtype, part in report.get("training", {}).items():
        for name in ("image", "domain"):
            found = part["ratios"][f"cut text / {name}"]
            promised.append((f"training step {dtype}, {name} conditioning, against cut text: at least", 4, found, -1))
    return [
        {"what": what, "bar": bar, "measured": found, "met": bool(sign * found <= sign * bar)}
        for what, bar, found, sign in promised
    ]


def keep(report: dict[str, Any], name: str, output: Path, found: dict[str, Any]) -> None:
    """Write the result with what a part has found so far."""
    report[name] = found
    report["bars"] = bars(report)
    write_json(output, report)


def merge(folder: Path, output: Path) -> dict[str, Any]:
    """Put together what processes of their own have measured on one machine, and write it.

    Args:
        folder: holds their JSON files, also that of `train_speed.py`.
        output: the JSON file.

    Raises:
        SystemExit: if there is none.
    """
    report: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        part = json.loads(file.read_text("utf-8"))
        if "measured" in part:
            report |= {"feeding": part["measured"], "feeding_settings": part["settings"]}
            continue
        for name, found in part.items():
            report[name] = report.get(name, {}) | found if isinstance(found, dict) else found
    if "machine" not in report:
        sys.exit(f"speed: no part in '{folder}' has a result.")
    report["bars"] = bars(report)
    write_json(output, report)
    return report


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Facts of the machine that decide the times."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)
    facts = {"device": args.device, "processor": processor or platform.machine(), "cores": os.cpu_count()}
    if args.device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return facts | {"threads": args.threads} | versions | {"python": platform.python_version()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--shape", choices=SHAPES, default="B/32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of encoding; default fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, help="images of the vision part; default 8 on a CPU, 256 on a GPU")
    parser.add_argument("--text-batch", type=int, help="images of the text part; default 1 on a CPU, 16 on a GPU")
    parser.add_argument("--triplets", type=int, help="of a training step; default 2 on a CPU, 16 on a GPU")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--slow-repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, no compilation, no memory")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure; default by the device")
    parser.add_argument("--cases", nargs="+", choices=STEPS, help="only these training steps of a device's parts")
    parser.add_argument("--merge", type=Path, help="measure nothing: put the JSON files of this folder together")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="JSON file; by default one for each device and shape in results/")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    args.dtype = args.dtype or ("bf16" if gpu else "fp32")
    args.batch = args.batch or (256 if gpu else 8)
    args.text_batch = args.text_batch or (16 if gpu else 1)
    args.triplets = args.triplets or (16 if gpu else 2)
    args.torch_dtype = DTYPES[args.dtype]
    args.batches, args.most_triplets, args.photos = ((1, 256, 1024), 192, 8000) if gpu else ((1, 4), 2, 40)
    args.packed_images = (32, 384) if gpu else (1,)
    if args.quick:
        args.repeats, args.slow_repeats = 5, 2
    args.parts = args.parts or ([*DEVICE_PARTS, "text"] if gpu else [*CPU_PARTS][: 4 if args.quick else None])
    suffix = "_cuda" if gpu else ""
    suffix += "" if args.shape == "B/32" else f"_{args.shape.replace('/', '')}"
    quick = "_quick" if args.quick else ""
    args.output = args.output or RESULTS / f"speed{suffix}{quick}.json"
    return args


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.measure_memory:
        print(measure_memory(args))
        return
    if args.merge:
        print(device(merge(args.merge, args.output)))
        return
    timer = Timer(args.device, args.threads)
    settings = {"shape": args.shape, "dtype": args.dtype, "classes": CLASSES, "images": args.batch}
    settings |= {"text_images": args.text_batch, "triplets": args.triplets, "clock": timer.clock_name}
    settings |= {"repeats": args.repeats, "slow_repeats": args.slow_repeats}
    report: dict[str, Any] = {"machine": machine(args), "settings": settings}
    for name in args.parts:
        args.keep = partial(keep, report, name, args.output)
        args.keep(PARTS[name](args, timer))
        gc.collect()
    print(speed(report) if set(CPU_PARTS) - {"memory"} <= set(args.parts) else device(report))


if __name__ == "__main__":
    main()
