"""Arguments of training: a recipe (YAML) and flags, which win; all names and values are checked."""

import argparse
import inspect
import math
import re
import textwrap
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import LoggerType

from ..common.text import hint
from ..processing_splip import inversion
from .augmentation import Augmentation
from .methods import METHODS
from .objective import LEVELS

RECIPES = Path(__file__).parent / "recipes"
# torch.compile's modes: the second replays CUDA graphs, the third tries many kernels first.
COMPILE = ("no", "default", "reduce-overhead", "max-autotune-no-cudagraphs")
TRACKERS = ("none", *(tracker.value for tracker in LoggerType))
# Arguments that hold arguments of their own, set by dotted flags.
GROUPS = ("model", "loss", "augment")
# Fields of a model's configuration that from_clip fills in.
_FILLED_IN = (
    "clip_config", "base_model", "base_fingerprint", "checkpoint", "class_names", "class_token_ids", "prefix_token_ids",
)  # fmt: skip


def _option(default: Any, text: str, least: int | None = None, known: Collection[str] = ()) -> Any:
    """Return a field with its help, its smallest value, and the names that it may hold; none for any."""
    text = f"{text}: {', '.join(known)}" if known else text
    return field(default=default, metadata={"help": text, "least": least, "known": known})


@dataclass
class TrainingArguments:
    """All settings of a training run.

    `model` holds fields of the method's configuration, `loss` settings of its objective, `augment` fields of
    `Augmentation`.
    """

    method: str = _option("splip", "what to train", known=METHODS)
    level: str = _option("category", "whether a sketch should find its class or its own photo", known=LEVELS)
    base: str = _option("small_clip", "base CLIP: small_clip, mini_clip, a folder or a Hub id")
    dataset: str = _option("", "prepared dataset: folder or Hub id")
    output: str = _option("runs/train", "folder of the run: model/, checkpoints/, run.json, retrieval.png")
    epochs: int = _option(60, "passes over the training sketches", 1)
    max_steps: int = _option(0, "stop after this many optimiser steps; 0 for no limit", 0)
    batch_size: int = _option(192, "sketches in an optimiser step, over all processes and accumulation steps", 1)
    accumulation: int = _option(1, "micro-batches whose gradients an optimiser step adds up", 1)
    pairs_per_class: int = _option(4, "fine-grained level: sketch-photo pairs of one class side by side in a batch", 1)
    learning_rate: float = _option(1e-3, "of LayerNorms and of what trains beside the model, such as the jigsaw solver")
    mapper_learning_rate: float = _option(0.0, "of the model's other new parts; 0 for learning_rate", 0)
    schedule: str = _option("constant", "learning rate after warmup", known=("constant", "cosine"))
    warmup_steps: int = _option(0, "steps of linear warmup", 0)
    clip_norm: float = _option(0.0, "clip the gradient to this norm; 0 for never", 0)
    mixed_precision: str = _option("no", "autocast; losses stay in float32", known=("no", "bf16", "fp16"))
    gradient_checkpointing: bool = _option(False, "compute activations again: less memory, more time")
    compile: str = _option("no", "torch.compile's mode for the training step", known=COMPILE)
    validation_classes: int = _option(0, "seen classes held back to choose the checkpoint; 0 takes the last one", 0)
    evaluate_every: int = _option(1, "epochs between validations", 1)
    patience: int = _option(0, "stop after this many validations without a better score; 0 for never", 0)
    checkpoint_every: int = _option(0, "steps between checkpoints; 0 for one an epoch", 0)
    seed: int = _option(0, "of everything random", 0)
    workers: int = _option(-1, "processes that decode images; -1 for none on a CPU, up to 16 of the cores on a GPU", -1)
    predecode: bool = _option(False, "decode every image once, to a file on the disk that later runs use too")
    tracker: str = _option("none", "where numbers and pictures go besides the run's folder", known=TRACKERS)
    invert_sketches: str = _option("auto", "invert sketches: auto: those that look white on black; true: all; false")
    resume: bool = _option(False, "continue from the newest whole checkpoint in output")
    model: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Give every value its type.

        Raises:
            ValueError: in one sentence, for a name that is unknown or a value that is impossible.
        """
        self.invert_sketches = inversion(self.invert_sketches)
        for item in plain_fields():
            value = _typed(item.name, getattr(self, item.name), item.default)
            setattr(self, item.name, value)
            if item.metadata["known"]:
                _known(f"{item.name} ", value, item.metadata["known"])
            least = item.metadata["least"]
            if least is not None and value < least:
                raise ValueError(f"{item.name} must be at least {least}, got {value}.")
        for group in GROUPS:
            defaults, values = group_fields(group, self.method), getattr(self, group)
            if not isinstance(values, dict):
                raise ValueError(f"{group} must be a mapping of names to values, got {values!r}.")
            for name in values:
                _known(f"{group}.", name, defaults)
            typed = {name: _typed(f"{group}.{name}", value, defaults[name]) for name, value in values.items()}
            setattr(self, group, typed)
        if self.patience and not self.validation_classes:
            raise ValueError("patience counts validations, and without validation_classes there are none: set both.")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}.")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulation {self.accumulation}.")
        if self.level == "fine_grained" and self.pairs_per_class < 2:
            raise ValueError("Fine-grained training needs pairs_per_class of at least 2, to find negatives in a class.")
        if not self.dataset:
            raise ValueError("No dataset: pass --dataset with a folder that `splip prepare` wrote.")
        METHODS[self.method].model.config_class(**self.model)
        Augmentation(**self.augment)
        self.settings().check_used(self.level, self.loss)

    def settings(self) -> Any:
        """Return the settings of the method's losses."""
        return METHODS[self.method].objective.settings_class(**self.loss)

    def to_dict(self) -> dict[str, Any]:
        """Return all values, for the run's record."""
        return asdict(self)


