"""Turn sketches and photos on disk into a dataset that every other command reads."""

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from modeling_splip.common.text import quoted

from .card import dataset_card
from .folder import Folder
from .open23 import Open23
from .qmul import Qmul
from .quickdraw import QuickDraw
from .schema import SPLITS
from .sketchy import Sketchy
from .splits import load_split
from .tuberlin import TuBerlin
from .writing import plan_hash, write_shards

BENCHMARKS = (Sketchy, TuBerlin, QuickDraw, Qmul)
MINI = re.compile(r"mini(-.*)?$")
NOT_IN_NAMES = r"[<>:/\\|?*]"  # what `datasets` refuses in the name of a configuration
# Arguments that only some builders have; the first ones are lists, separated by commas.
LISTS = ("unseen", "drop_flawed")
PLAIN = ("split", "pairs", "sketch_list", "info_dir")
OPTIONS = {
    Folder: ("split", "unseen", "pairs"),
    Sketchy: ("sketch_list", "drop_flawed", "info_dir"),
    TuBerlin: ("sketch_list",),
    QuickDraw: ("sketch_list",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip prepare`."""
    parser.add_argument(
        "name", help=f"folder, open23-fold0, mini, or a benchmark's split: {', '.join(benchmarks())}"
    )
    parser.add_argument("--data-dir", help="folder, zip or tar file with the images")
    parser.add_argument("--out", required=True, help="folder to write; must not exist yet")
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared dataset at --out")
    parser.add_argument("--strict", action="store_true", help="stop where any file is not as it should be")
    parser.add_argument("--num-proc", type=int, default=1, help="worker processes (1)")
    folder = parser.add_argument_group("folder")
    folder.add_argument("--split", help="name of a packaged split, or a JSON file")
    folder.add_argument("--split-file", dest="split", help='JSON file {"seen": [...], "unseen": [...]}')
    folder.add_argument("--unseen", help="unseen classes, separated by commas; the others are seen")
    folder.add_argument("--title", help="name of the dataset (the split's or the data folder's)")
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


def run(args: argparse.Namespace) -> int:
    """Prepare the dataset that `args` ask for. Raises ValueError and OSError with one clear sentence."""
    if args.num_proc < 1:
        raise ValueError(f"--num-proc is {args.num_proc}; it must be 1 or more")
    if args.title and re.search(NOT_IN_NAMES, args.title):
        raise ValueError(f"--title '{args.title}' holds one of < > : / \\ | ? *, which no dataset's name may hold")
    out = Path(args.out).expanduser()
    _require_free(out, args.overwrite)
    partial = out.with_name(out.name + ".partial")
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = make_builder(args, cache, scratch=partial / "unpacked")
        finally:
            _drop_if_empty(partial)
        _open_partial(partial, plan_hash(builder))
        written = write_shards(builder, partial / "data", args.num_proc)
    summary = _summary(builder, written, args)
    wrong = _why_not(summary, args.strict)
    if wrong:
        shutil.rmtree(partial)
        raise ValueError(f"{wrong}; nothing was written")
    _complete(partial, out, summary, builder)
    _report(out, summary)
    if args.push_to_hub:
        push(out, args.push_to_hub, args.private)
    return 0


def benchmarks() -> list[str]:
    """Return the names of the benchmark splits that `splip prepare` knows."""
    return [config.name for builder in BENCHMARKS for config in builder.BUILDER_CONFIGS]


def make_builder(args: argparse.Namespace, cache: str, scratch: Path) -> datasets.GeneratorBasedBuilder:
    """Return the builder of `args.name`, its data folder listed and checked."""
    if MINI.match(args.name):
        return _mini(args, cache)
    classes = {config.name: builder for builder in (*BENCHMARKS, Open23) for config in builder.BUILDER_CONFIGS}
    builder_class = {"folder": Folder, **classes}.get(args.name)
    if builder_class is None:
        raise ValueError(f"unknown dataset '{args.name}'; known: folder, mini, {', '.join(benchmarks())}")
    options = _options(args, OPTIONS.get(builder_class, ()))
    if builder_class is Open23:
        if args.data_dir:
            raise ValueError(f"--data-dir does not go with '{args.name}', which comes with the package")
        return Open23(cache_dir=cache, config_name=args.name)
    return builder_class(
        cache_dir=cache, config_name=args.name, data_dir=args.data_dir, scratch=str(scratch), **options
    )


def _mini(args: argparse.Namespace, cache: str) -> datasets.GeneratorBasedBuilder:
    _options(args, ())
    mini = importlib.import_module("datasets_scripts.mini").Mini
    names = [config.name for config in mini.BUILDER_CONFIGS]
    if args.name not in names:
        raise ValueError(f"unknown dataset '{args.name}'; known: {', '.join(names)}")
    return mini(cache_dir=cache, config_name="mini-fold0" if args.name == "mini" else args.name)


def _options(args: argparse.Namespace, allowed: Sequence[str]) -> dict[str, Any]:
    """Return the given options of one builder. Raises ValueError for one that it does not have."""
    given = {name: getattr(args, name) for name in LISTS + PLAIN if getattr(args, name) is not None}
    for name in given:
        if name not in allowed:
            raise ValueError(f"--{name.replace('_', '-')} does not go with '{args.name}'")
    return {name: _names(value) if name in LISTS else value for name, value in given.items()}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _require_free(out: Path, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is empty or a prepared dataset that may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"output '{out}' exists; choose another --out, or --overwrite to replace a prepared dataset")
    if not (out / "splip_dataset.json").is_file():
        raise ValueError(f"output '{out}' is not a prepared dataset, so --overwrite does not touch it")


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
        marker.write_text(plan)
    except OSError as error:
        raise OSError(f"cannot write to '{partial.parent}': {error.strerror}; choose another --out") from error


def _summary(
    builder: datasets.GeneratorBasedBuilder, written: Mapping[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Return the content of `splip_dataset.json`."""
    plan = getattr(builder, "plan", None)
    classes = plan or builder.config
    problems = {**(plan.problems if plan else {}), **written["problems"]}
    summary = {
        "name": _name(args, builder),
        "prepared": args.name,
        "version": "",
        "seen": list(classes.seen),
        "unseen": list(classes.unseen),
        "counts": {split: written["rows"].get(split, {}) for split in SPLITS},
        "problems": {kind: names for kind, names in problems.items() if names},
        "per_class": written["per_class"],
        "report": plan.report if plan else {},
    }
    summary["version"] = _version(builder, summary, written["digest"])
    return summary


def _why_not(summary: Mapping[str, Any], strict: bool) -> str:
    """Return why the result may not be kept, "" where it may."""
    empty = [split for split in SPLITS if not summary["counts"][split]]
    if empty:
        need = "at least one seen class, and one unseen class with sketches and photos"
        return f"no images for {quoted(empty)}: the data and the split must leave {need}"
    if strict and summary["problems"]:
        return f"--strict: {_first_problems(summary['problems'])}"
    return ""


def _name(args: argparse.Namespace, builder: datasets.GeneratorBasedBuilder) -> str:
    if args.name != "folder":
        return builder.config.name
    if args.title:
        return args.title
    name = load_split(args.split).name if args.split else Path(args.data_dir).absolute().name
    return re.sub(NOT_IN_NAMES, "-", name)


def _version(builder: datasets.GeneratorBasedBuilder, summary: Mapping[str, Any], digest: str) -> str:
    """Return the configuration's `data_version` where it states one, otherwise a hash of the content."""
    if stated := getattr(builder.config, "data_version", None):
        return stated
    content = json.dumps([summary["name"], summary["seen"], summary["unseen"], digest])
    return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


def _complete(partial: Path, out: Path, summary: Mapping[str, Any], builder: datasets.GeneratorBasedBuilder) -> None:
    """Write the card and the summary, and give the folder its name."""
    about = getattr(builder, "about", {})
    (partial / "README.md").write_text(dataset_card(summary, about), "utf-8")
    (partial / "splip_dataset.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
    shutil.rmtree(partial / "unpacked", ignore_errors=True)
    (partial / "plan").unlink()
    if out.exists():
        old = out.with_name(out.name + ".old")
        os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old)
    else:
        os.replace(partial, out)


def _report(out: Path, summary: Mapping[str, Any]) -> None:
    classes = f"{len(summary['seen'])} seen and {len(summary['unseen'])} unseen classes"
    print(f"{summary['name']} (version {summary['version']}): {classes}")
    for split, counts in summary["counts"].items():
        print(f"  {split:8} {counts.get('sketch', 0):>8,} sketches {counts.get('photo', 0):>8,} photos")
    for key, value in summary["report"].items():
        if value not in ("", [], {}, None):
            print(f"  {key.replace('_', ' ')}: {_plain(value)}")
    for kind, names in summary["problems"].items():
        print(f"  {kind.replace('_', ' ')}: {len(names):,}: {quoted(names, 5)}")
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
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"'{folder}' is prepared, but pushing it to '{repo_id}' failed: {reason}") from error
    print(f"pushed to {repo_id}")
