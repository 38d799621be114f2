"""The model card: README.md written from a model's configuration, run record and result records, never by hand."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import DatasetCard, EvalResult, ModelCardData

from ..clip_base import MINI_CLIP
from ..common.hub import is_hub_id
from ..common.text import markdown_table
from ..evaluation.report import records_table

PAPERS = {
    "splip": ("SpLIP (ECCV 2024)", "2407.04207"),
    "splip_encoder": ("SpLIP (ECCV 2024), folded into a plain vision tower", "2407.04207"),
    "clip_at": ("CLIP-AT (CVPR 2023)", "2303.13440"),
    "cross_align": ("the Cross-Modal Attention Alignment network (2024)", "2407.00979"),
}
# What says where things lay on a machine, or how a run was watched, and nothing about the model.
_NOT_SHOWN = ("method", "base", "dataset", "output", "resume", "workers", "tracker", "checkpoint_every")
TAGS = ["sketch-based-image-retrieval", "zero-shot", "sketch", "clip", "splip"]

USAGE = """## How to use

```python
from transformers import AutoModel, AutoProcessor

# The model's code lies beside its weights; after `import modeling_splip`, where installed, nothing need be trusted.
model = AutoModel.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
sketch = model.encode(processor(images=["drawing.png"], modality="sketch")["pixel_values"], "sketch")  # (1, D)
photos = model.encode(processor(images=["photo.jpg"], modality="photo")["pixel_values"], "photo")  # (N, D)
scores = sketch @ photos.T  # cosines, (1, N)
```

A folder of photos is searched by `splip index PHOTOS --model {repo} --out gallery` and
`splip search drawing.png --gallery gallery`."""

PEFT_USAGE = """The LayerNorms alone, in PEFT:

```python
from peft import PeftModel
from transformers import CLIPModel

clip = PeftModel.from_pretrained(CLIPModel.from_pretrained("{base}"), "{repo}", subfolder="{subfolder}")
```

Prompts and mappers are not in there, so embeddings are this model's only where nothing but LayerNorms was trained."""

LIMITS = """## Limits

- It ranks photos by what a drawing shows; it does not say whether anything fits. Scores of different models or
  fingerprints cannot be compared.
- Sketches are expected black on white. Styles and classes far from the training data, and what the base CLIP knows
  little about or is biased on, are found worse.
- Numbers hold for the protocol, gallery and data version named beside them, and for no others."""

DRAWN = "The data is drawn by program: these numbers compare methods and say nothing about real photos."


class CardFacts(NamedTuple):
    """What a card is written from.

    Attributes:
        repo: the Hub id that the model gets.
        config: of the model.
        fingerprint: of the model with its processor.
        run: content of the run's `run.json`, or None.
        records: result records of `splip evaluate`.
        license: a Hub licence id.
        peft: sub-folders with adapters for PEFT.
    """

    repo: str
    config: Any
    fingerprint: str
    run: Mapping[str, Any] | None = None
    records: Sequence[Mapping[str, Any]] = ()
    license: str = "other"
    peft: Sequence[str] = ()


def model_card(facts: CardFacts) -> str:
    """Return README.md of a model.

    Raises:
        ValueError: if a record is of another model.
    """
    for record in facts.records:
        if record.get("fingerprint") != facts.fingerprint:
            raise ValueError(
                f"A result on '{record.get('dataset')}' has fingerprint {record.get('fingerprint')}, but the model has "
                f"{facts.fingerprint}: pass results that `splip evaluate` measured with this model."
            )
    name, paper = PAPERS[facts.config.model_type]
    parts = [
        f"---\n{_metadata(facts).to_yaml()}\n---",
        f"# {facts.repo.split('/')[-1]}",
        f"Draw a sketch, find the photo: {name}, [arXiv {paper}](https://arxiv.org/abs/{paper}), as implemented by "
        f"`splip`. {_base_sentence(facts)}",
        *_training(facts),
        *_results(facts.records),
        USAGE.format(repo=facts.repo),
        *_peft(facts),
        *_licences(facts),
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def shared_base(config: Any) -> str | None:
    """Return the base CLIP's name if others can get it by that: a Hub id, or the packaged `mini_clip`."""
    base = getattr(config, "base_model", None)
    if base and (base == MINI_CLIP or is_hub_id(base)):
        return str(base)
    return None


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
        base_model=base if base != MINI_CLIP else None,
        model_name=facts.repo.split("/")[-1],
        eval_results=results or None,
    )


