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
from ..evaluation.pictures import PHOTO_KINDS, check_picture
from ..loading import drawn_world_note
from ..processing_splip import INVERSIONS, to_rgb
from ..search.base import SearchableGallery
from ..search.confidence import CONVINCING
from ..search.contact_sheet import write_contact_sheet
from ..search.gallery import Gallery
from ..search.pictures import matches_picture, results_picture
from ..search.result import Result
from ..search.stores import add_store_arguments, connect_store, open_gallery

PICTURE_HELP = (
    "write a picture of what was found (.png, .jpg, .webp); hits and misses are framed if each sketch lies in a folder "
    "that is named like a label"
)
EXPLAIN_HELP = "write a picture of which parts of a sketch and of its first photo the model sees alike"


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
    parser.add_argument("--text-weight", type=float, help="with --text, 0: sketch only, 1: words only (default: 0.5)")
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
    parser.add_argument("--explain", metavar="FILE", help=EXPLAIN_HELP)


def run(args: argparse.Namespace) -> int:
    """Search, and print or write what was found."""
    if not args.sketches and args.text is None:
        raise ValueError("There is nothing to search for: pass a SKETCH, --text or both.")
    if args.text_weight is not None and args.text is None:
        raise ValueError("--text-weight says how much words count, and there are none: pass --text, or leave it out.")
    where = _filters(args.where)
    check_files(args)
    gallery = open_gallery(args.gallery, connect_store(args.store, args.uri), args.model)
    if args.invert_sketches:
        gallery.processor.invert_sketches = args.invert_sketches
    note = drawn_world_note(gallery.model, gallery.manifest.get("drawn", False))
    if note:
        print(note, file=sys.stderr)
    sketches: list[Image.Image | None] = [to_rgb(path) for path in args.sketches] or [None]
    weight = 0.5 if args.text_weight is None else args.text_weight
    options: dict[str, Any] = {"where": where, "text_weight": weight, "collapse": args.collapse}
    if args.sketches:
        found = gallery.search(list(args.sketches), args.k, args.text, **options)
    else:
        found = [gallery.search(None, args.k, args.text, **options)]
    write_files(args, gallery, sketches, found)
    plain = args.text is None and not where and args.collapse is None
    certain = [gallery.confidence(results) if plain else None for results in found]
    if args.json:
        print(json.dumps(_record(args, gallery, found, certain), indent=1, allow_nan=False))
        return 0
    for name, results, share in zip(_names(args.sketches, args.text), found, certain, strict=True):
        _print_table(name, results)
        if share is not None and share < CONVINCING:
            print(f"  Not convincing: of random scribbles, {1 - share:.0%} find photos at least as near.")
    return 0


def check_files(args: argparse.Namespace) -> None:
    """Raise an error, before any work, for files that cannot be written.

    Raises:
        OSError, ValueError: in one sentence.
    """
    if args.explain and not args.sketches:
        raise ValueError("--explain compares a sketch with its photo, and words alone have no parts: pass a SKETCH.")
    for file in filter(None, (args.picture, args.explain)):
        check_picture(file, PHOTO_KINDS)
    for file in filter(None, (args.html, args.picture, args.explain)):
        check_writable(Path(file))


def write_files(
    args: argparse.Namespace,
    gallery: SearchableGallery,
    sketches: Sequence[Image.Image | None],
    found: list[list[Result]],
) -> None:
    """Write the contact sheet and the pictures that were asked for.

    Raises:
        ValueError: if a photo shall be explained and none was found.
    """
    if args.html:
        queries = list(zip(_names(args.sketches, args.text), sketches, strict=True))
        write_contact_sheet(queries, found, Path(args.html))
    classes, hits = judged(args.sketches, found, gallery)
    titles = _names(classes or [Path(sketch).name for sketch in args.sketches], args.text)
    if args.picture:
        results_picture(list(zip(titles, sketches, strict=True)), found, args.picture, hits)
    if args.explain:
        if not all(found):
            raise ValueError("--explain has no photo to compare with, since none fits the filter: search without it.")
        rows = zip(titles, sketches, found, strict=True)
        matches_picture([(title, gallery.explain(sketch, row[0])) for title, sketch, row in rows], args.explain)


def _names(sketches: Sequence[str], text: str | None) -> list[str]:
    """Return what was searched for, by the sketches' names and the words."""
    return [f"{name} + '{text}'" if text else name for name in sketches] or [f"'{text}'"]


def _filters(texts: list[str]) -> dict[str, list[str]]:
    """Read COLUMN=VALUE; the values of one column are alternatives."""
    where: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise ValueError(f"--where '{text}' is not COLUMN=VALUE, such as label=dog.")
        where.setdefault(column, []).append(value)
    return where


def _record(
    args: argparse.Namespace, gallery: SearchableGallery, found: list[list[Result]], certain: list[float | None]
) -> dict[str, Any]:
    queries = [
        {"sketch": sketch, "text": args.text, "confidence": share, "results": [result.as_dict() for result in results]}
        for sketch, results, share in zip(args.sketches or [None], found, certain, strict=True)
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


def judged(
    sketches: Sequence[str], found: list[list[Result]], gallery: SearchableGallery
) -> tuple[list[str], list[list[bool]] | None]:
    """Return the class of every sketch, and for every photo whether it is of this class; ([], None) where unknown.

    The class is the folder that a sketch lies in, where for all of them this is a label of the gallery.
    """
    labels = set(gallery.labels()) if isinstance(gallery, Gallery) else {r.label for row in found for r in row}
    classes = [composed(Path(sketch).resolve().parent.name) for sketch in sketches]
    if not classes or not labels.issuperset(classes):
        return [], None
    return classes, [[result.label == name for result in results] for name, results in zip(classes, found, strict=True)]
