"""Make a folder of photos searchable by drawing."""

import argparse
import sys
from typing import Any

from ..common.text import printable
from ..loading import load_retriever
from ..search.build import build_gallery, process_state
from ..search.index import KINDS
from ..search.milvus_store import collection_name, connect, ingest

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip index`."""
    parser.add_argument(
        "photos", metavar="PHOTOS", help="folder of photos (searched recursively), prepared dataset, or Hub id"
    )
    parser.add_argument("--model", required=True, help="checkpoint folder, Hub id, 'clip' or 'clip:<base>'")
    parser.add_argument("--out", required=True, help="gallery folder: new, or one to bring up to date")
    parser.add_argument("--split", help="of a dataset (default: gallery, otherwise train)")
    parser.add_argument("--index", choices=("auto", *KINDS), default="auto", help="kind of index (default: by size)")
    parser.add_argument("--batch-size", type=int, default=32, help="photos encoded at once (default: 32)")
    parser.add_argument("--workers", type=int, help="threads that read photos (default: the cores, at most 8)")
    parser.add_argument("--device", help="torch device (default: cuda where there is one)")
    parser.add_argument(
        "--store",
        choices=("folder", "milvus"),
        default="folder",
        help="also send it to a Milvus server (default: folder)",
    )
    parser.add_argument("--uri", help="of Milvus: http://host:19530, or a file for Milvus Lite")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Build or update the gallery, and say what was done."""
    for name in ("batch_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    client = connect_store(args)
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
        progress=not args.quiet,
    )
    if report.count == 0:  # not the main process of several
        return 0
    known = report.count - report.encoded
    print(
        f"{args.out}: {report.count} photos ({report.encoded} encoded, {known} already known, {report.removed} removed)"
    )
    if report.unreadable:
        print(f"Left out, because they cannot be read: {len(report.unreadable)}", file=sys.stderr)
        for entry in report.unreadable[:_SHOWN]:
            print(f"  {printable(entry['path'])}: {printable(entry['reason'])}", file=sys.stderr)
        if len(report.unreadable) > _SHOWN:
            print(
                f"  and {len(report.unreadable) - _SHOWN} more, all named in {args.out}/manifest.json", file=sys.stderr
            )
    options = ""
    if client is not None:
        sent = ingest(args.out, client, progress=not args.quiet)
        print(f"{args.uri}: {sent} photos sent to gallery '{collection_name(args.out)}'")
        options = f" --store milvus --uri {args.uri}"
    print(f"Search it with: splip search SKETCH --gallery {args.out}{options}")
    return 0


def connect_store(args: argparse.Namespace) -> Any:
    """Connect to the store that `--store` and `--uri` name; None for a folder."""
    if (args.store == "milvus") != (args.uri is not None):
        raise ValueError("--store milvus and --uri belong together: pass both or neither.")
    return connect(args.uri) if args.store == "milvus" else None
