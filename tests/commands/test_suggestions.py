"""Commands that errors, help and documents suggest are complete: the real parsers take them."""

import argparse
import ast
import importlib
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from modeling_splip.commands import main as cli
from modeling_splip.training.arguments import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for top in ("modeling_splip", "datasets_scripts", "space") for path in (ROOT / top).rglob("*.py")]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def text_of(node: ast.AST) -> str:
    """Return the text of a string as a user may see it, with X for each value in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def suggested(path: Path) -> set[str]:
    """Return the commands in the errors that a file raises and prints; behind "the same" and "that" are names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        told = isinstance(node, ast.Raise) or (isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr))
        told |= isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        for text in map(text_of, ast.walk(node)) if told else ():
            found |= set(re.findall(r"(?<!the same )(?<!that )`(splip [^`]+)`", text))
    return found


def shown(path: Path) -> set[str]:
    """Return the commands in the shell examples of a document, without comments and those that are cut short."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return {line for line in lines if line.startswith("splip ") and "..." not in line}


def check(command: str) -> None:
    """Parse a command as `splip` would. Raises SystemExit or ValueError where it is not complete."""
    modules = cli.COMMANDS | {point.name: point.value for point in entry_points(group=cli.ENTRY_POINTS)}
    _, name, *words = shlex.split(command)
    if name == "train":
        parse_arguments(words)
        return
    parser = argparse.ArgumentParser()
    importlib.import_module(modules[name]).add_arguments(parser)
    parser.parse_args(words)


SUGGESTED = sorted({command for path in SOURCES for command in suggested(path)})
EXAMPLES = [example for group in cli.GROUPS.values() for example in group.values()]
SHOWN = sorted({command for path in DOCUMENTS for command in shown(path)})


@pytest.mark.parametrize("command", [*SUGGESTED, *EXAMPLES, *SHOWN])
def test_a_suggested_command_is_complete(command):
    library = {"space": "gradio", "export": "onnx"}.get(command.split()[1])
    if library:
        pytest.importorskip(library)
    check(command)


def test_suggestions_are_found_and_broken_ones_are_seen(tmp_path):
    assert len(SUGGESTED) > 8 and len(SHOWN) > 8
    assert {example.split()[1] for example in EXAMPLES} == {*cli.COMMANDS, "prepare", "space"}
    file = tmp_path / "a.py"
    file.write_text('raise ValueError(f"{x}: make one with `splip index`, or run the same `splip push` again.")')
    assert suggested(file) == {"splip index"}
    for broken in (
        "splip index",
        "splip describe --out X",
        "splip train --recipe splip_open23",
        "splip search --galery X",
    ):
        with pytest.raises((SystemExit, ValueError)):
            check(broken)


def test_no_error_suggests_a_command_without_its_marks():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise):
                for text in map(text_of, ast.walk(node)):
                    assert not re.search(r"(?<![`\w])splip (?:\w+) -", text), (path, text)
