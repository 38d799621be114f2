"""Results in the form that the Hub gathers from models into a benchmark's leaderboard: `.eval_results/*.yaml`.

The form is documented at https://huggingface.co/docs/hub/eval-results. The same numbers are in the card, as its
model-index, for tools that read that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

EVAL_RESULTS = ".eval_results"


def eval_results_file(benchmark: str) -> str:
    """Return the path, in a model's repository, of its results on a benchmark."""
    return f"{EVAL_RESULTS}/{benchmark.split('/')[-1]}.yaml"


def render_eval_results(repo: str, benchmark: str, records: Sequence[Mapping[str, Any]]) -> str:
    """Return the YAML text of a model's results on one benchmark, an entry for each number that was measured.

    What cannot be compared has another task id: it names protocol, gallery and metric, such as `zs-unique-map_all`.

    Args:
        repo: Hub id of the model.
        benchmark: Hub id of the benchmark's dataset.
        records: result records of `splip evaluate`, all of this model and of one dataset and version.

    Raises:
        ValueError: if there are no records, or they are of several datasets or versions.
    """
    measured = sorted({(record["dataset"], record["dataset_version"]) for record in records})
    if len(measured) != 1:
        found = ", ".join(" ".join(map(str, each)) for each in measured) or "none"
        raise ValueError(f"--benchmark takes the results of one dataset and version, got {found}: choose --results.")
    source = {"url": f"https://huggingface.co/{repo}", "name": "Model card"}
    entries = [
        {
            "dataset": {"id": benchmark, "task_id": f"{record['protocol']}-{record['gallery']}-{metric}"},
            "value": value,
            "source": source,
            "notes": _notes(record),
        }
        for record in records
        for metric, value in record["metrics"].items()
        if value is not None
    ]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, default_flow_style=False)


def _notes(record: Mapping[str, Any]) -> str:
    """Return what a number depends on besides its task."""
    notes = f"{record['method']}; {record['dataset']} {record['dataset_version']}, seed {record['seed']}"
    seen = ", ".join(record["seen_classes_kept"] or [])
    return f"{notes}; not zero-shot, seen in training: {seen}" if seen else notes
