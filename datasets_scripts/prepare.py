"""Turn sketches and photos on disk into a dataset that every other command reads."""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling_splip.common.files import is_side_file, remove, write_json, write_text
from modeling_splip.common.text import hint, printable, quoted

from .base import Builder, Plan
from .card import dataset_card
from .folder import Folder
from .mini import Mini
from .open23 import Open23
from .pictures import looks_swapped
from .qmul import Qmul
from .quickdraw import QuickDraw
from .schema import SPLITS
from .sketchy import Sketchy
from .tuberlin import TuBerlin
from .writing import plan_hash, write_shards

INFO_FILE = "splip_dataset.json"
BENCHMARKS = (Sketchy, TuBerlin, QuickDraw, Qmul)
BUILDERS: dict[str, type[Builder]] = {name: b for b in (Folder, Open23, Mini, *BENCHMARKS) for name in b.names}
LISTS = ("unseen", "drop_flawed")  # arguments with names that commas separate
NO_TRAIN = "pictures of seen classes: it tests models by the protocols zs and fg-*, and trains none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip prepare`."""
    parser.add_argument("name", help=f"folder, open23-fold0, mini, or a benchmark's split: {', '.join(benchmarks())}")
    parser.add_argument("--data-dir", help="folder, zip or tar file with the images")
    parser.add_argument("--out", required=True, help="folder to write; must not exist yet")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared dataset at --out")
    parser.add_argument("--strict", action="store_true", help="stop where any file is not as it should be")
    parser.add_argument("--num-proc", type=int, default=1, help="worker processes (1)")
    folder = parser.add_argument_group("folder")
    folder.add_argument("--split", help="name of a packaged split, or a JSON file")
    folder.add_argument("--split-file", dest="split", help='JSON file {"seen": [...], "unseen": [...]}')
    folder.add_argument(
        "--unseen",
        action="append",
        help="unseen classes: a,b,c, or one each time; @FILE: one a line; the others are seen; all: a test set",
    )
    folder.add_argument("--title", dest="own_title", help="name of the dataset (the split's or the data folder's)")
    folder.add_argument(
        "--pairs",
        action=argparse.BooleanOptionalAction,
        help="sketch <id>-<k> was drawn of photo <id> (found out from the names)",
    )
    benchmark = parser.add_argument_group("benchmarks")
    benchmark.add_argument(
        "--sketch-list",
        choices=("all", "archive"),
        help="sketches of the seen classes: all (default), or those on the list that the archive carries",
    )
    benchmark.add_argument("--drop-flawed", help="Sketchy: leave out sketches listed as error,ambiguous,pose,context")
    benchmark.add_argument("--info-dir", help="Sketchy: folder or archive with the invalid-*.txt lists (--data-dir)")
    hub = parser.add_argument_group("Hub")
    hub.add_argument("--push-to-hub", metavar="ID", help="upload the result as this dataset repository")
    hub.add_argument("--private", action="store_true", help="make that repository private")


OPTIONS = {
    "split": "--split",
    "unseen": "--unseen",
    "own_title": "--title",
    "pairs": "--pairs",
    "sketch_list": "--sketch-list",
    "drop_flawed": "--drop-flawed",
    "info_dir": "--info-dir",
    "data_dir": "--data-dir",
}
"""The arguments that become fields of a builder, where it has them."""


def run(args: argparse.Namespace) -> int:
    """Prepare the dataset that `args` ask for. Raises ValueError and OSError with one clear sentence."""
    out = Path(args.out).expanduser()
    summary = prepare(make_builder(args), out, args.num_proc, args.strict, args.overwrite)
    _report(out, summary)
    if args.push_to_hub:
        push(out, args.push_to_hub, args.private)
    return 0