def _base_sentence(facts: CardFacts) -> str:
    base = shared_base(facts.config)
    named = f"`{base}`" if base else "a CLIP"
    if getattr(facts.config, "checkpoint", "full") == "adapter":
        if base == MINI_CLIP:
            return f"Only what was trained is stored here; the base CLIP, {named}, comes with the installed package."
        return f"Only what was trained is stored here; the base CLIP, {named}, is loaded beside it."
    return f"Self-contained; trained on {named}."


def _training(facts: CardFacts) -> list[str]:
    if facts.run is None:
        return ["## Training", f"No record of its training is known. Seen classes: {_names(facts.config.class_names)}."]
    run, arguments = facts.run, facts.run["arguments"]
    validation = run["best_validation"]
    lines = [
        f"Data: `{run['dataset']['name']}`, version `{run['dataset']['version']}`; split: the seen classes, of which "
        f"{len(run['classes']['validation'])} were held back to choose the checkpoint. No unseen class was looked at.",
        f"Trained on {len(run['classes']['trained'])} classes: {_names(run['classes']['trained'])}.",
        f"Held back: {_names(run['classes']['validation'])}"
        + (f"; best score there {100 * validation:.2f} %." if validation is not None else "."),
        f"{run['trainable_parameters']:,} trainable parameters, {run['steps']} steps in {run['seconds']:.0f} s on "
        f"{run['processes']} process(es); {', '.join(f'{key} {value}' for key, value in run['versions'].items())}.",
    ]
    settings = {key: value for key, value in arguments.items() if key not in _NOT_SHOWN and value not in ({}, "", None)}
    rows = [(f"`{key}`", f"`{json.dumps(value)}`") for key, value in settings.items()]
    return ["## Training", *lines, markdown_table(("setting", "value"), rows, aligned=True)]


def _results(records: Sequence[Mapping[str, Any]]) -> list[str]:
    if not records:
        return ["## Results", "No results were recorded for this model."]
    parts = ["## Results"]
    for dataset in dict.fromkeys((record["dataset"], record["dataset_version"]) for record in records):
        own = [dict(record) for record in records if (record["dataset"], record["dataset_version"]) == dataset]
        parts += [f"On `{dataset[0]}`, version `{dataset[1]}`, in percent:", records_table(own)]
        kept = list(dict.fromkeys(name for record in own for name in record["seen_classes_kept"] or []))
        if kept:
            parts.append(f"Not zero-shot: {_names(kept)} were seen in training.")
        if dataset[0].startswith("mini"):
            parts.append(DRAWN)
    return [*parts, "Each protocol and metric is defined in docs/protocol.md of `splip`."]


def _peft(facts: CardFacts) -> list[str]:
    base = shared_base(facts.config)
    if not facts.peft or base in (None, MINI_CLIP):
        return []
    return [PEFT_USAGE.format(base=base, repo=facts.repo, subfolder=facts.peft[0])]


def _licences(facts: CardFacts) -> list[str]:
    base = shared_base(facts.config)
    if base == MINI_CLIP:
        notes = ["- Base: `mini_clip` is part of `splip`, Apache-2.0."]
    elif base:
        notes = [f"- Base: the terms of [{base}](https://huggingface.co/{base}) hold for its weights."]
    else:
        notes = ["- Base: the terms of the CLIP that it was trained on hold; its source is not recorded here."]
    if facts.run:
        notes.append(f"- Data: {_data_licence(facts.run)}")
    return ["## Licences", "\n".join(notes)]


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


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
