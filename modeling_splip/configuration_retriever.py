"""What the settings of every retrieval model have in common, and how they are checked."""

import copy
from dataclasses import MISSING, field, fields
from typing import Any, ClassVar

from transformers import CLIPConfig
from transformers.configuration_utils import PretrainedConfig

MODALITIES = ("sketch", "photo")
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


# Saved folders carry the code that they need (`trust_remote_code`); holds for every configuration derived from it.
RetrievalConfig.register_for_auto_class()
