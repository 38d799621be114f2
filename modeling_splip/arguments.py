"""Arguments of training: a recipe (YAML), overridden by flags; every key is checked against what exists."""

import argparse
import difflib
import inspect
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from .registry import METHODS

RECIPES = Path(__file__).parent / "recipes"
_SCHEDULES = ("constant", "cosine")
_PRECISIONS = ("no", "bf16", "fp16")
# Fields of a model's configuration that from_clip fills in.
_FILLED_IN = (
    "self", "kwargs", "clip_config", "base_model", "base_fingerprint", "checkpoint", "class_names", "class_token_ids",
    "prefix_token_ids", "prompt_counts", "model_fingerprint",
)  # fmt: skip


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingArguments:
    """What a training run is made of. `model` holds fields of the method's configuration, `loss` of its objective."""

    method: str = _option("splip", "method, a name of the registry")
    base: str = _option("mini_clip", "base CLIP: mini_clip, a folder or a Hub id")
    dataset: str = _option("", "prepared dataset: folder or Hub id")
    output: str = _option("runs/train", "folder of the run: model/, checkpoints/, run.json, logs")
    epochs: int = _option(60, "passes over the training sketches")
    max_steps: int = _option(0, "stop after this many optimiser steps; 0 for no limit")
    batch_size: int = _option(192, "sketches in an optimiser step, over all processes and accumulation steps")
    accumulation: int = _option(1, "micro-batches that an optimiser step adds up")
    pairs_per_class: int = _option(4, "fine-grained level: sketch-photo pairs of one class side by side in a batch")
    learning_rate: float = _option(1e-3, "of LayerNorms and the jigsaw solver (Adam)")
    mapper_learning_rate: float = _option(0.0, "of the prompt mappers; 0 for learning_rate")
    schedule: str = _option("constant", "learning rate after warmup: constant or cosine")
    warmup_steps: int = _option(0, "steps of linear warmup")
    clip_norm: float = _option(0.0, "clip the gradient to this norm; 0 for never")
    mixed_precision: str = _option("no", "autocast: no, bf16 or fp16; losses stay in float32")
    gradient_checkpointing: bool = _option(False, "recompute activations: less memory, more time")
    validation_classes: int = _option(0, "seen classes held back to choose the checkpoint; 0 takes the last one")
    evaluate_every: int = _option(1, "epochs between validations")
    checkpoint_every: int = _option(0, "steps between checkpoints; 0 for one an epoch")
    seed: int = _option(0, "of everything random")
    workers: int = _option(0, "processes that decode images")
    tracker: str = _option("tensorboard", "any tracker of Accelerate by name, or none")
    resume: bool = _option(False, "continue from the newest whole checkpoint in output")
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError in one sentence for an unknown name or an impossible combination."""
        _known("method", self.method, [name for name, row in METHODS.items() if row.objective])
        _known("schedule", self.schedule, _SCHEDULES)
        _known("mixed_precision", self.mixed_precision, _PRECISIONS)
        for name in self.model:
            _known("model.", name, model_fields(self.method))
        for name in self.loss:
            _known("loss.", name, loss_fields(self.method))
        for name in ("epochs", "batch_size", "accumulation", "evaluate_every", "pairs_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}.")
        if not self.dataset:
            raise ValueError("No dataset: pass --dataset with a folder that `splip prepare` wrote.")

    def settings(self) -> Any:
        """Return the objective's settings."""
        return METHODS[self.method].objective.settings_class(**self.loss)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def model_fields(method: str) -> list[str]:
    """Return the configuration fields of a method that a recipe may set."""
    parameters = inspect.signature(METHODS[method].config.__init__).parameters
    return [name for name in parameters if name not in _FILLED_IN]


def loss_fields(method: str) -> list[str]:
    """Return the settings of a method's objective."""
    return [item.name for item in fields(METHODS[method].objective.settings_class)]


def parse_arguments(argv: list[str] | None = None, description: str = "") -> TrainingArguments:
    """Read a recipe and flags.

    Every field is a flag (`--batch_size 64`); fields of `model` and `loss` are dotted (`--loss.alpha 0.5`).

    Raises:
        ValueError, FileNotFoundError: in one sentence.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--recipe", help=f"YAML file, or a name of {', '.join(recipe_names())}")
    plain = [item for item in fields(TrainingArguments) if item.name not in ("model", "loss")]
    for item in plain:
        text = f"{item.metadata['help']} (default: {item.default})"
        if item.type in (bool, "bool"):
            parser.add_argument(f"--{item.name}", action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(f"--{item.name}", type=type(item.default), default=None, help=text)
    parser.epilog = "--model.FIELD VALUE and --loss.FIELD VALUE set fields of the method's configuration and objective."
    known, rest = parser.parse_known_args(argv)
    values = load_recipe(known.recipe) if known.recipe else {}
    values |= {item.name: getattr(known, item.name) for item in plain if getattr(known, item.name) is not None}
    for name, value in _dotted(rest, [item.name for item in plain]).items():
        group, _, key = name.partition(".")
        values[group] = values.get(group, {}) | {key: yaml.safe_load(value)}
    arguments = TrainingArguments(**values)
    arguments.check()
    return arguments


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """Return the values of a recipe: a packaged name or a YAML file.

    Raises:
        FileNotFoundError, ValueError: if there is none, or it has an unknown key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe '{name}'{_nearest(name, recipe_names())}.")
    values = yaml.safe_load(path.read_text("utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"Recipe '{path}' must be a mapping of argument names to values.")
    kinds = {item.name: item for item in fields(TrainingArguments)}
    for key, value in values.items():
        _known(f"key in recipe '{path.name}':", key, kinds)
        # YAML reads 1e-3 as a string.
        if isinstance(kinds[key].default, float) and not isinstance(value, float):
            values[key] = float(value)
    return values


def _dotted(rest: list[str], known: list[str]) -> dict[str, str]:
    """Return --model.x and --loss.x flags; refuse any other leftover."""
    result, tokens = {}, iter(rest)
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or name.partition(".")[0] not in ("model", "loss") or "." not in name:
            raise ValueError(f"Unknown argument {token}{_nearest(name, known)}.")
        result[name] = value if equals else next(tokens, "")
        if not result[name]:
            raise ValueError(f"{token} needs a value.")
    return result


def _known(what: str, name: str, names: Iterable[str]) -> None:
    if name not in names:
        space = "" if what.endswith(".") else " "
        raise ValueError(f"Unknown {what}{space}{name}{_nearest(name, list(names))}.")


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(names)}"
