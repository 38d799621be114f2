"""What searching needs of every model: the forward pass and its output, `encode`, the fingerprint, and loading."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple, logging

from .checkpoint_files import Checkpoints
from .clip_backbone import Clip, KeyValue, LayerNorms, TowerOutput, embed_patches, project_image, run_vision
from .configuration_retriever import check_modality
from .fingerprints import RecordedWeights
from .sentence_module import SketchPhotoModule

logger = logging.get_logger(__name__)


@dataclass
class RetrievalOutput(ModelOutput):
    """Output of a retrieval model for B images of one modality.

    Attributes:
        embeds: (B, D) unit-norm embeddings; rank photos by their dot product with a sketch.
        tokens: (B, 1 + P, d_v) last vision layer's outputs, CLS first.
        class_embeds: (B or 1, C, D) unit-norm embeddings of the seen classes; 1 where they do not depend on the image.
        hidden_states: L_v + 1 tensors (B, 1 + P, d_v), on request; None in place of those that were not asked for.
        attentions: L_v tensors (B, heads, 1 + P, K + 1 + P) with the K prompts first, on request.
    """

    embeds: Tensor | None = None
    tokens: Tensor | None = None
    class_embeds: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ClipCalls:
    """What users of CLIP call on a model, for every retrieval model."""

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor, modality: str | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Return the embeddings of B images as `pooler_output`: (B, D), unit norm; with gradients, unlike `encode`.

        Args:
            pixel_values, modality, **kwargs: as `forward` takes them.

        Returns:
            Also `last_hidden_state`, (B, 1 + P, d_v), and on request `hidden_states` and `attentions`.
        """
        kwargs |= {"return_class_embeds": False, "return_dict": True}
        output = self(pixel_values=pixel_values, modality=modality, **kwargs)  # type: ignore[operator]
        more = {"hidden_states": output.hidden_states, "attentions": output.attentions}
        return BaseModelOutputWithPooling(last_hidden_state=output.tokens, pooler_output=output.embeds, **more)

    @can_return_tuple
    @torch.no_grad()
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Return the embeddings of N texts, sentences or class names, as `pooler_output`: (N, D), unit norm, float32.

        They are the frozen text tower's, as those of `encode_text`, and can be compared with images' embeddings.

        Args:
            input_ids, attention_mask, **kwargs: as CLIP's text tower takes them.

        Returns:
            Also `last_hidden_state`, (N, J, d_t), and on request `hidden_states` and `attentions`.

        Raises:
            ValueError: if the model keeps no text tower.
        """
        if not hasattr(self, "encode_text"):
            raise ValueError(f"{type(self).__name__} has no text tower (it is folded): embed texts before folding.")
        clip: Any = getattr(self, "clip", self)
        for name in ("output_hidden_states", "output_attentions"):
            kwargs.setdefault(name, getattr(self.config, name))  # type: ignore[attr-defined]
        kwargs["return_dict"] = True
        output = clip.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        projected = clip.text_projection(output.pooler_output)  # (N, D)
        wide = projected.to(torch.promote_types(projected.dtype, torch.float32))
        output.pooler_output = nn.functional.normalize(wide, dim=-1).float()
        return output

    def get_input_embeddings(self) -> nn.Module:
        """Return the vision tower's patch embedding, which is what images meet first."""
        return self.vision.vision_model.get_input_embeddings()  # type: ignore[attr-defined]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another patch embedding into the vision tower."""
        self.vision.vision_model.set_input_embeddings(value)  # type: ignore[attr-defined]


def checked_modality(pixel_values: Any, modality: str | Sequence[str] | None) -> str:
    """Return the modality; "photo" if it was left out, which is said once in a process.

    Args:
        pixel_values: what shall be images.
        modality: also one for each image, all the same, as a pipeline puts them together.

    Raises:
        ValueError: if there is no such modality, or `pixel_values` is no tensor.
    """
    if not isinstance(pixel_values, Tensor):
        raise ValueError(
            f"pixel_values must be a tensor (batch, 3, height, width), got {type(pixel_values).__name__}: the "
            "processor makes one of images and paths, model.encode(**processor(images=..., modality=...))."
        )
    if modality is None:
        logger.warning_once("No modality was passed, so images count as photos: sketches need modality='sketch'.")
        return "photo"
    one = modality[0] if isinstance(modality, list | tuple) and len(set(modality)) == 1 else modality
    check_modality(one)
    return str(one)


