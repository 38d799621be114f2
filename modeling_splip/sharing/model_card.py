"""The model card: README.md from a template and a model's configuration, run record and result records."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData

from ..clip_base import packaged_folder
from ..common.hub import is_hub_id
from ..common.text import markdown_table
from ..data.dataset import is_drawn_world
from ..evaluation.report import records_table
from .private import shared_base

CARD_FILE = "README.md"
TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ["sketch-based-image-retrieval", "zero-shot", "sketch", "clip", "splip"]
# Arguments of a run that name places on a machine, or say how the run was watched: nothing about the model.
_NOT_SHOWN = ("method", "base", "dataset", "output", "resume", "workers", "tracker", "checkpoint_every")


# What holds for the weights of the packaged backbones.
PACKAGED_TERMS = {
    "small_clip": "its code is Apache-2.0, its weights are for non-commercial research only",
    "mini_clip": "Apache-2.0",
}


class CardFacts(NamedTuple):
    """What a card is written from.

    Attributes:
        repo: the Hub id that the model gets.
        method: class of the model, which has the method's `title` and `arxiv`.
        config: of the model.
        fingerprint: of the model with its processor.
        run: content of the run's `run.json`, or None.
        records: result records of `splip evaluate`.
        license: a Hub licence id.
        peft: sub-folders with adapters for PEFT.
    """

    repo: str
    method: Any
    config: Any
    fingerprint: str
    run: Mapping[str, Any] | None = None
    records: Sequence[Mapping[str, Any]] = ()
    license: str = "other"
    peft: Sequence[str] = ()


def read_run(model_folder: Path) -> dict[str, Any] | None:
    """Return the record of the run that wrote `RUN/model`, or None where there is none."""
    path = model_folder / ".." / "run.json"
    if model_folder.resolve().name != "model" or not path.is_file():
        return None
    return _read_json(path, "run record", dict)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records in a file of `splip evaluate --out`.

    Raises:
        ValueError: if the file is damaged or holds no records.
    """
    found = _read_json(path, "result file", (dict, list))
    records = found if isinstance(found, list) else [found]
    if not all(isinstance(record, dict) and {"fingerprint", "metrics"} <= set(record) for record in records):
        raise ValueError(f"'{path}' holds no result records: pass a file that `splip evaluate --out` wrote.")
    return records


def render_card(facts: CardFacts) -> str:
    """Return the text of a model's README.md.

    Raises:
        ValueError: if a record is of another model.
    """
    for record in facts.records:
        if record.get("fingerprint") != facts.fingerprint:
            raise ValueError(
                f"A result on '{record.get('dataset')}' has fingerprint {record.get('fingerprint')}, but the model has "
                f"{facts.fingerprint}: pass results that `splip evaluate` measured with this model."
            )
    base = shared_base(facts.config)
    card = ModelCard.from_template(
        _metadata(facts),
        str(TEMPLATE),
        repo=facts.repo,
        name=_name(facts),
        title=facts.method.title,
        arxiv=facts.method.arxiv,
        adapter=getattr(facts.config, "checkpoint", "full") == "adapter",
        base=base,
        packaged_base=bool(base and packaged_folder(base)),
        base_terms=PACKAGED_TERMS.get(str(base), "see its card there"),
        seen=facts.config.class_names,
        run=facts.run,
        settings=_settings(facts.run["arguments"]) if facts.run else "",
        results=_results(facts.records),
        peft=facts.peft,
        data_licence=_data_licence(facts.run) if facts.run else "",
    )
    return f"{card}\n"


def _metadata(facts: CardFacts) -> ModelCardData:
    base = shared_base(facts.config)
    results = [
        EvalResult(
            task_type="image-feature-extraction",
            task_name="zero-shot sketch-based image retrieval",
            dataset_type=record["dataset"],
            dataset_name=record["dataset"],
            dataset_config=f"{record['protocol']}, gallery {record['gallery']}, seed {record['seed']}",
            dataset_split=record["split"],
            dataset_revision=record["dataset_version"],
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for record in facts.records
        for metric, value in record["metrics"].items()
        if value is not None
    ]
    return ModelCardData(
        license=facts.license,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=[*TAGS, facts.config.model_type],
        base_model=base if base and not packaged_folder(base) else None,
        model_name=_name(facts),
        eval_results=results or None,
    )


def _name(facts: CardFacts) -> str:
    return facts.repo.split("/")[-1]


def _settings(arguments: Mapping[str, Any]) -> str:
    """Return a table of what the run was told about the model and its training."""
    shown = {key: value for key, value in arguments.items() if key not in _NOT_SHOWN and value not in ({}, "", None)}
    rows = [(f"`{key}`", f"`{json.dumps(value)}`") for key, value in shown.items()]
    return markdown_table(("setting", "value"), rows, aligned=True)


def _results(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of each dataset and version."""
    results = []
    for name, version in dict.fromkeys((record["dataset"], record["dataset_version"]) for record in records):
        own = [dict(r) for r in records if (r["dataset"], r["dataset_version"]) == (name, version)]
        seen = list(dict.fromkeys(each for record in own for each in record["seen_classes_kept"] or []))
        about = {"dataset": name, "version": version, "seen": seen, "drawn": is_drawn_world(name)}
        results.append(about | {"table": records_table(own)})
    return results


def _data_licence(run: Mapping[str, Any]) -> str:
    """Return the licence note that the prepared dataset carries in its own card."""
    name, place = run["dataset"]["name"], str(run["arguments"]["dataset"])
    page = Path(place) / "README.md"
    if page.is_file():
        card = DatasetCard.load(page)
        _, _, note = card.text.partition("## Licence\n")
        note = " ".join(note.partition("\n## ")[0].split()) or f"licence `{card.data.license}`."
        return f"`{name}`: {note}"
    if is_hub_id(place):
        return f"`{name}`: see [{place}](https://huggingface.co/datasets/{place})."
    return f"`{name}`: its licence is not recorded here."


def _read_json(path: Path, what: str, kinds: Any) -> Any:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The {what} '{path}' is damaged ({error}): write it again.") from error
    if not isinstance(found, kinds):
        raise ValueError(f"The {what} '{path}' is not of the expected form: write it again.")
    return found