def plain_fields() -> list[Any]:
    """Return the dataclass fields of the arguments that are no groups."""
    return [item for item in fields(TrainingArguments) if item.name not in GROUPS]


def group_fields(group: str, method: str) -> dict[str, Any]:
    """Return the names that `model`, `loss` or `augment` may hold for a method, with their defaults."""
    if group == "model":
        defaults = METHODS[method].model.config_class.defaults()
        return {name: value for name, value in defaults.items() if name not in _FILLED_IN}
    owner = Augmentation if group == "augment" else METHODS[method].objective.settings_class
    return {item.name: item.default for item in fields(owner)}


def parse_arguments(
    argv: list[str] | None = None, description: str = "", program: str | None = None
) -> TrainingArguments:
    """Return the arguments of a recipe and of flags, checked.

    Every field is a flag (`--batch_size 64`). The names in `model`, `loss` and `augment` are dotted (`--loss.tau 1`).

    Args:
        argv: the command line's words; None for those of this process.
        description: for `--help`.
        program: name for `--help`; None for that of this process.

    Raises:
        ValueError, FileNotFoundError: in one sentence.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", help=f"YAML file, or a name of {', '.join(recipe_names())}")
    for item in plain_fields():
        text = f"{item.metadata['help']} (default: {item.default})"
        if item.type in (bool, "bool"):
            parser.add_argument(f"--{item.name}", nargs="?", const=True, metavar="true|false", help=text)
            parser.add_argument(f"--no-{item.name}", dest=item.name, action="store_false", default=None)
        else:
            parser.add_argument(f"--{item.name}", type=type(item.default), default=None, help=text)
    parser.epilog = _dotted_help()
    known, rest = parser.parse_known_args(argv)
    values = load_recipe(known.recipe) if known.recipe else {}
    given = {item.name: getattr(known, item.name) for item in plain_fields()}
    values |= {name: value for name, value in given.items() if value is not None}
    for name, value in _dotted(rest, list(given)).items():
        group, _, key = name.partition(".")
        values[group] = (values.get(group) or {}) | {key: value}
    arguments = TrainingArguments(**values)
    arguments.check()
    return arguments


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """Return the values of a recipe.

    Args:
        name: of a packaged recipe, or the path of a YAML file.

    Raises:
        FileNotFoundError, ValueError: if there is no such recipe, or it has an unknown key.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe '{name}'{hint(name, recipe_names())}")
    try:
        values = _read_yaml(path.read_text("utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"Recipe '{path}' is not YAML ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"Recipe '{path}' must be a mapping of argument names to values.")
    for key in values:
        _known(f"key in recipe '{path.name}': ", key, [item.name for item in fields(TrainingArguments)])
    return values


def _read_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises yaml.YAMLError, or ValueError for what no value of ours needs."""
    try:
        return _PlainYaml(text).get_single_data()
    except RecursionError:
        raise ValueError("it nests too deep") from None


class _PlainYaml(yaml.SafeLoader):
    """Reads YAML, and refuses a mapping with the same name twice, of which plain YAML takes the last.

    Aliases are refused too: a few lines of them can stand for more values than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases such as *name are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise yaml.YAMLError(f"'{twice}' stands there twice")
        return super().construct_mapping(node, deep)


def _dotted(rest: list[str], known: list[str]) -> dict[str, str]:
    """Return the flags of groups, such as --loss.alpha; refuse any other leftover."""
    result, tokens = {}, iter(rest)
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if not token.startswith("--") or name.partition(".")[0] not in GROUPS or "." not in name:
            raise ValueError(f"Unknown argument {token}{hint(name, known)}")
        result[name] = value if equals else next(tokens, "")
        if not result[name]:
            raise ValueError(f"{token} needs a value.")
    return result


def _typed(name: str, value: Any, default: Any) -> Any:
    """Return the value in the type of its default. Flags are text, and YAML reads 1e-3 as text too.

    Where the default is None any type will do.
    """
    kind = type(default)
    if kind is str and value is False:
        value = "no"  # which is false in YAML
    if default is None:
        return _read_yaml(value) if isinstance(value, str) else value
    try:
        if kind is bool:
            result = _read_yaml(value) if isinstance(value, str) else value
        elif kind is float and isinstance(value, int | str) and not isinstance(value, bool):
            result = float(value)
        else:
            result = int(value) if kind is int and isinstance(value, str) else value
    except (ValueError, yaml.YAMLError):
        result = None
    if type(result) is not kind or (kind is float and not math.isfinite(result)):
        kinds = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}
        raise ValueError(f"{name} must be {kinds[kind]}, got {value!r}.")
    return result


def _dotted_help() -> str:
    """Return the help of the dotted flags, from the docstrings of the classes that take them."""
    owners: list[tuple[str, str, type]] = [("", "augment", Augmentation)]
    for method, row in METHODS.items():
        owners += [(method, "model", row.model.config_class), (method, "loss", row.objective.settings_class)]
    lines, indent = [], " " * 24
    for method, group, owner in owners:
        lines.append(f"\n{method + ', ' if method else ''}--{group}.NAME VALUE:")
        texts = dict(re.findall(r"^ {4,8}(\w+): (.*(?:\n {8,12}\S.*)*)", inspect.getdoc(owner) or "", re.MULTILINE))
        for name, default in group_fields(group, method).items():
            text = " ".join(texts.get(name, "").split()) + f" (default: {default})"
            lines += [f"  --{group}.{name}", textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent)]
    return "\n".join(lines)


def _known(what: str, name: str, names: Collection[str]) -> None:
    """Raise ValueError, with the nearest of the names, if this is not one of them."""
    if name not in names:
        raise ValueError(f"Unknown {what}{name}{hint(name, names)}")
