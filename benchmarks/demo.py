"""The whole path in one go, offline: draw the world, train SpLIP, evaluate beside frozen CLIP, index, search.

Runs the commands that a user would type, prints them, and writes `runs/demo/`: `model/`, `gallery/`, `metrics.json`
(`clip` and `splip`, each with `zs`, `gzs` and `fg`) and `retrieval.png`. The fine-grained numbers of SpLIP come from a
second model, trained on instance pairs: `model_fg/`.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tables import DEMO_COLUMNS

from modeling_splip.common.files import write_json
from modeling_splip.data.dataset import open_dataset

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("runs/demo")
BIN = Path(sys.executable).parent
BIN_NAME = BIN.relative_to(ROOT) if BIN.is_relative_to(ROOT) else BIN
TRAIN = ("accelerate", "launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no")
TRAIN = (*TRAIN, "--dynamo_backend", "no", "--cpu", "train_accelerate.py")
PROTOCOLS = {"zs": "zs", "gzs": "gzs-distractors", "fg": "fg-class"}


def main() -> None:
    """Run every step and print what came out."""
    started = time.time()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir(parents=True)
    data, query = OUT / "data", OUT / "query.png"
    run("splip", "prepare", "mini-fold0", "--out", data)
    run(*TRAIN, "--recipe", "splip_mini", "--dataset", data, "--output", OUT / "category")
    run(*TRAIN, "--recipe", "splip_mini_fg", "--dataset", data, "--output", OUT / "fine_grained")
    (ROOT / OUT / "category" / "model").rename(ROOT / OUT / "model")
    (ROOT / OUT / "fine_grained" / "model").rename(ROOT / OUT / "model_fg")
    metrics = {
        "clip": evaluate(data, {"clip": ("zs", "gzs", "fg")}),
        "splip": evaluate(data, {OUT / "model": ("zs", "gzs"), OUT / "model_fg": ("fg",)}),
    }
    write_json(ROOT / OUT / "metrics.json", metrics)
    run("splip", "index", data, "--model", OUT / "model", "--out", OUT / "gallery")
    dataset = open_dataset(ROOT / data)
    dataset.query[0]["image"].save(ROOT / query)
    run("splip", "search", query, "--gallery", OUT / "gallery", "-k", "5")

    print("\n" + table(metrics))
    version = metrics["splip"]["zs"]["dataset_version"]
    print(f"\nOffline world {version} (drawn objects: it compares methods and says nothing about real photos).")
    print(f"Everything is in {OUT}/, queries with their results in {OUT}/retrieval.png.")
    print(f"{time.time() - started:.0f} s in all.")
    print("Search with a drawing of your own:")
    print(f"  {BIN_NAME}/splip search DRAWING.png --gallery {OUT}/gallery -k 10")
    print("Draw in the browser:")
    print(f"  {BIN_NAME}/splip space --gallery {OUT}/gallery")


def run(*command: object) -> None:
    """Print a command and run it in the repository's root; stop where it fails."""
    words = [str(word) for word in command]
    print(f"\n$ {' '.join(words)}", flush=True)
    result = subprocess.run([str(BIN / words[0]), *words[1:]], cwd=ROOT)
    if result.returncode:
        sys.exit(f"demo: the command above failed with status {result.returncode}.")


def evaluate(data: Path, models: dict) -> dict:
    """Evaluate each model under its protocols; returns the records by protocol."""
    records = {}
    for model, names in models.items():
        out = OUT / "records.json"
        picture = ("--picture", OUT / "retrieval.png") if model == OUT / "model" else ()
        run(
            "splip", "evaluate", "--model", model, "--dataset", data, "--out", out, *picture,
            "--protocol", *(PROTOCOLS[name] for name in names),
        )  # fmt: skip
        read = json.loads((ROOT / out).read_text("utf-8"))
        records |= dict(zip(names, read if isinstance(read, list) else [read], strict=True))
        (ROOT / out).unlink()
    return records


def table(metrics: dict) -> str:
    """Return one table, in percent, a method a row."""
    lines = ["".join(f"{title:>{len(title) + 3}}" for title in ("      ", *(title for title, _, _ in DEMO_COLUMNS)))]
    for method, records in metrics.items():
        cells = [f"{method:<9}"]
        cells += [f"{100 * records[key]['metrics'][name]:>{len(title) + 3}.2f}" for title, key, name in DEMO_COLUMNS]
        lines.append("".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