def prepare(
    builder: Builder, out: Path, num_proc: int = 1, strict: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Write a builder's dataset to the folder `out`, which must not exist yet, and return its `splip_dataset.json`.

    All is written to `out`.partial, and renamed at the end. An interrupted run goes on there when it is repeated.

    Args:
        builder: such as `Mini("mini-fold0")` or `Folder("folder", "my/pictures", unseen=["cup"])`.
        num_proc: worker processes.
        strict: whether to refuse data that have any problem.
        overwrite: whether a prepared dataset at `out` is replaced.

    Raises:
        ValueError, OSError: with one sentence; nothing is written.
    """
    if num_proc < 1:
        raise ValueError(f"--num-proc is {num_proc}, but must be 1 or more.")
    partial = out.with_name(out.name + ".partial")
    if partial.is_symlink():
        raise ValueError(f"'{partial}' is a link, which is never written to: remove it, or choose another --out.")
    _put_back(partial, out)
    check_free(out, overwrite)
    builder.scratch = str(partial / "unpacked")
    try:
        plan = builder.plan()
    finally:
        _drop_if_empty(partial)
    _open_partial(partial, plan_hash(plan))
    plan.report |= _doubt(plan)
    summary = _summary(builder, plan, write_shards(plan, partial / "data", num_proc))
    wrong = _why_not(summary, strict)
    if wrong:
        shutil.rmtree(partial)
        raise ValueError(f"{wrong}. Nothing was written.")
    write_text(partial / "README.md", dataset_card(summary, builder.about))
    write_json(partial / INFO_FILE, summary)
    _move(partial, out)
    return summary


def benchmarks() -> list[str]:
    """Return the names of the benchmark splits that `splip prepare` knows."""
    return [name for builder in BENCHMARKS for name in builder.names]


def make_builder(args: argparse.Namespace) -> Builder:
    """Return the builder of `args.name` with the options that were given.

    Raises:
        ValueError: if there is none, it lacks its data folder, or an option is not one of its.
    """
    if args.name not in BUILDERS:
        raise ValueError(f"There is no dataset '{args.name}'{hint(args.name, BUILDERS)}")
    kind = BUILDERS[args.name]
    allowed = {field.name for field in dataclasses.fields(kind)} - (set() if kind.needs_data else {"data_dir"})
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    for name in options:
        if name not in allowed:
            raise ValueError(f"{OPTIONS[name]} does not go with '{args.name}'.")
    if kind.needs_data and not args.data_dir:
        raise ValueError(f"There is no data folder: --data-dir names the folder or archive that holds '{args.name}'.")
    options |= {name: _names(options[name]) for name in LISTS if name in options}
    return kind(args.name, **options)


def _names(given: str | list[str]) -> list[str]:
    """Return names that commas separate. Those that hold a comma are given one at a time, or in a file, one a line."""
    texts = [given] if isinstance(given, str) else given
    names = texts if len(texts) > 1 else texts[0].split(",")
    if len(texts) == 1 and texts[0].startswith("@"):
        try:
            names = Path(texts[0][1:]).expanduser().read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ValueError(f"The file of names '{texts[0][1:]}' cannot be read ({error}).") from error
    return [name.strip() for name in names if name.strip()]


def check_free(out: Path, overwrite: bool) -> None:
    """Raise ValueError for an output that exists, unless it is empty or a prepared dataset that may be replaced."""
    if not out.exists() or (out.is_dir() and all(map(is_side_file, out.iterdir()))):
        return
    if not overwrite:
        raise ValueError(f"Output '{out}' exists: choose another --out, or --overwrite to replace a prepared dataset.")
    if not (out / INFO_FILE).is_file():
        raise ValueError(
            f"Output '{out}' is not a prepared dataset, so --overwrite does not touch it: choose another --out."
        )


def _drop_if_empty(partial: Path) -> None:
    """Remove a side folder in which nothing was unpacked or written."""
    if partial.is_dir() and not any(path.is_file() for path in partial.rglob("*")):
        shutil.rmtree(partial)


def _open_partial(partial: Path, plan: str) -> None:
    """Make the side folder; what an interrupted run of the same plan finished there is kept."""
    marker = partial / "plan"
    try:
        if marker.is_file() and marker.read_text() == plan:
            print(f"continuing what an interrupted run left in '{partial}'", file=sys.stderr)
        elif (partial / "data").exists():
            shutil.rmtree(partial / "data")
        (partial / "data").mkdir(parents=True, exist_ok=True)
        write_text(marker, plan)
    except OSError as error:
        raise OSError(f"Cannot write to '{partial.parent}' ({error.strerror}): choose another --out.") from error


def _move(partial: Path, out: Path) -> None:
    """Give the finished side folder its name. What stood there before waits inside, until it may go."""
    remove(partial / "unpacked")
    remove(partial / "plan")
    if out.exists():
        os.replace(out, partial / "old")
    os.replace(partial, out)
    remove(out / "old")


def _put_back(partial: Path, out: Path) -> None:
    """Tidy up where a run was killed in `_move`: the earlier dataset is there again, or goes where it was replaced."""
    if (partial / "old").exists() and not out.exists():
        os.replace(partial / "old", out)
    elif all((folder / INFO_FILE).is_file() for folder in (out, out / "old")):
        remove(out / "old")


def _summary(builder: Builder, plan: Plan, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `splip_dataset.json`."""
    problems: dict[str, list[str]] = defaultdict(list)
    for kind, names in (*plan.problems.items(), *written["problems"].items()):
        problems[kind] += [name.encode(errors="replace").decode() for name in names]  # a path may be no text
    content = json.dumps([builder.title, plan.seen, plan.unseen, written["digest"]])
    return {
        "name": builder.title,
        "prepared": builder.name,
        "version": plan.version or hashlib.blake2b(content.encode(), digest_size=6).hexdigest(),
        "seen": plan.seen,
        "unseen": plan.unseen,
        "counts": {split: written["rows"].get(split, {}) for split in SPLITS},
        "problems": dict(problems),
        "per_class": written["per_class"],
        "report": plan.report if plan.rows["train"] else {"lacks": NO_TRAIN, **plan.report},
    }


def _doubt(plan: Plan) -> dict[str, str]:
    """Return {"doubt": a line} if sketches and photos look swapped; {} otherwise."""
    rows = [row for split in plan.rows.values() for row in split]
    sketches, photos = ([row.picture for row in rows if row.modality == kind] for kind in ("sketch", "photo"))
    line = looks_swapped(sketches, photos)
    return {"doubt": line} if line else {}


def _why_not(summary: Mapping[str, Any], strict: bool) -> str:
    """Return why the result may not be kept, "" where it may."""
    needed = SPLITS if summary["seen"] else ("query", "gallery")
    empty = [split for split in needed if not summary["counts"][split]]
    if empty:
        return f"There are no images for {quoted(empty)}: some unseen class must have sketches and photos"
    if strict and summary["problems"]:
        return f"--strict found {_first_problems(summary['problems'])}"
    return ""


def _report(out: Path, summary: Mapping[str, Any]) -> None:
    classes = f"{len(summary['seen'])} seen and {len(summary['unseen'])} unseen classes"
    lines = [f"{summary['name']} (version {summary['version']}): {classes}"]
    for split, counts in summary["counts"].items():
        lines.append(f"  {split:8} {counts.get('sketch', 0):>8,} sketches {counts.get('photo', 0):>8,} photos")
    for key, value in summary["report"].items():
        if value not in ("", [], {}, None, 0) or value is False:
            lines.append(f"  {key.replace('_', ' ')}: {_plain(value)}")
    for kind, names in summary["problems"].items():
        lines.append(f"  {kind.replace('_', ' ')}: {len(names):,}: {quoted(names, 5)}")
    print("\n".join(map(printable, lines)))
    print(f"written to {out}")


def _plain(value: object) -> object:
    if isinstance(value, dict):
        value = [f"{name or '.'} ({count:,})" for name, count in value.items()]
    if isinstance(value, list):
        return f"{len(value):,}" + (f": {quoted(value, 5)}" if value else "")
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _first_problems(problems: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{len(names)} {kind.replace('_', ' ')}: {quoted(names, 5)}" for kind, names in problems.items())


def push(folder: Path, repo_id: str, private: bool) -> None:
    """Upload a prepared dataset to the Hub. Raises OSError where that fails; the folder stays as it is."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repo_id, repo_type="dataset")
    except Exception as error:  # network, rights or name: huggingface_hub raises errors of many families
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise OSError(f"'{folder}' is prepared, but pushing it to '{repo_id}' failed: {reason}.") from error
    print(f"pushed to {repo_id}")
