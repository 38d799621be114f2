"""The part `encode` of `scale`: images a second of `splip index`, plain and on Ray, with one and two processes.

A run is the whole command. The rate beyond the start is that of the photos that the larger of two sizes has more, so
that loading the model and starting Ray do not count; the start is told apart.
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepare_speed import draw_photo
from modeling_splip.common.files import remove

PROCESSES = (1, 2)
# Ray's share of the time with one process, beside the plain path.
BAR = 0.1


def measure_encoding(images: int, work: Path) -> dict[str, Any]:
    """Draw photos and index them, a third and all of them, in every way."""
    from benchmarks.train_speed import random_base

    work = (work / "encode").absolute()
    model = work / "ViT-B-32"
    if not model.is_dir():
        random_base(model, "B/32")
    sizes = [images // 3, images]
    sources = [draw_photos(work / f"photos-{size}", size) for size in sizes]
    record: dict[str, Any] = {"model": "clip, random weights of ViT-B/32's shape", "images": sizes, "ways": {}}
    ways = [("plain", number) for number in PROCESSES]
    if importlib.util.find_spec("ray") is None:
        record["note"] = "Ray is not installed, so only the plain path was measured: pip install 'splip[ray]'."
    else:
        ways += [("ray", number) for number in PROCESSES]
    for way, number in ways:
        seconds = [index(source, model, work / "gallery", way, number) for source in sources]
        rate = (sizes[1] - sizes[0]) / (seconds[1] - seconds[0])
        record["ways"][f"{way}_{number}"] = {
            "seconds": [round(each, 1) for each in seconds],
            "images_per_second": round(rate, 1),
            "start_s": round(seconds[1] - sizes[1] / rate, 1),
        }
    if "ray_1" in record["ways"]:
        plain, ray = (record["ways"][f"{way}_1"]["images_per_second"] for way in ("plain", "ray"))
        record |= {"ray_overhead": round(1 - ray / plain, 3), "bar": BAR, "met": 1 - ray / plain < BAR}
    return record


def draw_photos(folder: Path, count: int) -> Path:
    """Return a folder with so many drawn photos of 256 pixels."""
    rng = np.random.default_rng(0)
    if not folder.is_dir() or len(list(folder.iterdir())) != count:
        remove(folder)
        folder.mkdir(parents=True)
        for number in range(count):
            draw_photo(rng).save(folder / f"{number:06d}.jpg", quality=85)
    return folder


def index(source: Path, model: Path, out: Path, way: str, number: int) -> float:
    """Run `splip index` on photos that are new to it; return its seconds."""
    for path in (out, out.with_name(out.name + ".partial")):
        remove(path)
    command = [sys.executable, "-m"]
    if way == "plain" and number > 1:
        command += ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(number), "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    command += ["modeling_splip", "index", str(source), "--model", f"clip:{model}", "--out", str(out), "--quiet"]
    if way == "ray":
        command += ["--on", "ray", "--workers", str(number)]
    settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | settings)
    return time.perf_counter() - start
