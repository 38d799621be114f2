"""What a run leaves beside its model: the record of the training and the results of `splip evaluate`."""

import json
from pathlib import Path
from typing import Any

CARD_FILE = "README.md"


def read_run(model_folder: Path) -> dict[str, Any] | None:
    """Return the record of the run that wrote `RUN/model`, or None where there is none."""
    path = model_folder / ".." / "run.json"
    if model_folder.resolve().name != "model" or not path.is_file():
        return None
    return _read_json(path, "run record", dict)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file of `splip evaluate --out`."""
    found = _read_json(path, "result file", (dict, list))
    records = found if isinstance(found, list) else [found]
    if not all(isinstance(record, dict) and {"fingerprint", "metrics"} <= set(record) for record in records):
        raise ValueError(f"'{path}' holds no result records: pass a file that `splip evaluate --out` wrote.")
    return records


def _read_json(path: Path, what: str, kinds: Any) -> Any:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"The {what} '{path}' is damaged ({error}): write it again.") from error
    if not isinstance(found, kinds):
        raise ValueError(f"The {what} '{path}' is not of the expected form: write it again.")
    return found
