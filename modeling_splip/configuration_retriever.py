"""What the settings of every retrieval model have in common, and how they are checked."""

import copy
import json
import string
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import CLIPConfig
from transformers.configuration_utils import PretrainedConfig

MODALITIES = ("sketch", "photo")
# No CLIP has more layers, or more weights, than these; the largest ones have 18 billion. Others would fill the memory.
MOST_LAYERS = 1000
MOST_WEIGHTS = 20_000_000_000
MOST = 10_000  # of anything else that a model counts
# Fields that say where weights lie or what they are, not what the model computes with them.
_NOT_FINGERPRINTED = ("clip_config", "base_model", "checkpoint", "class_names")


def check_modality(modality: Any) -> None:
    """Raise ValueError if the modality is neither "sketch" nor "photo"."""
    if modality not in MODALITIES:
        raise ValueError(f"modality must be 'sketch' or 'photo' (one modality a call), got {modality!r}.")


def check_class_names(class_names: Any) -> None:
    """Raise ValueError if the class names are one text, which would count as a list of letters."""
    if isinstance(class_names, str):
        raise ValueError(f"class_names must be a list of names, got the text {class_names!r}.")


def clip_weights(config: CLIPConfig) -> int:
    """Return about how many weights a CLIP of this shape has."""
    text, vision = config.text_config, config.vision_config
    inputs = (text.vocab_size + text.max_position_embeddings) * text.hidden_size
    patches = (vision.image_size // max(1, vision.patch_size)) ** 2 + vision.num_channels * vision.patch_size**2
    inputs += patches * vision.hidden_size + (text.hidden_size + vision.hidden_size) * config.projection_dim
    layers = [
        it.num_hidden_layers * (4 * it.hidden_size + 2 * it.intermediate_size) * it.hidden_size for it in (text, vision)
    ]
    return inputs + sum(layers)


def check_clip_size(config: CLIPConfig, most: int = MOST_WEIGHTS) -> None:
    """Raise ValueError if a CLIP has more layers than any, or more than `most` weights, before any is made."""
    layers = max(config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers)
    if layers > MOST_LAYERS:
        raise ValueError(f"The configuration asks for {layers:,d} layers, and no CLIP has more than {MOST_LAYERS:,d}.")
    if clip_weights(config) > most:
        raise ValueError(f"The configuration asks for {clip_weights(config):,d} weights, more than {most:,d}.")


class RetrievalConfig(PretrainedConfig):
    """Settings of every model that can be searched with.

    Args:
        clip_config: shape of the base CLIP.
        class_names: readable names of the seen classes, unique; their order is that of the class embeddings.

    Raises:
        ValueError: in one sentence, if a setting has a value that it cannot have.
    """

    # So that `attn_implementation` and dtypes reach the CLIP inside.
    sub_configs: ClassVar[dict[str, Any]] = {"clip_config": CLIPConfig}
    # Checked for every model in one place: the values that a text may have, and the least value of a number with the
    # advice for whoever wants less.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    at_least: ClassVar[dict[str, tuple[int, str]]] = {}
    # Fields that say what a checkpoint's weights are.
    of_weights: ClassVar[tuple[str, ...]] = ("class_names",)
    # Fields that came later: a model that has their defaults keeps the fingerprint that it had without them.
    later: ClassVar[tuple[str, ...]] = ()

    clip_config: CLIPConfig = None  # a dict becomes one
    class_names: list[str] = field(default_factory=list)

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.clip_config, dict):
            self.clip_config = CLIPConfig(**self.clip_config)
        self.clip_config = self.clip_config or CLIPConfig()
        check_clip_size(self.clip_config)
        check_class_names(self.class_names)
        self.class_names = list(self.class_names or [])
        self._check_values()
        super().__post_init__(**kwargs)

    def _check_values(self) -> None:
        for name, known in self.choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}.")
        for name, default in self.defaults().items():
            value = getattr(self, name)
            if isinstance(default, bool) and not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r}.")
            if name not in self.at_least or (value is None and default is None):
                continue
            least, advice = self.at_least[name]
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, got {value!r}.")
            if value < least:
                none = ", or None for all layers" if default is None else ""
                raise ValueError(f"{name} must be at least {least}{none}, got {value}{advice}.")
            if value > MOST:
                raise ValueError(f"{name} must be at most {MOST:,d}, got {value:,d}.")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return the configuration of a dict, with other values for some fields, which are checked too.

        Args:
            config_dict: fields and values.
            **kwargs: fields that get another value, and transformers' own arguments.

        Raises:
            ValueError: if a field cannot have its value, or one is changed that says what a checkpoint's weights are.
        """
        own = {name: kwargs.pop(name) for name in cls.defaults() if name in kwargs and name != "clip_config"}
        for name in cls.of_weights:
            if name in own and own[name] != config_dict.get(name):
                raise ValueError(
                    f"{name} says what the weights are, and no other value makes them fit: leave it out, or build "
                    "another model with from_clip."
                )
        return super().from_dict(config_dict | own, **kwargs)

    def check_against(self, state: Mapping[str, Tensor]) -> None:
        """Raise ValueError if the CLIP of this configuration has many times the weights that a checkpoint holds."""
        # A folded encoder has no text tower, and a small model is never refused.
        check_clip_size(self.clip_config, 10 * sum(tensor.numel() for tensor in state.values()) + 100_000_000)

    def set_tower_dtypes(self, dtype: torch.dtype | str | None, state: Mapping[str, Tensor] | None = None) -> None:
        """Ask for the towers in the model's dtype: CLIP builds each in the dtype of its own configuration.

        Args:
            dtype: what was asked for; "auto" and None mean the configuration's.
            state: the model's tensors, whose dtype counts where nothing else says one.
        """
        dtype = self.dtype if dtype in (None, "auto") else dtype
        if dtype is None:
            dtype = next((tensor.dtype for tensor in (state or {}).values() if tensor.is_floating_point()), None)
        for tower in (self.clip_config, self.clip_config.vision_config, self.clip_config.text_config):
            tower.dtype = dtype

    @property
    def projection_dim(self) -> int:
        """D, the width of an embedding."""
        return self.clip_config.projection_dim

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return every field that this package declares for the model, with its default; None for lists and dicts."""
        inherited = {item.name for item in fields(PretrainedConfig)}
        own = [item for item in fields(cls) if item.name not in inherited]
        return {item.name: None if item.default is MISSING else item.default for item in own}


