"""The rooms of the packages as the source has them: `python docs/rooms.py` writes the tables of docs/architecture.md.

The first line of a file's docstring says what the file holds. The table of lazy names in a room's `__init__.py` says
what is public; to read it the room is imported, but none of its files.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("modeling_splip", "datasets_scripts")
PAGE = ROOT / "docs" / "architecture.md"


def rooms() -> list[Path]:
    """Return the folders that hold code: each package, then its rooms by name."""
    return [path.parent for package in PACKAGES for path in sorted((ROOT / package).rglob("__init__.py"))]


def files(room: Path) -> list[Path]:
    """Return the Python files that lie directly in a room, by name."""
    return sorted(path for path in room.glob("*.py") if path.name != "__init__.py")


def docstring(path: Path) -> str:
    """Return a file's docstring, empty where it has none."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def first_line(path: Path) -> str:
    """Return the first line of a file's docstring for a cell of a Markdown table."""
    return docstring(path).partition("\n")[0].replace("|", "\\|")


def public_names(room: Path) -> dict[str, str]:
    """Return what a room offers, public name -> file that defines it, such as {"Gallery": "gallery"}, in its order.

    This is the dictionary that the room's `__init__.py` hands to `lazy_names`; without one a room offers nothing.
    """
    module = importlib.import_module(".".join(room.relative_to(ROOT).parts))
    lazy = getattr(module, "__getattr__", None)
    return inspect.getclosurevars(lazy).nonlocals["places"] if lazy else {}


def table(room: Path) -> str:
    """Return the heading of a room, what it is for, and a Markdown table of its files."""
    place = f"{room.relative_to(ROOT)}/"
    first = " ".join(docstring(room / "__init__.py").partition("\n\n")[0].split())
    rows = [f"| `{path.name}` | {first_line(path)} |" for path in files(room)]
    return "\n".join([f"### `{place}`", "", first, "", "| file | what it holds |", "| --- | --- |", *rows])


def rendered(text: str) -> str:
    """Return the page with the tables written anew between `<!-- rooms -->` and `<!-- /rooms -->`."""
    block = "\n\n".join(["<!-- rooms -->", *(table(room) for room in rooms()), "<!-- /rooms -->"])
    return re.sub("<!-- rooms -->.*<!-- /rooms -->", lambda _: block, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), "utf-8")
