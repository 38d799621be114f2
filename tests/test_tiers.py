"""Who may import whom: the folder of a file decides."""

import ast
import sys
from pathlib import Path

import pytest

from modeling_splip import MODELS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "modeling_splip"
METHODS = [name for name in MODELS if not name.endswith("_encoder")]
TIER_A = {"torch", "transformers", "numpy", "PIL", "safetensors"}
# Tier B: pure functions of tensors or arrays.
TIER_B = {"metrics": {"numpy"}, "training/losses.py": {"torch", "numpy"}, "training/jigsaw.py": {"torch", "numpy"}}
# The package's names and `python -m`: neither file is copied into a Hub repository, and both may reach into rooms.
ENTRIES = ("__init__.py", "__main__.py")


def imports(path: Path) -> list[tuple[str, int]]:
    """Return (module, level) of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


def target(path: Path, module: str, level: int) -> str:
    """Return the dotted name of what an import reaches."""
    if not level:
        return module
    package = path.parent.relative_to(ROOT).parts
    return ".".join([*package[: len(package) - level + 1], *filter(None, [module])])


def faults_of_tier_a(path: Path) -> list[str]:
    """A file of the root of the package travels with Hub repositories: only flat siblings and common libraries."""
    faults = []
    for module, level in imports(path):
        if level == 0:
            if module.partition(".")[0] not in TIER_A | set(sys.stdlib_module_names):
                faults.append(module)
        elif level != 1 or not module or "." in module or not (PACKAGE / f"{module}.py").is_file():
            faults.append("." * level + module)
    return faults


def faults_of_tier_b(path: Path, allowed: set[str]) -> list[str]:
    """A file of pure functions imports libraries for numbers, and neighbours that do the same."""
    faults = []
    for module, level in imports(path):
        top = module.partition(".")[0]
        near = level == 1 and path.parent.name == "metrics"
        near |= path.name == "__init__.py" and module == "common.lazy"
        if not near and (level or top not in allowed | set(sys.stdlib_module_names)):
            faults.append("." * level + module)
    return faults


def faults_of_methods(path: Path) -> list[str]:
    """Methods never import each other."""
    method = path.stem.partition("_")[2]
    mine = next((name for name in METHODS if method in (name, f"{name}_encoder")), None)
    others = tuple(f"_{name}" for name in METHODS if name != mine)
    return [module for module, level in imports(path) if mine and level and module.endswith(others)]


def faults_of_packages(path: Path) -> list[str]:
    """Rooms know no builders and no Space, builders only the common room, commands no other command."""
    faults = []
    for module, level in imports(path):
        name = target(path, module, level)
        if path.is_relative_to(PACKAGE):
            foreign = name.partition(".")[0] in ("datasets_scripts", "space", "splip_space", "train_accelerate")
            training = name.startswith("modeling_splip.training") and path.parent == PACKAGE
        else:
            foreign = name.startswith("modeling_splip") and not name.startswith("modeling_splip.common")
            training = False
        faults += [name] if foreign or training else []
    return faults


ROOMS = sorted(path for path in PACKAGE.rglob("*.py") if "sbir_retrieval" not in path.parts)
FLAT = [path for path in ROOMS if path.parent == PACKAGE and path.name not in ENTRIES]
PURE = [
    (path, allowed)
    for place, allowed in TIER_B.items()
    for path in ([PACKAGE / place] if place.endswith(".py") else sorted((PACKAGE / place).glob("*.py")))
]
OF_METHODS = [path for path in ROOMS if path.stem.startswith(("configuration_", "modeling_", "objective_"))]
OF_METHODS = [path for path in OF_METHODS if path.stem.partition("_")[2] in MODELS]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FLAT, ids=name_of)
def test_the_root_may_travel(path):
    assert not faults_of_tier_a(path)


@pytest.mark.parametrize(("path", "allowed"), PURE, ids=[name_of(path) for path, _ in PURE])
def test_pure_functions_import_little(path, allowed):
    assert not faults_of_tier_b(path, allowed)


@pytest.mark.parametrize("path", OF_METHODS, ids=name_of)
def test_methods_do_not_import_each_other(path):
    assert not faults_of_methods(path)


@pytest.mark.parametrize("path", [*ROOMS, *sorted((ROOT / "datasets_scripts").rglob("*.py"))], ids=name_of)
def test_rooms_and_builders_keep_apart(path):
    assert not faults_of_packages(path)


COMMANDS = [path for path in ROOMS if path.parent.name == "commands" and path.stem not in ("__init__", "main")]


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_commands_do_not_import_commands(path):
    assert not {module for module, level in imports(path) if level == 1} & {each.stem for each in COMMANDS}


@pytest.mark.parametrize(
    ("place", "line", "check"),
    [
        ("modeling_new.py", "import datasets", faults_of_tier_a),
        ("modeling_new.py", "from .common.files import write_json", faults_of_tier_a),
        ("modeling_new.py", "from . import adapters", faults_of_tier_a),
        ("metrics/new.py", "import torch", lambda path: faults_of_tier_b(path, TIER_B["metrics"])),
        ("metrics/new.py", "from ..adapters import x", lambda path: faults_of_tier_b(path, TIER_B["metrics"])),
        ("modeling_clip_at.py", "from .modeling_splip import SplipModel", faults_of_methods),
        ("training/objective_splip.py", "from .objective_clip_at import x", faults_of_methods),
        ("search/new.py", "from datasets_scripts.splits import x", faults_of_packages),
        ("modeling_new.py", "from .training.methods import METHODS", faults_of_packages),
        ("__init__.py", "from .training import losses", faults_of_packages),
        ("../datasets_scripts/new.py", "from modeling_splip.data.dataset import x", faults_of_packages),
    ],
)
def test_a_broken_rule_is_seen(tmp_path, monkeypatch, place, line, check):
    for name in ("ROOT", "PACKAGE"):
        monkeypatch.setitem(globals(), name, tmp_path if name == "ROOT" else tmp_path / "modeling_splip")
    path = (tmp_path / "modeling_splip" / place).resolve()
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n", "utf-8")
    assert check(path)
