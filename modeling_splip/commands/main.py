"""The `splip` command: runs a sub-command by its name, and turns an error into one sentence.

Only the sub-command that runs is imported. The help reads what the others do from their source files, so that it needs
neither torch nor transformers.
"""

import argparse
import ast
import contextlib
import importlib
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ..common.files import disk_is_full
from ..common.text import hint, one_line, printable

# Commands of this package; others (`prepare`, `space`) come through the entry point group below.
COMMANDS = {
    "demo": "modeling_splip.commands.demo",
    "describe": "modeling_splip.commands.describe",
    "evaluate": "modeling_splip.commands.evaluate",
    "export": "modeling_splip.commands.export",
    "index": "modeling_splip.commands.index",
    "push": "modeling_splip.commands.push",
    "reproduce": "modeling_splip.commands.reproduce",
    "search": "modeling_splip.commands.search",
    "train": "modeling_splip.commands.train",
}
ENTRY_POINTS = "splip.commands"
OUTPUTS = ("out", "output", "html", "picture", "explain")  # arguments of commands that say where they write
# The order of the help, with an example of each command; one that stands in no group comes last, without.
GROUPS = {
    "First steps": {"demo": "splip demo"},
    "Search": {
        "index": "splip index PHOTOS --out gallery",
        "search": "splip search DRAWING.png --gallery gallery",
        "space": "splip space --gallery gallery",
    },
    "Data": {
        "prepare": "splip prepare open23-fold0 --out data/open23",
        "describe": "splip describe --classes names.txt --model OWNER/NAME --out words.json",
    },
    "Training and evaluation": {
        "train": "splip train --recipe splip_open23 --dataset data/open23 --output runs/open23",
        "evaluate": "splip evaluate --model runs/open23/model --dataset data/open23",
        "reproduce": "splip reproduce splip_sketchy2 --data-dir ARCHIVE --dry-run",
    },
    "Sharing": {
        "push": "splip push runs/open23 NAME/REPO --dry-run",
        "export": "splip export runs/open23/model --out model.onnx",
    },
}


def main(argv: list[str] | None = None) -> int:
    """Run `splip` and return its exit status: 0, or 2 with one sentence on standard error, or 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    modules = COMMANDS | {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(help_text(modules))
        return 0
    if name == "--version":
        print(f"splip {_version()}")
        return 0
    if name not in modules:
        return _refuse(f"There is no command '{name}'{hint(name, modules)}")
    return _run(name, modules[name], argv[1:])


def help_text(modules: dict[str, str]) -> str:
    """Return the help: all commands by group, with one line each.

    Args:
        modules: command -> module.
    """
    grouped = {name for examples in GROUPS.values() for name in examples}
    groups = GROUPS | {"Other": dict.fromkeys(sorted(set(modules) - grouped), "")}
    lines = ["usage: splip COMMAND ...", "", "Draw a sketch, find the photo."]
    for title, examples in groups.items():
        known = [name for name in examples if name in modules]
        if known:
            lines += ["", f"{title}:"]
        for name in known:
            lines.append(f"  {name:<10} {_description(name, modules[name])}")
            lines += [f"{'':<13}$ {examples[name]}"] if examples[name] else []
    return "\n".join([*lines, "", "`splip COMMAND --help` explains a command, `splip --version` prints the version."])


def _run(name: str, module: str, argv: list[str]) -> int:
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        return _refuse(f"{name} {_missing(name, error.name)}.")
    args = None
    if not hasattr(command, "run_words"):
        parser = argparse.ArgumentParser(prog=f"splip {name}", description=_first_line(command.__doc__))
        command.add_arguments(parser)
        args = parser.parse_args(argv)
    _hide_loading_bars()
    try:
        return command.run_words(argv) if args is None else command.run(args)
    except (ValueError, OSError) as error:
        return _refuse(_full_disk(error, args) if disk_is_full(error) else one_line(error))
    except RecursionError:
        return _refuse("A JSON or YAML file nests too deep to be read: write or download it again.")
    except KeyboardInterrupt:
        print("splip: interrupted.", file=sys.stderr)
        return 130


def _hide_loading_bars() -> None:
    """Hide the bars of weights that are read from this disk; those of downloads, which take long, stay."""
    with contextlib.suppress(ModuleNotFoundError):
        from huggingface_hub.utils import enable_progress_bars
        from transformers.utils import logging

        logging.disable_progress_bar()
        enable_progress_bars()


def _full_disk(error: BaseException, args: argparse.Namespace) -> str:
    """Return the sentence for a full disk; the error itself seldom says which one."""
    outputs = (getattr(args, name, None) for name in OUTPUTS)
    place = next(filter(None, outputs), None) or getattr(error, "filename", None) or tempfile.gettempdir()
    return (
        f"The disk with '{place}' is full: make room there, or choose another place, and run the command again: it "
        "goes on with what is finished."
    )


def _refuse(sentence: str) -> int:
    print(f"splip: {printable(sentence)}", file=sys.stderr)
    return 2


def _description(name: str, module: str) -> str:
    """Return the first line of a module's docstring, or which library it lacks. The module is not imported."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError as error:  # the package that it lies in
        return _missing(name, error.name)
    if spec is None:
        return _missing(name, module)
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    imported = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    imported += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
    for library in dict.fromkeys(each.partition(".")[0] for each in imported):
        if find_spec(library) is None:
            return _missing(name, library)
    return _first_line(ast.get_docstring(tree))


def _missing(name: str, library: str | None) -> str:
    return f"needs {library}, which is not installed: pip install {library}"


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def _version() -> str:
    try:
        return metadata.version("splip")
    except metadata.PackageNotFoundError:
        return "(not installed)"