class RetrievalModel(RecordedWeights, Checkpoints, ClipCalls, PreTrainedModel):
    """A model that turns sketches and photos into embeddings that are compared.

    `forward` is the same for all: patches of the image, the prompts of each vision layer, the vision layers, the
    embedding. A subclass gives its vision tower (`vision`), its LayerNorms (`layer_norms`), and, where it has some, its
    prompts and class embeddings (`condition`).

    Attributes:
        title: the method's name for cards and docs, such as "CLIP-AT (CVPR 2023)".
        arxiv: id of its paper on arXiv.
        sentence_module: what sentence-transformers loads of a saved folder.
    """

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    title: ClassVar[str] = ""
    arxiv: ClassVar[str] = ""
    sentence_module = SketchPhotoModule

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        modality: str | None = None,
        return_class_embeds: bool | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> RetrievalOutput:
        """Encode B images of one modality.

        Args:
            pixel_values: (B, 3, H, W) as the processor gives them.
            modality: "sketch" or "photo"; left out, the images count as photos, which is said once in a process.
            return_class_embeds: whether the output holds the embeddings of the seen classes, where there are some; by
                default if the modality is passed, and not to a pipeline.
            interpolate_pos_encoding: take images of another size than the base CLIP's.
            output_hidden_states: whether the output holds every vision layer's input and the last one's output, or the
                indices of those that it holds; by default what the configuration says.
            output_attentions: whether the output holds the vision attentions, computed eagerly; by default what the
                configuration says.
            return_dict: false for a tuple of what is not None; by default what the configuration says.

        Raises:
            ValueError: if the modality is unknown or the images are no tensor, or have another shape or size.
        """
        if return_class_embeds is None:
            return_class_embeds = isinstance(modality, str)
        modality = checked_modality(pixel_values, modality)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        tower, norms = self.tower(modality), self.layer_norms(modality)
        embeddings = embed_patches(tower, pixel_values, interpolate_pos_encoding)  # [CLS, E_0], (B, 1 + P, d_v)
        key_values, class_embeds = self.condition(embeddings, modality, return_class_embeds)
        output = self.run_layers(embeddings, modality, key_values, bool(output_attentions))
        return RetrievalOutput(
            embeds=project_image(tower, norms[-1], output.last[:, 0]),  # f, (B, D)
            tokens=output.last,
            class_embeds=class_embeds,
            hidden_states=_chosen((output.first, *output.layers), output_hidden_states),
            attentions=output.attentions if output_attentions else None,
        )

    @property
    def vision(self) -> Clip:
        """The module that holds CLIP's vision tower and projection."""
        raise AttributeError(f"{type(self).__name__} must define vision.")

    def tower(self, modality: str) -> Clip:
        """Return what holds the vision tower and projection of this modality's images: here the same for both."""
        return self.vision

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
            modality: "sketch" or "photo"; left out, the images count as photos, which is said once in a process.
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
        return run_vision(self.tower(modality), embeddings, norms, key_values, self.attention, output_attentions)

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


def _chosen(states: tuple[Tensor, ...], wanted: bool | list[int]) -> tuple[Tensor | None, ...] | None:
    """Return the hidden states that are wanted, with None in place of the others; None if none are."""
    if isinstance(wanted, bool) or not wanted:
        return states if wanted else None
    indices = range(len(states))
    if any(index not in range(-len(states), len(states)) for index in wanted):
        raise ValueError(f"output_hidden_states must hold indices of {len(states)} states, got {wanted}.")
    kept = {indices[index] for index in wanted}
    return tuple(state if index in kept else None for index, state in enumerate(states))


# Saved folders carry the code that they need (`trust_remote_code`); holds for every model derived from this one.
RetrievalModel.register_for_auto_class("AutoModel")