class RetrieverConfig(RetrievalConfig):
    """Settings of a frozen CLIP with small trained parts; a method adds its own.

    Args:
        base_model: name or path of the base CLIP; an adapter-only checkpoint takes its weights from there.
        base_fingerprint: hash of the base CLIP's weights that the adapters were trained on.
        checkpoint: "adapter" (without the base CLIP's weights) or "full".
        class_token_ids: for each class the token ids after the template's prefix, up to and with EOS.
        prefix_token_ids: for each modality the token ids of the template before the class name, SOS first.
        template: text of a class prompt with `{class_name}`.
        peft: fields of a PEFT configuration that is trained in the vision tower (`peft_type`, `target_modules`, ...).
    """

    of_weights: ClassVar = (
        "class_names", "class_token_ids", "prefix_token_ids", "template", "checkpoint", "base_fingerprint"
    )  # fmt: skip
    later: ClassVar[tuple[str, ...]] = ("peft",)

    base_model: str | None = None
    base_fingerprint: str | None = None
    checkpoint: str = "full"
    class_token_ids: list[list[int]] = field(default_factory=list)
    prefix_token_ids: dict[str, list[int]] = field(default_factory=dict)
    template: str = "a photo of a {class_name}"
    peft: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.class_token_ids = copy.deepcopy(self.class_token_ids or [])
        self.prefix_token_ids = copy.deepcopy(self.prefix_token_ids or {})
        self.peft = self.peft or None
        super().__post_init__(**kwargs)

    def fingerprinted(self) -> dict[str, Any]:
        """Return the fields that say what a model computes with its weights, for its fingerprint."""
        settings = {name: (getattr(self, name), default) for name, default in self.defaults().items()}
        return {
            name: value
            for name, (value, default) in settings.items()
            if name not in _NOT_FINGERPRINTED and (name not in self.later or value != default)
        }


def tokenize_class_prompts(
    tokenizer: Any, template: str, class_names: list[str]
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Return the prefix's token ids for each modality (SOS first) and each class's own, EOS last.

    Raises:
        ValueError: if a name is no text, is empty or occurs twice, or the template has no `{class_name}`, or
            `{modality}` after it, or another field.
    """
    for name in class_names:
        if not isinstance(name, str):
            raise ValueError(f"class_names must hold texts, got {name!r}.")
        if not name.strip():
            raise ValueError("class_names holds an empty name: every seen class needs a readable one.")
        if class_names.count(name) > 1:
            raise ValueError(f"class_names holds '{name}' more than once: names must be unique.")
    before, found, after = template.partition("{class_name}")
    if not found or "{modality}" in after:
        raise ValueError(f"template must hold {{class_name}}, {{modality}} only before it, got {json.dumps(template)}.")
    fields = {name for _, name, _, _ in string.Formatter().parse(before) if name is not None}
    if fields - {"modality"}:
        raise ValueError(f"template may hold {{class_name}} and {{modality}} only, got {json.dumps(template)}.")
    prefixes = {mod: tokenizer(before.format(modality=mod).strip())["input_ids"][:-1] for mod in MODALITIES}
    suffixes = [tokenizer((name + after).strip())["input_ids"][1:] for name in class_names]
    return prefixes, suffixes


def check_prompt_lengths(config: Any, learned: int) -> None:
    """Raise ValueError if a class prompt is longer than the text tower's context.

    Args:
        config: the model's configuration, with its classes and their token ids.
        learned: how many learned tokens each prompt holds besides its own.
    """
    limit = config.clip_config.text_config.max_position_embeddings
    prefix = max((len(ids) for ids in config.prefix_token_ids.values()), default=0) + learned
    for name, ids in zip(config.class_names, config.class_token_ids, strict=True):
        if prefix + len(ids) > limit:
            own, advice = (f" with m={learned}", ", the template or m") if learned else ("", " or the template")
            raise ValueError(
                f"The prompt of class '{name}' has {prefix + len(ids)} tokens{own}, but the text tower takes "
                f"{limit}: shorten the class name{advice}."
            )


# Saved folders carry the code that they need (`trust_remote_code`); holds for every configuration derived from it.
RetrievalConfig.register_for_auto_class()
