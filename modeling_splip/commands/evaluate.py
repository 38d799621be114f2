"""Measure a model on a prepared dataset, or anybody's embeddings, under named protocols."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..common.files import check_writable, write_json
from ..common.processes import on_cpu
from ..data.dataset import PROTOCOLS, SbirDataset, open_dataset
from ..evaluation.embeddings_file import evaluate_features
from ..evaluation.evaluate import GALLERIES, Embedder, Evaluation, evaluate, retrieval_picture
from ..evaluation.pictures import PHOTO_KINDS
from ..evaluation.published import published_table
from ..evaluation.report import PAGE, check_report, records_table, write_report
from ..loading import BASELINES, load_retriever

# What only a model on a dataset has, with its defaults.
OF_DATASETS = {
    "model": "clip",
    "gallery": "unique",
    "seed": 0,
    "seen_classes": "remove",
    "remove_classes": "",
    "batch_size": 64,
    "workers": 0,
    "rerank": 0,
    "picture": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip evaluate`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="folder that `splip prepare` wrote, or a Hub id: measure --model on it")
    what.add_argument("--features", type=Path, help="measure the embeddings of this .npz file (see docs/protocol.md)")
    parser.add_argument("--protocol", nargs="+", default=["zs"], choices=PROTOCOLS, help="default: zs")
    parser.add_argument("--out", type=Path, help="write the result records to this JSON file")
    parser.add_argument("--report", type=Path, help="write records, tables and pictures to this folder")
    parser.add_argument("--title", help="with --features: name of the data, such as sketchy2 (default: the file's)")
    model = parser.add_argument_group("with --dataset")
    model.add_argument("--model", help="checkpoint folder, Hub id, clip[:<base>] or clip-text[:<base>] (default: clip)")
    model.add_argument("--gallery", choices=GALLERIES, help="count each photo once (default) or as listed")
    model.add_argument("--seed", type=int, help="of protocols that sample seen items (default: 0)")
    model.add_argument(
        "--seen-classes",
        choices=("remove", "keep"),
        help="unseen classes of the dataset that the model has seen in training, on other data (default: remove)",
    )
    model.add_argument("--remove-classes", metavar="A,B", help="further unseen classes to leave out, such as synonyms")
    model.add_argument("--batch-size", type=int, help="images a batch and process (default: 64)")
    model.add_argument("--workers", type=int, help="processes that decode images (default: 0)")
    model.add_argument("--rerank", type=int, help="first results that the relation network ranks again (default: 0)")
    model.add_argument("--picture", type=Path, help="write a picture of queries with their first results")


def run(args: argparse.Namespace) -> int:
    """Measure, print tables, and write what was asked for."""
    check_arguments(args)
    accelerator = Accelerator(cpu=on_cpu())
    protocols = list(dict.fromkeys(args.protocol))
    if args.features:
        evaluations, embedder = evaluate_features(args.features, protocols, args.title), None
    else:
        embedder = open_embedder(args, accelerator)
        baseline = args.model.split(":")[0]
        method = baseline if baseline in BASELINES else embedder.model.config.model_type
        evaluations = evaluate(embedder, protocols, method, args.gallery, args.seed, args.rerank)
    if accelerator.is_main_process:
        write_results(args, evaluations, embedder)
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what does not go together or cannot be written, before any work; fill in the defaults."""
    for name, default in OF_DATASETS.items():
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif args.features:
            raise ValueError(
                f"--{name.replace('_', '-')} goes with --dataset: --features measures the arrays of a file as they are."
            )
    if args.title and not args.features:
        raise ValueError("--title goes with --features: a prepared dataset has its name.")
    if args.rerank < 0:
        raise ValueError(f"--rerank must be at least 0, got {args.rerank}.")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    for target in (args.out, args.picture):
        if target is not None:
            check_writable(target)
    if args.picture and args.picture.suffix[1:].lower() not in PHOTO_KINDS:
        raise ValueError(f"--picture '{args.picture}' must end in {', '.join('.' + kind for kind in PHOTO_KINDS)}.")
    if args.report:
        check_report(args.report)


def open_embedder(args: argparse.Namespace, accelerator: Accelerator) -> Embedder:
    """Open dataset and model, and leave out the classes that must not be measured."""
    dataset = open_dataset(args.dataset)
    model, processor = load_retriever(args.model, dataset.class_names)
    dataset = leave_out(dataset, model.config.class_names, args.seen_classes, args.remove_classes, accelerator.print)
    return Embedder(model, processor, dataset, accelerator, args.batch_size, args.workers)


def leave_out(
    dataset: SbirDataset, trained: Iterable[str], seen_classes: str, named: str, say: Callable[[str], Any]
) -> SbirDataset:
    """Return the dataset without the unseen classes that must not be measured, and say which those are.

    Args:
        dataset: to measure on.
        trained: class names that the model was trained on.
        seen_classes: "remove" or "keep" those among the unseen ones.
        named: further classes to leave out, separated by commas.
        say: prints a line.
    """
    seen = dataset.seen_by(trained)
    if seen and seen_classes == "keep":
        say(f"Kept, although the model has seen them in training: {', '.join(seen)}. These numbers are not zero-shot.")
        seen = []
    elif seen:
        say(
            f"Removed, because the model has seen them in training: {', '.join(seen)} (--seen-classes keep keeps them)."
        )
    gone = [*seen, *dataset.resolve_unseen([name.strip() for name in named.split(",") if name.strip()])]
    return dataset.without(gone) if gone else dataset


def write_results(
    args: argparse.Namespace, evaluations: Sequence[Evaluation], embedder: Embedder | None = None
) -> None:
    """Print the table, and the published numbers beside it; write records, picture and report."""
    records = [evaluation.record for evaluation in evaluations]
    print(records_table(records))
    for record in records:
        published = published_table(record)
        if published:
            print(f"\nPublished numbers beside ours: {record['dataset']}, {record['protocol']}\n\n{published}")
    if args.out:
        write_json(args.out, records if len(records) > 1 else records[0])
    if args.picture:
        retrieval_picture(embedder, evaluations[0].view, args.picture, scores=evaluations[0].scores)
    if args.report:
        write_report(args.report, evaluations, embedder)
        print(f"\nReport: {args.report / PAGE}")
