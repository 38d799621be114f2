"""The wheel holds every folder of the packages: pyproject.toml names each, so that none is left out in silence."""

from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]


def folders_with_files(top: str, name: str) -> set[str]:
    """Return the dotted names of the folders below `top` that hold files, with `name` in its place."""
    found = {path.parent.relative_to(ROOT / top) for path in (ROOT / top).rglob("*") if path.is_file()}
    return {".".join([name, *folder.parts]) for folder in found if "__pycache__" not in folder.parts}


@pytest.mark.parametrize(
    ("top", "name"),
    [("modeling_splip", "modeling_splip"), ("datasets_scripts", "datasets_scripts"), ("space", "splip_space")],
)
def test_every_folder_is_in_the_wheel_with_all_its_files(top, name):
    listed = {package for package in SETUPTOOLS["packages"] if package.split(".")[0] == name}
    assert listed == folders_with_files(top, name)
    assert SETUPTOOLS["package-data"] == {"*": ["*"]}
