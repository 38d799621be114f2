"""Write result files whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def check_writable(path: Path) -> None:
    """Raise OSError before any long work if a file cannot be written there; makes nothing."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"Cannot write the file '{path}': choose another path.")


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside and move it into place; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    aside.replace(path)
