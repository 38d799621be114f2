"""Try everything in a few minutes: prepare real pictures, train, evaluate, index, search."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import remove, write_json
from ..common.text import markdown_table

FOLD = "open23-fold0"
PROTOCOLS = {"zs": "zs", "gzs": "gzs-distractors", "fg": "fg-class"}
TABLES = {
    "Real photos and people's drawings, categories that training has not seen": (
        ("zero-shot mAP@all", "zs", "map_all"),
        ("Acc@1", "zs", "acc_1"),
        ("Acc@10", "zs", "acc_10"),
        ("generalised mAP@all", "gzs", "map_all"),
        ("Acc@1", "gzs", "acc_1"),
    ),
    "Drawn objects: which photo was it drawn of": (
        ("fine-grained Acc@1", "fg", "acc_1"),
        ("Acc@5", "fg", "acc_5"),
    ),
}
SKETCHES = 6
# The file that tells the folder of a demo, which the next demo may empty, from any other folder.
MARK = ".splip-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip demo`."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="new folder, or one of an earlier demo")


def run(args: argparse.Namespace) -> int:
    """Run the commands that a user would type, print each, and say what came out."""
    began, out = time.time(), args.out
    prepare_output(out)
    data, world = out / "data", out / "world"
    splip("prepare", FOLD, "--out", data)
    train("splip_open23", data, out / "model")
    splip("prepare", "mini-fold0", "--out", world)
    train("splip_mini_fg", world, out / "model_fg")
    metrics = {
        "clip": evaluate(out, data, "clip:small_clip", "zs", "gzs") | evaluate(out, world, "clip:mini_clip", "fg"),
        "splip": evaluate(out, data, out / "model", "zs", "gzs") | evaluate(out, world, out / "model_fg", "fg"),
    }
    write_json(out / "metrics.json", metrics)
    splip("index", data, "--model", out / "model", "--out", out / "gallery", "--quiet")
    sketches = save_sketches(data, out / "sketches")
    splip("search", *sketches, "--gallery", out / "gallery", "-k", "3", "--picture", out / "search.png")
    print(tables(metrics))
    print(
        f"\nDone in {time.time() - began:.0f} s. Everything is in {out}/. Look at {out}/retrieval.png: drawings "
        "with the photos found.\nSearch with a drawing of your own:\n"
        f"  {shown('search', 'DRAWING.png', '--gallery', out / 'gallery')}\nDraw in the browser:\n"
        f"  {shown('space', '--gallery', out / 'gallery')}"
    )
    return 0


def prepare_output(out: Path) -> None:
    """Make the folder, or empty that of an earlier demo, which is known by a file of its own.

    Raises:
        ValueError: if something else is there; it stays as it is.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file()):
        raise ValueError(f"'{out}' is no folder of an earlier demo: pass another --out, or remove it.")
    remove(out)
    out.mkdir(parents=True)
    (out / MARK).touch()


def shown(*words: Any) -> str:
    """Return a `splip` command as one types it here."""
    program = Path(sys.argv[0])
    name = program.name if program.name == "splip" and shutil.which("splip") else str(program)
    return shlex.join([name, *map(str, words)])


def splip(*words: Any) -> None:
    """Run a `splip` command."""
    start(shown(*words), [sys.executable, "-m", "modeling_splip", *map(str, words)])


def train(recipe: str, data: Path, model: Path) -> None:
    """Train a recipe, and keep the model alone."""
    output = model.with_name(f"{model.name}_training")
    splip("train", "--recipe", recipe, "--dataset", data, "--output", output)
    (output / "model").rename(model)
    # `splip push` reads the record of `DEMO/model` from `DEMO/run.json`.
    (output / "run.json").rename(model.with_name("run.json" if model.name == "model" else f"{model.name}.json"))
    remove(output)


def start(text: str, command: Sequence[str]) -> None:
    """Print a command and run it.

    Raises:
        OSError: if it fails.
    """
    print(f"\n$ {text}", flush=True)
    status = subprocess.run(command).returncode
    if status:
        raise OSError(f"The command above ended with status {status}: see what it printed, then run the demo again.")


def evaluate(out: Path, data: Path, model: Any, *names: str) -> dict[str, Any]:
    """Measure a model under protocols; returns the record of each by its short name."""
    file = out / "records.json"
    picture = ["--picture", out / "retrieval.png"] if model == out / "model" else []
    protocols = [PROTOCOLS[name] for name in names]
    splip("evaluate", "--model", model, "--dataset", data, "--protocol", *protocols, "--out", file, *picture)
    records = json.loads(file.read_text("utf-8"))
    file.unlink()
    return dict(zip(names, records if isinstance(records, list) else [records], strict=True))


def save_sketches(data: Path, folder: Path) -> list[Path]:
    """Save the first drawing of some unseen categories as `<category>/<number>.png`; returns the files."""
    from ..data.dataset import open_dataset

    dataset, files = open_dataset(data), []
    for name in dataset.unseen[:SKETCHES]:
        row = int(dataset.rows("query", "sketch", [name])[0])
        files.append(folder / name / f"{row}.png")
        files[-1].parent.mkdir(parents=True)
        dataset.query[row]["image"].save(files[-1])
    return files


def tables(metrics: Mapping[str, Any]) -> str:
    """Return the tables of the demo in Markdown, in percent, a method a row."""
    parts = []
    for title, columns in TABLES.items():
        rows = [
            [name, *(f"{100 * records[key]['metrics'][metric]:.1f}" for _, key, metric in columns)]
            for name, records in metrics.items()
        ]
        header = ["percent", *(column for column, _, _ in columns)]
        parts.append(f"\n{title}:\n\n{markdown_table(header, rows, aligned=True)}")
    return "\n".join(parts)
