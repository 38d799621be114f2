"""The `splip` command: finds its sub-commands by name and turns errors into one sentence."""

import argparse
import importlib
import sys
from importlib.metadata import entry_points
from types import ModuleType

from ..common.text import one_line

# Commands of this package; others (`prepare`, `space`) come through the entry point group below.
COMMANDS = {
    "describe": "modeling_splip.commands.describe",
    "evaluate": "modeling_splip.commands.evaluate",
    "index": "modeling_splip.commands.index",
    "push": "modeling_splip.commands.push",
    "reproduce": "modeling_splip.commands.reproduce",
    "search": "modeling_splip.commands.search",
}
GROUP = "splip.commands"


def main(argv: list[str] | None = None) -> int:
    """Run `splip`; returns the exit status: 0, or 2 with one sentence on standard error."""
    argv = sys.argv[1:] if argv is None else argv
    modules = _modules()
    parser = argparse.ArgumentParser(prog="splip", description="Draw a sketch, find the photo.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only the command that runs is imported, for the others their names are enough.
    wanted = argv[0] if argv and argv[0] in modules else None
    for name in sorted(modules):
        if wanted not in (None, name):
            continue
        try:
            module = importlib.import_module(modules[name])
        except ModuleNotFoundError as error:
            needs = f"needs {error.name}, which is not installed: pip install 'splip[{name}]'"
            if wanted:
                print(f"splip: {name} {needs}.", file=sys.stderr)
                return 2
            commands.add_parser(name, help=needs)
            continue
        text = _first_line(module)
        module.add_arguments(commands.add_parser(name, help=text, description=text))
        if wanted:
            run = module.run
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (ValueError, OSError) as error:
        print(f"splip: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("splip: interrupted.", file=sys.stderr)
        return 130


def _modules() -> dict[str, str]:
    return COMMANDS | {point.name: point.value for point in entry_points(group=GROUP)}


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]
