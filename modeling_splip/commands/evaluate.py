"""Measure a model on a prepared dataset, or embeddings from a file, under named protocols."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..common.files import check_writable, write_json
from ..common.processes import leave_group, on_cpu, worker_count
from ..common.text import printable, printable_lines
from ..data.dataset import SbirDataset, open_dataset
from ..data.protocols import PROTOCOLS
from ..evaluation.embedder import Embedder
from ..evaluation.embeddings_file import evaluate_embeddings
from ..evaluation.evaluate import GALLERIES, Evaluation, evaluate_model
from ..evaluation.pictures import PHOTO_KINDS, check_picture
from ..evaluation.published import published_table
from ..evaluation.report import PAGE, check_report, records_table, write_report
from ..evaluation.view_pictures import retrieval_picture
from ..loading import BASELINES, check_precision, drawn_world_note, load_retriever


class _OfDataset(argparse.Action):
    """An option that goes with --dataset only: stores its value, and that it was given."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, values)
        namespace.of_dataset = option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip evaluate`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="folder that `splip prepare` wrote, or a Hub id: measure --model on it")
    what.add_argument("--features", type=Path, help="measure the embeddings in this .npz file (see docs/protocol.md)")
    parser.add_argument("--protocol", nargs="+", default=["zs"], choices=list(PROTOCOLS), help="default: zs")
    parser.add_argument("--out", type=Path, help="write the result records to this JSON file")
    parser.add_argument("--report", type=Path, help="write records, tables and pictures to this folder")
    parser.add_argument("--title", help="with --features: name of the data, such as sketchy2 (default: the file's)")

    parser.set_defaults(of_dataset=None)
    group = parser.add_argument_group("with --dataset")
    add = partial(group.add_argument, action=_OfDataset)
    add(
        "--model",
        default="clip",
        help="checkpoint folder, Hub id, clip[:BASE] or clip-text[:BASE] (default: clip, the frozen small_clip)",
    )
    add("--gallery", default="unique", choices=GALLERIES, help="count each photo once (default) or as listed")
    add("--seed", type=int, default=0, help="of protocols that sample seen items (default: 0)")
    add(
        "--seen-classes",
        default="remove",
        choices=("remove", "keep"),
        help="unseen classes of the dataset that the model has seen in training, on other data (default: remove)",
    )
    add("--remove-classes", default="", metavar="A,B", help="further unseen classes to leave out, such as synonyms")
    add("--batch-size", type=int, default=64, help="images a batch and process (default: 64)")
    add("--workers", type=int, default=-1, help="processes that decode images (default: by the device)")
    add("--precision", default="fp32", choices=("fp32", "bf16"), help="of the towers (default: fp32)")
    add("--rerank", type=int, default=0, help="first results that the relation network ranks again (default: 0)")
    add("--picture", type=Path, help="write a picture of queries with their first results")


def run(args: argparse.Namespace) -> int:
    """Measure, print tables, and write what was asked for."""
    check_arguments(args)
    accelerator = Accelerator(cpu=on_cpu())
    protocols = list(dict.fromkeys(args.protocol))
    if args.features:
        evaluations, embedder = evaluate_embeddings(args.features, protocols, args.title), None
    else:
        embedder, method = open_embedder(args, accelerator)
        evaluations = evaluate_model(embedder, protocols, method, args.gallery, args.seed, args.rerank)
    leave_group()
    if accelerator.is_main_process:
        write_results(args, evaluations, embedder)
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise an error, before any work, for options that do not go together and files that cannot be written.

    Raises:
        OSError: if a file cannot be written.
        ValueError: if a value is out of range, or an option does not go with another.
    """
    if args.features and args.of_dataset:
        raise ValueError(
            f"{args.of_dataset} goes with --dataset: --features measures the arrays of a file as they are."
        )
    if args.title and not args.features:
        raise ValueError("--title goes with --features: a prepared dataset has its name.")
    if args.rerank < 0:
        raise ValueError(f"--rerank must be at least 0, got {args.rerank}.")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    check_precision(args.model or "", args.precision)
    for target in (args.out, args.picture):
        if target is not None:
            check_writable(target)
    if args.picture:
        check_picture(args.picture, PHOTO_KINDS)
    if args.report:
        check_report(args.report)


def open_embedder(args: argparse.Namespace, accelerator: Accelerator) -> tuple[Embedder, str]:
    """Open dataset and model, without the classes that must not be measured; return the method's name too."""
    dataset = open_dataset(args.dataset)
    model, processor = load_retriever(args.model, dataset.class_names)
    dataset = leave_out(dataset, model.config.class_names, args.seen_classes, args.remove_classes, accelerator.print)
    for note in filter(None, (drawn_world_note(model, dataset.drawn), dataset.doubt("query", "gallery"))):
        accelerator.print(printable(note))
    baseline = args.model.split(":")[0]
    method = baseline if baseline in BASELINES else model.config.model_type
    workers = worker_count(args.workers, accelerator.num_processes)
    half = args.precision == "bf16"
    return Embedder(model.for_search(), processor, dataset, accelerator, args.batch_size, workers, half), method


def leave_out(
    dataset: SbirDataset, trained: Iterable[str], seen_classes: str, named: str, say: Callable[[str], Any]
) -> SbirDataset:
    """Return the dataset without the unseen classes that must not be measured, and print which those are.

    Args:
        dataset: to measure on.
        trained: class names that the model was trained on.
        seen_classes: "remove" or "keep" those among the unseen ones.
        named: further classes to leave out, separated by commas.
        say: prints a line.
    """
    seen = dataset.seen_by(trained)
    if seen and seen_classes == "keep":
        names = printable(", ".join(seen))
        say(f"Kept, although the model has seen them in training: {names}. These numbers are not zero-shot.")
        seen = []
    elif seen:
        names = printable(", ".join(seen))
        say(f"Removed, because the model has seen them in training: {names} (--seen-classes keep keeps them).")
    gone = [*seen, *dataset.resolve_unseen([name.strip() for name in named.split(",") if name.strip()])]
    return dataset.without(gone) if gone else dataset


def write_results(
    args: argparse.Namespace, evaluations: Sequence[Evaluation], embedder: Embedder | None = None
) -> None:
    """Print the table, and the published numbers beside it; write records, picture and report."""
    records = [evaluation.record for evaluation in evaluations]
    print(printable_lines(records_table(records)))
    for record in records:
        published = published_table(record)
        if published:
            title = f"Published numbers beside ours: {record['dataset']}, {record['protocol']}"
            print(f"\n{printable(title)}\n\n{printable_lines(published)}")
    if args.out:
        write_json(args.out, records if len(records) > 1 else records[0])
    if args.picture:
        retrieval_picture(embedder, evaluations[0].view, args.picture, scores=evaluations[0].scores)
    if args.report:
        write_report(args.report, evaluations, embedder)
        print(f"\nReport: {args.report / PAGE}")
