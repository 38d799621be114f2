"""Time `splip prepare folder` on drawn 256-px files, and watch the memory of all its processes.

    python -m benchmarks.prepare_speed               # 24,000 files, and a quarter of them; one and two processes

Half of the files are photos (JPEG, shapes with grain), half are sketches (PNG, lines), drawn into a temporary folder.
The rate of a size is that of the whole command, with its start and the listing of the files; the one beyond the start
is that of the files that the larger size has more. Memory is the share (PSS) of the command and its workers.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from modeling_splip.common.files import write_json

RESULTS = Path(__file__).parent / "results" / "prepare_speed.json"
SIZE = 256
CLASSES = 20
UNSEEN = ("class 0", "class 1", "class 2", "class 3")


def draw_photo(rng: np.random.Generator) -> Image.Image:
    """Return coloured shapes on a background with the grain of a photo."""
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(coarse)
    for _ in range(4):
        corners = [tuple(point) for point in rng.integers(0, SIZE, (5, 2)).tolist()]
        draw.polygon(corners, fill=tuple(rng.integers(0, 256, 3).tolist()))
    grain = rng.normal(0, 8, (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def draw_sketch(rng: np.random.Generator) -> Image.Image:
    """Return black lines on white."""
    sheet = Image.new("L", (SIZE, SIZE), 255)
    for _ in range(6):
        steps = rng.normal(0, 12, (20, 2)).cumsum(axis=0) + rng.uniform(60, 196, 2)
        ImageDraw.Draw(sheet).line([tuple(point) for point in steps.tolist()], fill=0, width=2)
    return sheet


def draw_files(folder: Path, count: int) -> float:
    """Draw `count` files of both modalities over all classes; returns their mean size in KB."""
    rng, total = np.random.default_rng(0), 0
    for number in tqdm(range(count // 2), desc="drawing", unit="pair"):
        for modality, draw, suffix in (("photo", draw_photo, "jpg"), ("sketch", draw_sketch, "png")):
            path = folder / modality / f"class {number % CLASSES}" / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(rng).save(path, quality=85)
            total += path.stat().st_size
    return total / (count // 2 * 2) / 1000


def prepare(source: Path, out: Path, num_proc: int) -> tuple[float, float]:
    """Run the command; returns its seconds and the peak memory of all its processes in MB."""
    command = [sys.executable, "-m", "modeling_splip", "prepare", "folder", "--data-dir", str(source)]
    command += ["--out", str(out), "--unseen", ",".join(UNSEEN), "--num-proc", str(num_proc), "--no-pairs"]
    start, peak = time.perf_counter(), 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, family_memory(process.pid))
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"prepare_speed: the command failed with status {process.returncode}.")
    return time.perf_counter() - start, peak


def family_memory(pid: int) -> float:
    """Return the memory of a process and its children in MB; shared pages count once."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    own = next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)
    return own + sum(family_memory(int(child)) for child in children)


def measure(count: int, repeats: int) -> dict[str, Any]:
    """Draw the files and prepare them with one process and with two; the best of the repeats counts."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "files")
        kilobytes = draw_files(source, count)
        entry: dict[str, Any] = {"images": count // 2 * 2, "pixels": SIZE, "mean_kb": round(kilobytes, 1)}
        for num_proc in (1, 2):
            runs = [prepare(source, Path(folder, f"out{num_proc}-{run}"), num_proc) for run in range(repeats)]
            seconds = min(seconds for seconds, _ in runs)
            entry[f"num_proc_{num_proc}"] = {
                "seconds": round(seconds, 1),
                "images_per_second": round(entry["images"] / seconds),
                "peak_mb": round(max(peak for _, peak in runs)),
            }
    return entry


def rates_beyond_start(small: dict[str, Any], large: dict[str, Any]) -> dict[str, int]:
    """Return images per second of what the larger size has more than the smaller one."""
    more = large["images"] - small["images"]
    names = [name for name in large if name.startswith("num_proc")]
    return {name: round(more / (large[name]["seconds"] - small[name]["seconds"])) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24_000, help="files to draw; a quarter of them are timed too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    load = round(os.getloadavg()[0], 1)  # of other programs: times grow with it
    sizes = [measure(count, args.repeats) for count in (args.images // 4, args.images)]
    report = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "load_before": load,
        "sizes": sizes,
        "beyond_start_images_per_second": rates_beyond_start(*sizes),
    }
    write_json(args.output, report)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
