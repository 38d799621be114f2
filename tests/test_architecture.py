"""The rooms are as docs/architecture.md shows them: every file is there, imports run downwards, nothing is too long."""

import ast
import re
import sys
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import rooms  # noqa: E402

PACKAGE = ROOT / "modeling_splip"
PAGE = rooms.PAGE.read_text("utf-8")
SOURCES = sorted(
    path for folder in ("modeling_splip", "datasets_scripts", "space") for path in (ROOT / folder).rglob("*.py")
)
SOURCES.append(ROOT / "train_accelerate.py")
ENTRIES, LINES, FUNCTION, MAIN, CHAIN = 34, 300, 60, 70, 10
# An `__init__.py` gives names and a `__main__.py` starts the command: neither belongs to a floor.
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name not in ("__init__.py", "__main__.py")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path, package: Path = PACKAGE) -> set[Path]:
    """Return the files of a package that a file imports, wherever in it the import stands.

    A name that a room gives lazily counts as an import of the file that defines it.
    """
    places = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else package.parent
            base = base.joinpath(*filter(None, (node.module or "").split(".")))
            names = {alias.name for alias in node.names}
            places |= {base, *(base / name for name in names)}
            if (base / "__init__.py").is_file():
                places |= {base / file for name, file in rooms.public_names(base).items() if name in names}
        elif isinstance(node, ast.Import):
            places |= {package.parent.joinpath(*alias.name.split(".")) for alias in node.names}
    files = {place.with_suffix(".py") for place in places}
    return {file for file in files if file.is_file() and file.is_relative_to(package)}


@cache
def longest_chain(path: Path) -> tuple[Path, ...]:
    """Return the longest chain of imports that starts at a file; there must be no circle."""
    return (path, *max((longest_chain(each) for each in sorted(imported(path))), key=len, default=()))


def functions(path: Path) -> dict[str, int]:
    """Return the number of lines of every function in a file, by name."""
    tree = ast.walk(ast.parse(path.read_text("utf-8")))
    found = [node for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: node.end_lineno - node.lineno + 1 for node in found}


def floors() -> dict[str, int]:
    """Return the floor of every room as the page says it, the root as ""."""
    rows = re.findall(r"^\| (\d) \| (.*) \|$", PAGE, re.MULTILINE)
    return {name.strip("`/ ").replace("the root", ""): int(floor) for floor, names in rows for name in names.split(",")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else ""


def test_the_page_shows_every_room_and_file():
    assert rooms.rendered(PAGE) == PAGE, "docs/architecture.md is out of date: run python docs/rooms.py"
    for path in SOURCES[:-1]:
        if path.name != "__init__.py" and path.parts[len(ROOT.parts)] != "space":
            section = PAGE.partition(f"### `{name_of(path.parent)}/`")[2].partition("###")[0]
            assert f"| `{path.name}` | " in section, f"docs/architecture.md does not show {name_of(path)}"
    assert set(floors()) == {room_of(path) for path in PACKAGE.glob("**/__init__.py")}


def test_the_walks_pass_files_and_functions_that_are_there():
    walks = PAGE.partition("## Four walks")[2].partition("## The rooms")[0]
    named = set(re.findall(r"`([^`\s]+)`", walks))
    files = {name for name in named if name.endswith((".py", ".yaml"))}
    assert len(files) > 15
    assert {name for name in files if not (PACKAGE / name).is_file() and not (ROOT / name).is_file()} == set()
    defined = {
        node.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    words = {word for name in named - files if name[0] != "-" for word in name.split(".")}
    assert {"encode", "from_clip", "Gallery", "Result"} <= words
    assert words - defined == set()


@pytest.mark.parametrize("room", rooms.rooms(), ids=name_of)
def test_a_room_says_what_its_files_are(room):
    """One docstring names every file, alone or as `modeling_*`; public names are defined where it says."""
    text = rooms.docstring(room / "__init__.py")
    words = re.findall(r"\w[\w*]*", text)
    stems = [path.stem for path in rooms.files(room) if path.name != "__main__.py"]
    assert len(stems) == 1 or [stem for stem in stems if not any(fnmatch(stem, word) for word in words)] == []
    for name, file in rooms.public_names(room).items():
        body = ast.parse((room / f"{file}.py").read_text("utf-8")).body
        targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
        assert name in {getattr(node, "name", None) or getattr(node, "id", None) for node in [*body, *targets]}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_rooms_below(path):
    floor, own = floors(), room_of(path)
    others = {room_of(each) for each in imported(path)} - {own}
    assert {other for other in others if floor[other] >= floor[own]} == set()


def test_imports_make_no_circle_and_no_long_chain():
    TopologicalSorter({path: imported(path) for path in FILES}).prepare()  # raises CycleError
    chain = max(map(longest_chain, FILES), key=len)
    assert len(chain) <= CHAIN, [name_of(each) for each in chain]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_are_short(path):
    if path.is_relative_to(PACKAGE):
        assert path.read_text("utf-8").count("\n") <= LINES
    bars = {"main": MAIN} if path.name == "train_accelerate.py" else {}
    assert {name: lines for name, lines in functions(path).items() if lines > bars.get(name, FUNCTION)} == {}


def test_the_root_has_few_entries():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= ENTRIES, sorted(entries)


def test_imports_are_seen_wherever_they_stand(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "room" / "__init__.py").touch()
    monkeypatch.setattr(rooms, "public_names", lambda room: {"f": "a"})
    (package / "room" / "a.py").write_text("def f():\n    from ..b import g\n\n    return g\n", "utf-8")
    (package / "b.py").write_text("import package.c\n", "utf-8")
    (package / "c.py").write_text("from package.room import f\nfrom . import b\n", "utf-8")
    assert imported(package / "room" / "a.py", package) == {package / "b.py"}
    assert imported(package / "b.py", package) == {package / "c.py"}
    assert imported(package / "c.py", package) == {package / "b.py", package / "room" / "a.py"}
    assert functions(package / "room" / "a.py") == {"f": 4}
