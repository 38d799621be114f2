"""What the documents name is there: what their examples import, and the files of the repository."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "modeling_splip"
sys.path.insert(0, str(ROOT / "docs"))

import rooms  # noqa: E402

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "space/README.md", "tests/golden/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
OURS = "modeling_splip|datasets_scripts|benchmarks"


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def top_names(path: Path) -> set[str]:
    """Return the names that a file defines or imports at its top."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        found |= {getattr(node, "name", ""), *(alias.asname or alias.name for alias in getattr(node, "names", []))}
        found |= {target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)}
    return found


def is_there(name: str) -> bool:
    """Return whether a dotted name is a folder or a file of this repository, or a name that one of them has."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    file, room = path.parent.with_suffix(".py"), path.parent / "__init__.py"
    if room.is_file():
        return path.name in rooms.public_names(path.parent) or path.name in top_names(room)
    return file.is_file() and path.name in top_names(file)


def examples(text: str) -> list[str]:
    """Return the Python examples of a document: fenced, or indented with an import first."""
    indented = re.findall(r"\n\n((?:    .+\n)+)", text)
    indented = [re.sub("^    ", "", block, flags=re.M) for block in indented if re.match(r" +(from|import) ", block)]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL) + indented


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_names_of_the_code_are_there(document):
    text = document.read_text("utf-8")
    named = set(re.findall(rf"`((?:{OURS})(?:\.\w+)+)(?<!\.py)\b", text))
    for example in examples(text):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and re.match(OURS, node.module):
                named |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert {name for name in named if not is_there(name)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_are_named_are_there(document):
    """Paths that begin with a folder of the repository or a room; `runs/` holds what a reader makes,
    and NAME and SPLIT stand for names of the reader's own."""
    named = set(re.findall(r"[`\s]([\w.-]+(?:/[\w.-]+)+\.(?:py|json|yaml|md))\b", document.read_text("utf-8")))
    tops = {path.name for folder in (ROOT, PACKAGE) for path in folder.iterdir() if path.is_dir()} - {"runs"}
    named = {name for name in named if name.split("/")[0] in tops and not re.search("NAME|SPLIT", name)}
    assert {name for name in named if not any((place / name).exists() for place in (ROOT, PACKAGE))} == set()


def test_a_wrong_name_is_seen():
    assert is_there("modeling_splip.loading.load_retriever") and is_there("benchmarks.render")
    assert not is_there("modeling_splip.loading.no_such_name") and not is_there("modeling_splip.no_such_file")
    assert examples("Text\n\n    from x import y\n    y()\n\n```python\nz\n```") == ["z\n", "from x import y\ny()\n"]
