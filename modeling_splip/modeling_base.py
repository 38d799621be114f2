"""What searching needs of every model: the forward pass and its output, `encode`, the fingerprint, and loading."""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.utils import ModelOutput, can_return_tuple

from .checkpoint_files import (
    base_arguments,
    check_can_save,
    check_no_variant,
    check_report,
    is_first_process,
    read_model_type,
    read_tensors,
    remove_older_weights,
    split_hub_arguments,
)
from .clip_backbone import Clip, KeyValue, LayerNorms, TowerOutput, embed_patches, project_image, run_vision
from .configuration_retriever import check_modality
from .fingerprints import RecordedWeights


@dataclass
class RetrievalOutput(ModelOutput):
    """Output of a retrieval model for B images of one modality.

    Attributes:
        embeds: (B, D) unit-norm embeddings; rank photos by their dot product with a sketch.
        tokens: (B, 1 + P, d_v) last vision layer's outputs, CLS first.
        class_embeds: (B or 1, C, D) unit-norm embeddings of the seen classes; 1 where they do not depend on the image.
        hidden_states: L_v + 1 tensors (B, 1 + P, d_v), on request.
        attentions: L_v tensors (B, heads, 1 + P, K + 1 + P) with the K prompts first, on request.
    """

    embeds: Tensor | None = None
    tokens: Tensor | None = None
    class_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class RetrievalModel(RecordedWeights, PreTrainedModel):
    """A model that turns sketches and photos into embeddings that are compared.

    `forward` is the same for all: patches of the image, the prompts of each vision layer, the vision layers, the
    embedding. A subclass gives its vision tower (`vision`), its LayerNorms (`layer_norms`), and, where it has some, its
    prompts and class embeddings (`condition`).

    Attributes:
        title: the method's name for cards and docs, such as "CLIP-AT (CVPR 2023)".
        arxiv: id of its paper on arXiv.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    title: ClassVar[str] = ""
    arxiv: ClassVar[str] = ""

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        modality: str,
        return_class_embeds: bool = True,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> RetrievalOutput:
        """Encode B images of one modality.

        Args:
            pixel_values: (B, 3, H, W) as the processor gives them.
            modality: "sketch" or "photo".
            return_class_embeds: whether the output holds the embeddings of the seen classes, where there are some.
            interpolate_pos_encoding: take images of another size than the base CLIP's.
            output_hidden_states: whether the output holds every vision layer's input and the last one's output; by
                default what the configuration says.
            output_attentions: whether the output holds the vision attentions, computed eagerly; by default what the
                configuration says.
            return_dict: false for a tuple of what is not None; by default what the configuration says.

        Raises:
            ValueError: if the modality is unknown or the images have another shape or size.
        """
        check_modality(modality)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        norms = self.layer_norms(modality)
        embeddings = embed_patches(self.vision, pixel_values, interpolate_pos_encoding)  # [CLS, E_0], (B, 1 + P, d_v)
        key_values, class_embeds = self.condition(embeddings, modality, return_class_embeds)
        output = self.run_layers(embeddings, modality, key_values, bool(output_attentions))
        return RetrievalOutput(
            embeds=project_image(self.vision, norms[-1], output.last[:, 0]),  # f, (B, D)
            tokens=output.last,
            class_embeds=class_embeds,
            hidden_states=(output.first, *output.layers) if output_hidden_states else None,
            attentions=output.attentions if output_attentions else None,
        )

    @property
    def vision(self) -> Clip:
        """The module that holds CLIP's vision tower and projection."""
        raise AttributeError(f"{type(self).__name__} must define vision.")

    @property
    def attention(self) -> str:
        """The attention implementation, "sdpa" or "eager"."""
        return self.config._attn_implementation or "sdpa"

    def layer_norms(self, modality: str) -> LayerNorms:
        """Return the vision LayerNorms that images of this modality pass, in the order of `vision_norms`."""
        raise AttributeError(f"{type(self).__name__} must define layer_norms.")

    def condition(
        self, embeddings: Tensor, modality: str, return_class_embeds: bool
    ) -> tuple[Sequence[KeyValue | None] | None, Tensor | None]:
        """Return each vision layer's prompts as keys and values, and the class embeddings: here neither.

        Args:
            embeddings: (B, 1 + P, d_v) of `embed_patches`.
            modality: "sketch" or "photo".
            return_class_embeds: whether class embeddings are wanted.

        Returns:
            For each vision layer keys and values (2, K, B or 1, d_v), or None; and (B or 1, C, D), or None.
        """
        return None, None

    def run_layers(
        self,
        embeddings: Tensor,
        modality: str,
        key_values: Sequence[KeyValue | None] | None,
        output_attentions: bool,
    ) -> TowerOutput:
        """Return what the vision layers make of the embeddings (B, 1 + P, d_v)."""
        norms = self.layer_norms(modality)
        return run_vision(self.vision, embeddings, norms, key_values, self.attention, output_attentions)

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return the embeddings of B images of one modality: (B, D), unit norm, float32.

        Args:
            pixel_values: (B, 3, H, W) as the processor gives them.
            modality: "sketch" or "photo".

        Raises:
            ValueError: if the modality is unknown or the images have another shape or size.
        """
        output = self(pixel_values=pixel_values, modality=modality, return_class_embeds=False, return_dict=True)
        return output.embeds.float()

    def for_search(self) -> "RetrievalModel":
        """Return the form that costs least with the same embeddings, fingerprint and words: here the model itself."""
        return self

    def model_fingerprint(self) -> str:
        """Return 16 hex digits of the weights and settings, the same for every form of one model."""
        raise AttributeError(f"{type(self).__name__} must define model_fingerprint.")

    def fingerprint(self, processor: Any | None = None) -> str:
        """Return 16 hex digits that name this model together with its processor's settings.

        Two embeddings may be compared only if their fingerprints agree.
        """
        settings = json.dumps(processor.image_settings(), sort_keys=True) if processor is not None else ""
        return hashlib.blake2b((self.model_fingerprint() + settings).encode(), digest_size=8).hexdigest()

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model; what an earlier save left in the folder never loads.

        Raises:
            ValueError: with `variant=`, or if another model would be loaded from the folder.
        """
        check_no_variant(kwargs.get("variant"))
        check_can_save(save_directory, self)
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True) and is_first_process():
            remove_older_weights(save_directory)

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse transformers' way to add PEFT's adapters: its checkpoints make AutoModel load the base instead.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "add_adapter would write checkpoints that load as another model: build the model with peft= and the "
            "adapter's settings, for example from_clip(base, names, peft={'peft_type': 'LORA', ...})."
        )

    def freeze(self) -> None:
        """Freeze what never trains: here everything."""
        self.requires_grad_(False)

    @classmethod
    def base_state(cls, config: Any, base_model: str | None, hub: dict[str, Any]) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint of this configuration leaves to the base CLIP: here none."""
        return {}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, base_model: str | None = None, **kwargs: Any
    ):
        """Load a checkpoint of any form, from safetensors only.

        Args:
            pretrained_model_name_or_path: folder or Hub id; None with `config=` and `state_dict=`.
            base_model: for an adapter-only checkpoint, the base CLIP's folder or id instead of the config's.
            **kwargs: as for every transformers model (`dtype`, `device_map`, `revision`, ...).

        Returns:
            The model, frozen where it never trains; with `output_loading_info=True` also transformers' report.

        Raises:
            OSError: in one sentence, if there is no such checkpoint or its weights are damaged.
            ValueError: if it is of another kind, lacks tensors, or the base CLIP has another shape or other weights
                than the one trained on.
        """
        check_no_variant(kwargs.pop("variant", None))
        with_report = kwargs.pop("output_loading_info", False)
        if pretrained_model_name_or_path is None:
            model, report = super().from_pretrained(None, *args, output_loading_info=True, **kwargs)
            check_report(report, "state_dict", cls.__name__)
        else:
            model, report = cls._load(str(pretrained_model_name_or_path), args, base_model, kwargs)
        model.freeze()  # transformers makes every parameter anew
        return (model, report) if with_report else model

    @classmethod
    def _load(cls, name: str, args: tuple, base_model: str | None, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hub = split_hub_arguments(kwargs)
        config = kwargs.pop("config", None)
        if not isinstance(config, PretrainedConfig):
            config = cls._read_config(str(config or name), hub)
        config = copy.deepcopy(config)
        set_tower_dtypes(config, kwargs.get("dtype", kwargs.get("torch_dtype")))
        state = cls.base_state(config, base_model, base_arguments(hub)) | read_tensors(name, hub)
        # Tensors mapped from a file are not aligned like those made here, and kernels round differently on them.
        state = {key: tensor.clone() for key, tensor in state.items()}
        model, report = super().from_pretrained(
            None, *args, config=config, state_dict=state, output_loading_info=True, **kwargs
        )
        check_report(report, name, cls.__name__)
        model.record_weights()
        model.name_or_path = model.config.name_or_path = name
        if base_model is not None:
            model.config.base_model = str(base_model)
        return model, report

    @classmethod
    def _read_config(cls, name: str, hub: dict[str, Any]) -> Any:
        """Read a checkpoint's configuration, of this class and no other."""
        found = read_model_type(name, hub)
        if found != cls.config_class.model_type:
            raise ValueError(
                f"'{name}' is a '{found}' model, and {cls.__name__} loads '{cls.config_class.model_type}' ones: use "
                "AutoModel, or its own class."
            )
        return cls.config_class.from_pretrained(name, **hub)


def set_tower_dtypes(config: Any, dtype: torch.dtype | str | None) -> None:
    """Ask for the towers in the model's dtype: CLIP builds each in the dtype of its own configuration."""
    dtype = config.dtype if dtype in (None, "auto") else dtype
    for tower in (config.clip_config, config.clip_config.vision_config, config.clip_config.text_config):
        tower.dtype = dtype


# Saved folders carry the code that they need (`trust_remote_code`); holds for every model derived from this one.
RetrievalModel.register_for_auto_class("AutoModel")
