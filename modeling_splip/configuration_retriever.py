"""What the settings of every retrieval model have in common."""

import inspect
from typing import Any

from transformers import CLIPConfig
from transformers.configuration_utils import PretrainedConfig

MODALITIES = ("sketch", "photo")


def check_modality(modality: str) -> str:
    """Return the modality, or raise ValueError if it is neither "sketch" nor "photo"."""
    if modality not in MODALITIES:
        raise ValueError(f"modality must be 'sketch' or 'photo' (one modality a call), got {modality!r}.")
    return modality


class RetrieverConfig(PretrainedConfig):
    """Settings of a frozen CLIP with small trained parts; a method adds its own.

    Args:
        clip_config: shape of the base CLIP.
        base_model: name or path of the base CLIP; an adapter-only checkpoint takes its weights from there.
        base_fingerprint: hash of the base CLIP's weights that the adapters were trained on.
        checkpoint: "adapter" (without the base CLIP's weights) or "full".
        class_names: readable names of the seen classes, unique; their order is that of the class embeddings.
        class_token_ids: for each class the token ids after the template's prefix, up to and with EOS.
        prefix_token_ids: for each modality the token ids of the template before the class name, SOS first.
        template: text of a class prompt with `{class_name}`.
        peft: fields of a PEFT configuration that is trained in the vision tower (`peft_type`, `target_modules`, ...).
    """

    def __init__(
        self,
        clip_config: CLIPConfig | dict[str, Any] | None = None,
        base_model: str | None = None,
        base_fingerprint: str | None = None,
        checkpoint: str = "full",
        class_names: list[str] | None = None,
        class_token_ids: list[list[int]] | None = None,
        prefix_token_ids: dict[str, list[int]] | None = None,
        template: str = "a photo of a {class_name}",
        peft: dict[str, Any] | None = None,
        **kwargs,
    ):
        self.clip_config = CLIPConfig(**clip_config) if isinstance(clip_config, dict) else clip_config or CLIPConfig()
        self.base_model = base_model
        self.base_fingerprint = base_fingerprint
        self.checkpoint = checkpoint
        self.class_names = list(class_names or [])
        self.class_token_ids = [list(ids) for ids in class_token_ids or []]
        self.prefix_token_ids = {key: list(ids) for key, ids in (prefix_token_ids or {}).items()}
        self.template = template
        self.peft = peft
        super().__init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """D, the width of an embedding."""
        return self.clip_config.projection_dim

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return every field of the method and of its bases down to this class, with its default."""
        owners = [owner for owner in reversed(cls.__mro__) if issubclass(owner, RetrieverConfig)]
        parameters = [inspect.signature(owner.__init__).parameters.values() for owner in owners]
        named = [p for group in parameters for p in group if p.name != "self" and p.kind is not p.VAR_KEYWORD]
        return {parameter.name: parameter.default for parameter in named}
