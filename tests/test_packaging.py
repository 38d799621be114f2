"""The wheel holds every folder of the packages, named in pyproject.toml, and works where no checkout is."""

import os
import shutil
import site
import subprocess
import sys
import venv
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
    [
        ("modeling_splip", "modeling_splip"),
        ("datasets_scripts", "datasets_scripts"),
        ("space", "splip_space"),
        ("configs", "splip_configs"),
    ],
)
def test_every_folder_is_in_the_wheel_with_all_its_files(top, name):
    listed = {package for package in SETUPTOOLS["packages"] if package.split(".")[0] == name}
    assert listed == folders_with_files(top, name)
    assert SETUPTOOLS["package-data"] == {"*": ["*"]}


def test_the_wheel_works_in_an_environment_of_its_own(tmp_path):
    """It is built and installed as a user would; the libraries, torch above all, are those of this environment."""
    pytest.importorskip("setuptools", reason="the wheel is built by setuptools, which is not installed here")
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "runs", "build", "*.egg-info", "site", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignored, symlinks=True)
    quiet = {"check": True, "capture_output": True, "cwd": tmp_path}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(tmp_path / "source")]
    subprocess.run([*pip, "wheel", *build], **quiet)
    venv.create(tmp_path / "own", symlinks=True)
    places = "lib/python{}.{}/site-packages".format(*sys.version_info[:2])
    packages, program = tmp_path / "own" / places, tmp_path / "own" / "bin" / "splip"
    (wheel,) = tmp_path.glob("splip-*.whl")
    subprocess.run([*pip, "--python", str(tmp_path / "own"), "install", "--no-deps", "--no-index", str(wheel)], **quiet)
    # A path in a .pth file is searched last, and the .pth files there, such as an editable install's, are not read.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run([str(program), *words], **options)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    printed = run("--help")
    assert all(f"\n  {name} " in printed for name in ("demo", "prepare", "train", "search", "space"))
    assert "usage: splip train" in run("train", "--help")
    assert (packages / "splip_configs" / "ddp.yaml").is_file() and (packages / "train_accelerate.py").is_file()
    run("prepare", "mini-fold0", "--out", "data")
    assert (tmp_path / "data" / "README.md").is_file()
