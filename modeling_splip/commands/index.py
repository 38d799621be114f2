"""Make a folder of photos searchable by drawing."""

import argparse
import sys

from ..common.text import printable
from ..loading import DEFAULT_MODEL, about_default, drawn_world_note, load_retriever
from ..search.build import BuildReport, build_gallery, process_state
from ..search.index import KINDS
from ..search.milvus_store import collection_name, ingest
from ..search.photo_files import left_out_sentence
from ..search.stores import add_store_arguments, connect_store

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip index`."""
    parser.add_argument(
        "photos", metavar="PHOTOS", help="folder of photos (searched recursively), prepared dataset, or Hub id"
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="checkpoint folder, Hub id, 'clip:<base>', or a packaged model (default: small_splip)",
    )
    parser.add_argument("--out", required=True, help="gallery folder: new, or one to bring up to date")
    parser.add_argument("--split", help="of a dataset (default: gallery, otherwise train)")
    parser.add_argument("--index", choices=("auto", *KINDS), default="auto", help="kind of index (default: by size)")
    parser.add_argument("--batch-size", type=int, default=32, help="photos encoded at once (default: 32)")
    parser.add_argument("--workers", type=int, help="threads that read photos (default: the cores, at most 8)")
    parser.add_argument("--device", help="torch device (default: cuda where there is one)")
    parser.add_argument(
        "--follow-paths", action="store_true", help="read files that a dataset's image cells name, if you trust it"
    )
    add_store_arguments(parser, "milvus: also send it to a Milvus server")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Build or update the gallery, and say what was done."""
    for name in ("batch_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    client = connect_store(args.store, args.uri)
    if args.model == DEFAULT_MODEL:
        print(about_default())
    model, processor = load_retriever(args.model)
    model.to(args.device or process_state().device)
    report = build_gallery(
        args.photos,
        model,
        processor,
        args.out,
        model_name=args.model,
        split=args.split,
        index=args.index,
        batch_size=args.batch_size,
        workers=args.workers,
        follow_paths=args.follow_paths,
        progress=not args.quiet,
    )
    if report.count == 0:  # not the main process of several
        return 0
    _print_report(args.out, report)
    note = drawn_world_note(model, report.drawn)
    if note:
        print(note, file=sys.stderr)
    options = ""
    if client is not None:
        sent = ingest(args.out, client, progress=not args.quiet)
        print(f"{args.uri}: {sent} photos sent to gallery '{collection_name(args.out)}'")
        options = f" --store milvus --uri {args.uri}"
    print(f"Search it with: splip search SKETCH --gallery {args.out}{options}")
    return 0


def _print_report(out: str, report: BuildReport) -> None:
    """Say what was done, and on standard error what is not in the gallery."""
    known = report.count - report.encoded
    print(f"{out}: {report.count} photos ({report.encoded} encoded, {known} already known, {report.removed} removed)")
    if "instead_of" in report.index:
        wanted, recall = report.index["instead_of"], 100 * report.index["its_recall"]
        print(f"Index: exact, since {wanted} finds only {recall:.1f} % of the nearest photos.", file=sys.stderr)
    if report.left_out:
        print(left_out_sentence(report.left_out), file=sys.stderr)
    if report.unreadable:
        print(f"Left out, because they cannot be read: {len(report.unreadable)}", file=sys.stderr)
        for entry in report.unreadable[:_SHOWN]:
            print(f"  {printable(entry['path'])}: {printable(entry['reason'])}", file=sys.stderr)
        if len(report.unreadable) > _SHOWN:
            print(f"  and {len(report.unreadable) - _SHOWN} more, all named in {out}/manifest.json", file=sys.stderr)
