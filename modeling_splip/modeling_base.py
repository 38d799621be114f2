"""What searching needs of every model: the forward pass and its output, `encode`, the fingerprint, and loading."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .checkpoint_files import Checkpoints
from .clip_backbone import Clip, KeyValue, LayerNorms, TowerOutput, embed_patches, project_image, run_vision
from .clip_base import ClipCalls, checked_modality
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


class RetrievalModel(RecordedWeights, Checkpoints, ClipCalls, PreTrainedModel):
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
        modality: str | None = None,
        return_class_embeds: bool | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> RetrievalOutput:
        """Encode B images of one modality.

        Args:
            pixel_values: (B, 3, H, W) as the processor gives them.
            modality: "sketch" or "photo"; left out, the images count as photos, which is said once in a process.
            return_class_embeds: whether the output holds the embeddings of the seen classes, where there are some; by
                default if the modality is passed, and not to a pipeline.
            interpolate_pos_encoding: take images of another size than the base CLIP's.
            output_hidden_states: whether the output holds every vision layer's input and the last one's output; by
                default what the configuration says.
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
            hidden_states=(output.first, *output.layers) if output_hidden_states else None,
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


# Saved folders carry the code that they need (`trust_remote_code`); holds for every model derived from this one.
RetrievalModel.register_for_auto_class("AutoModel")
