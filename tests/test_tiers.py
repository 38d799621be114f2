"""Who may import whom: small tiers that travel alone, and two packages that never meet."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "modeling_splip"
TIER_A_NAMES = (
    "adapters", "class_prompts", "clip_backbone", "configuration_", "modeling_", "packed_attention", "processing_splip",
)  # fmt: skip
TIER_B_NAMES = ("jigsaw", "losses", "metric_", "metrics")
METHODS = ("splip", "clip_at", "cross_align")
ALLOWED = {
    "A": {"torch", "transformers", "numpy", "PIL", "safetensors"},
    "B": {"torch", "numpy"},
}


def tier(path: Path) -> str:
    if path.stem.startswith(TIER_A_NAMES):
        return "A"
    return "B" if path.stem.startswith(TIER_B_NAMES) else "C"


def imports(path: Path) -> list[tuple[str, int]]:
    """Return (module, level) of every import in a file, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return found


MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem not in ("__init__", "__main__"))


def test_every_tier_has_files():
    assert {tier(path) for path in MODULES} == {"A", "B", "C"}


@pytest.mark.parametrize("path", [path for path in MODULES if tier(path) in "AB"], ids=lambda path: path.stem)
def test_tiers_a_and_b_import_little(path):
    own = tier(path)
    for module, level in imports(path):
        if level == 0:
            top = module.partition(".")[0]
            assert top in ALLOWED[own] or top in sys.stdlib_module_names, f"{path.name} imports {module}"
        else:
            # `from .x import y` only: anything else is not copied into a Hub repository.
            assert level == 1 and module and "." not in module, f"{path.name}: from {'.' * level}{module}"
            assert tier(PACKAGE / f"{module}.py") == own, f"{path.name} (tier {own}) imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_methods_do_not_import_each_other(path):
    mine = next((name for name in METHODS if path.stem in (f"configuration_{name}", f"modeling_{name}")), None)
    if mine is None:
        return
    for module, level in imports(path):
        others = [name for name in METHODS if name != mine]
        assert not (level and module.endswith(tuple(f"_{name}" for name in others))), f"{path.name} imports {module}"


def test_builders_and_models_never_meet():
    pairs = {"modeling_splip": ("datasets_scripts", "space", "splip_space"), "datasets_scripts": ("modeling_splip",)}
    for package, foreign in pairs.items():
        for path in (ROOT / package).rglob("*.py"):
            for module, _ in imports(path):
                assert module.partition(".")[0] not in foreign, f"{path} imports {module}"
