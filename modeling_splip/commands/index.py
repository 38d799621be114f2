"""Make a folder of photos searchable by drawing."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from ..common.hub import is_hub_id
from ..common.processes import leave_group
from ..common.text import printable
from ..loading import DEFAULT_MODEL, about_default, check_precision, drawn_world_note, load_retriever
from ..search.build import build_gallery, process_state
from ..search.encode import PRECISIONS
from ..search.index import KINDS
from ..search.milvus_store import collection_name, ingest
from ..search.photo_files import left_out_sentence
from ..search.photos import find_photos
from ..search.publish import BuildReport
from ..search.scale.ray_build import build_on_ray
from ..search.scale.ray_encode import require_ray
from ..search.stores import add_store_arguments, connect_store
from ..search.table import model_place, read_manifest

_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip index`."""
    parser.add_argument(
        "photos",
        metavar="PHOTOS",
        help="folder of photos (searched recursively), prepared dataset, or Hub id; on Ray also Parquet files, tars "
        "and addresses such as s3://bucket/photos",
    )
    parser.add_argument(
        "--model",
        help="checkpoint folder, Hub id, 'clip:<base>', or a packaged one (default: the gallery's, or small_splip)",
    )
    parser.add_argument("--out", required=True, help="gallery folder: new, or one to bring up to date")
    parser.add_argument("--split", help="of a dataset (default: gallery, otherwise train)")
    parser.add_argument("--index", choices=("auto", *KINDS), default="auto", help="kind of index (default: by size)")
    parser.add_argument("--batch-size", type=int, help="photos encoded at once (default: 32, on a GPU 128)")
    parser.add_argument(
        "--workers",
        type=int,
        help="threads that read photos (default: the cores; on a CPU at most 8); on Ray, processes that encode",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of the towers (default: bf16 on a GPU, otherwise fp32)"
    )
    parser.add_argument("--device", help="torch device (default: cuda where there is one)")
    parser.add_argument(
        "--follow-paths", action="store_true", help="read files that a dataset's image cells name, if you trust it"
    )
    add_store_arguments(parser, "milvus: also send it to a Milvus server")
    parser.add_argument("--on", choices=("ray",), help="ray: encode on the machines of a Ray cluster (splip[ray])")
    parser.add_argument("--address", help="of the Ray cluster, such as auto (default: this machine alone)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Build or update the gallery, and say what was done."""
    for name in ("batch_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}.")
    if args.on is None:
        if args.address is not None:
            raise ValueError("--address names a Ray cluster: pass --on ray with it, or leave it out.")
        if not Path(args.photos).expanduser().exists() and not is_hub_id(args.photos):
            find_photos(args.photos)  # refuses it, before a model is loaded
    else:
        require_ray()
        if process_state().num_processes > 1:
            raise ValueError("--on ray starts its own processes: run it without a launcher.")
    client, state = connect_store(args.store, args.uri), process_state()
    name, line = choose_model(args.out, args.model)
    if line and state.is_main_process:
        print(printable(line))
    check_precision(name, args.precision)
    model, processor = load_retriever(name)
    options = {key: getattr(args, key) for key in ("split", "index", "batch_size", "workers", "precision")}
    options |= {"model_name": name, "follow_paths": args.follow_paths, "progress": not args.quiet}
    if args.on == "ray":
        where = {"address": args.address, "client": client, "gpu": args.device != "cpu"}
        report = build_on_ray(args.photos, model, processor, args.out, **where, **options)
    else:
        model.to(args.device or state.device)
        report = build_gallery(args.photos, model, processor, args.out, **options)
        leave_group()
    if report.count == 0:  # not the main process of several
        return 0
    _print_report(args.out, report)
    note = drawn_world_note(model, report.drawn)
    if note:
        print(note, file=sys.stderr)
    words = ["splip", "search", "DRAWING.png", "--gallery", args.out]
    if client is not None:
        sent = report.sent if args.on == "ray" else ingest(args.out, client, progress=not args.quiet)
        print(f"{args.uri}: {sent} photos sent to gallery '{collection_name(args.out)}'")
        words += ["--store", "milvus", "--uri", args.uri]
    print(f"Search it with: {shlex.join(words)}")
    return 0


def choose_model(out: str, named: str | None) -> tuple[str, str]:
    """Return the model to encode with, and a line about it, "" if there is nothing to say.

    A gallery that is brought up to date keeps its model, unless another one is named.

    Args:
        out: the gallery's folder, new or not.
        named: what `--model` says.
    """
    folder = Path(out).expanduser()
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError):  # a new gallery, or a damaged one, which is built anew
        name = named or DEFAULT_MODEL
        return name, about_default() if name == DEFAULT_MODEL else ""
    before = manifest["model"]
    if named is None:
        return model_place(folder, manifest), f"Model: {before}, as before; --model takes another."
    if named != before and os.path.abspath(named) != before:
        return named, f"'{out}' was built with '{before}', and now becomes a gallery of '{named}'."
    return named, ""


def _print_report(out: str, report: BuildReport) -> None:
    """Say what was done, and on standard error what is not in the gallery."""
    known = report.count - report.encoded
    print(f"{out}: {report.count} photos ({report.encoded} encoded, {known} already known, {report.removed} removed)")
    if "instead_of" in report.index:
        wanted, recall = report.index["instead_of"], 100 * report.index["its_recall"]
        print(f"Index: exact, since {wanted} finds only {recall:.1f} % of the nearest photos.", file=sys.stderr)
    if report.doubt:
        print(printable(report.doubt), file=sys.stderr)
    if report.left_out:
        print(left_out_sentence(report.left_out), file=sys.stderr)
    if report.unreadable:
        print(f"Left out, because they cannot be read: {len(report.unreadable)}", file=sys.stderr)
        for entry in report.unreadable[:_SHOWN]:
            print(f"  {printable(entry['path'])}: {printable(entry['reason'])}", file=sys.stderr)
        if len(report.unreadable) > _SHOWN:
            print(f"  and {len(report.unreadable) - _SHOWN} more, all named in {out}/manifest.json", file=sys.stderr)
