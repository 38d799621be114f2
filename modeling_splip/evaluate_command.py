"""Measure a model on a prepared dataset under a named protocol."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from .data import PROTOCOLS, open_dataset
from .evaluation import GALLERIES, Embedder, evaluate, retrieval_picture
from .registry import load_retriever

COLUMNS = ("map_all", "map_200_prefix", "map_200_min", "p_100", "p_200", "acc_1", "acc_5", "acc_10")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip evaluate`."""
    parser.add_argument(
        "--model", default="clip", help="checkpoint folder, Hub id, clip or clip:<base> (default: clip)"
    )
    parser.add_argument("--dataset", required=True, help="folder that `splip prepare` wrote, or a Hub id")
    parser.add_argument("--protocol", nargs="+", default=["zs"], choices=PROTOCOLS, help="default: zs")
    parser.add_argument(
        "--gallery", default="unique", choices=GALLERIES, help="count each photo once (default) or as listed"
    )
    parser.add_argument("--seed", type=int, default=0, help="of protocols that sample seen items")
    parser.add_argument("--batch-size", type=int, default=64, help="images a batch and process")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images")
    parser.add_argument("--out", type=Path, help="write the result records to this JSON file")
    parser.add_argument("--picture", type=Path, help="write a picture of queries with their first results")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, write the records and the picture."""
    for target in (args.out, args.picture):
        if target is not None:
            check_writable(target)
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    accelerator = Accelerator()
    dataset = open_dataset(args.dataset)
    model, processor = load_retriever(args.model)
    embedder = Embedder(model, processor, dataset, accelerator, args.batch_size, args.workers)
    method = "clip" if args.model.split(":")[0] == "clip" else model.config.model_type
    records = evaluate(embedder, args.protocol, method, args.gallery, args.seed)
    if accelerator.is_main_process:
        print(table([(f"{record['method']} {record['protocol']}", record) for record in records]))
        if args.out:
            write_json(args.out, records if len(records) > 1 else records[0])
        if args.picture:
            args.picture.parent.mkdir(parents=True, exist_ok=True)
            retrieval_picture(embedder, dataset.view(args.protocol[0], args.seed), args.picture)
    return 0


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Return a plain-text table of result records, in percent; a metric that a protocol lacks is a dash."""
    columns = [name for name in COLUMNS if any(name in record["metrics"] for _, record in rows)]
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "  queries  gallery  " + "  ".join(f"{name:>14}" for name in columns)]
    for name, record in rows:
        values = [record["metrics"].get(column) for column in columns]
        cells = [f"{'-' if value is None else format(100 * value, '.2f'):>14}" for value in values]
        lines.append(f"{name:<{width}}  {record['n_query']:>7}  {record['n_gallery']:>7}  " + "  ".join(cells))
    return "\n".join(lines)


def check_writable(path: Path) -> None:
    """Raise OSError before any long work if a file cannot be written there; makes nothing."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"Cannot write the file '{path}': choose another path.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside and move it into place; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    aside.replace(path)
