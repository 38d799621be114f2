"""Find the photos of a gallery that a sketch shows."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..common.files import check_writable
from ..common.text import composed, printable
from ..evaluation.pictures import retrieval_grid
from ..loading import drawn_world_note
from ..processing_splip import INVERSIONS, to_rgb
from ..search.base import SearchableGallery
from ..search.contact_sheet import write_contact_sheet
from ..search.gallery import Gallery
from ..search.result import Result
from ..search.stores import add_store_arguments, connect_store, open_gallery

PICTURE_HELP = (
    "write a picture of sketches and photos (.png, .jpg, .webp); hits and misses are framed if each sketch lies in a "
    "folder that is named like a label"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip search`."""
    parser.add_argument(
        "sketches", metavar="SKETCH", nargs="*", help="image of a drawing; none to search by --text alone"
    )
    parser.add_argument("--gallery", required=True, help="folder that `splip index` wrote")
    add_store_arguments(parser, "where the gallery lies")
    parser.add_argument("-k", type=int, default=10, help="photos wanted (default: 10)")
    parser.add_argument("--model", help="default: the one that the gallery was built with")
    parser.add_argument("--text", help="words beside the sketch, such as 'red'")
    parser.add_argument("--text-weight", type=float, default=0.5, help="0: sketch only, 1: words only (default: 0.5)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="only photos with this value; repeatable"
    )
    parser.add_argument(
        "--collapse",
        type=float,
        nargs="?",
        const=0.95,
        metavar="COSINE",
        help="one of near-duplicates only: photos at least this similar (default: 0.95)",
    )
    parser.add_argument(
        "--invert-sketches",
        choices=INVERSIONS,
        help="invert sketches: auto: those that look white on black; true: all; false: none (default: the model's)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--html", metavar="FILE", help="write a contact sheet")
    parser.add_argument("--picture", metavar="FILE", help=PICTURE_HELP)


def run(args: argparse.Namespace) -> int:
    """Search, and print or write what was found."""
    if not args.sketches and args.text is None:
        raise ValueError("There is nothing to search for: pass a SKETCH, --text or both.")
    where = _filters(args.where)
    for file in filter(None, (args.html, args.picture)):
        check_writable(Path(file))
    gallery = open_gallery(args.gallery, connect_store(args.store, args.uri), args.model)
    if args.invert_sketches:
        gallery.processor.invert_sketches = args.invert_sketches
    note = drawn_world_note(gallery.model, gallery.manifest.get("drawn", False))
    if note:
        print(note, file=sys.stderr)
    sketches = [to_rgb(path) for path in args.sketches]
    options: dict[str, Any] = {"where": where, "text_weight": args.text_weight, "collapse": args.collapse}
    if sketches:
        found = gallery.search(list(args.sketches), args.k, args.text, **options)
    else:
        found = [gallery.search(None, args.k, args.text, **options)]
    names = [f"{name} + '{args.text}'" if args.text else name for name in args.sketches] or [f"'{args.text}'"]
    if args.html:
        shown: list[Image.Image | None] = [*sketches] or [None]
        write_contact_sheet(list(zip(names, shown, strict=True)), found, Path(args.html))
    if args.picture:
        labels = set(gallery.labels()) if isinstance(gallery, Gallery) else {r.label for row in found for r in row}
        _write_picture(args.picture, args.sketches, found, labels)
    if args.json:
        print(json.dumps(_record(args, gallery, found), indent=1, allow_nan=False))
    else:
        for name, results in zip(names, found, strict=True):
            _print_table(name, results)
    return 0


def _filters(texts: list[str]) -> dict[str, list[str]]:
    """Read COLUMN=VALUE; the values of one column are alternatives."""
    where: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise ValueError(f"--where '{text}' is not COLUMN=VALUE, such as label=dog.")
        where.setdefault(column, []).append(value)
    return where


def _record(args: argparse.Namespace, gallery: SearchableGallery, found: list[list[Result]]) -> dict[str, Any]:
    queries = [
        {"sketch": sketch, "text": args.text, "results": [result.as_dict() for result in results]}
        for sketch, results in zip(args.sketches or [None], found, strict=True)
    ]
    facts = {name: gallery.manifest[name] for name in ("model", "fingerprint")}
    return {"gallery": args.gallery, **facts, "queries": queries}


def _print_table(name: str, results: list[Result]) -> None:
    print(f"\n{printable(name)}")
    if not results:
        print("  no photo in the gallery fits the filter")
        return
    width = max(len("label"), *(len(printable(result.label)) for result in results))
    print(f"  rank  score  {'label':{width}}  photo")
    for rank, result in enumerate(results, 1):
        print(f"  {rank:4d}  {result.score:5.3f}  {printable(result.label):{width}}  {printable(result.path)}")


def _write_picture(path: str, sketches: Sequence[str], found: list[list[Result]], labels: set[str]) -> None:
    """Write the picture; hits and misses are framed where every sketch lies in a folder named like a label."""
    if not sketches:
        raise ValueError("--picture shows sketches with their results, and words alone have none: use --html.")
    classes = [composed(Path(sketch).resolve().parent.name) for sketch in sketches]
    known = labels.issuperset(classes)
    retrieval_grid(
        [to_rgb(sketch) for sketch in sketches],
        [[result.thumbnail for result in results] for results in found],
        [[result.label == name for result in results] for name, results in zip(classes, found, strict=True)]
        if known
        else None,
        path,
        titles=classes if known else [Path(sketch).name for sketch in sketches],
        captions=[[f"{result.label} {result.score:.2f}".strip() for result in results] for results in found],
    )
