"""SpLIP folded: with domain conditioning all prompts are constants, so an image costs what it costs in plain CLIP."""

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, initialization

from .adapters import LayerNormAdapter
from .adapters_peft import merged_state
from .clip_backbone import KeyValue, LayerNorms, dimensions, vision_norms
from .configuration_retriever import MODALITIES
from .configuration_splip import SplipEncoderConfig
from .modeling_base import RetrievalModel


class SplipEncoder(RetrievalModel):
    """A folded `SplipModel`: CLIP's vision tower and, for each layer, the constant keys and values of its prompts.

    It gives the same embeddings without a text tower and a tokenizer.
    """

    title = "SpLIP, folded (ECCV 2024)"
    arxiv = "2407.04207"
    config_class = SplipEncoderConfig
    base_model_prefix = "splip_encoder"
    fingerprint_field = "model_fingerprint"

    def __init__(self, config: SplipEncoderConfig):
        super().__init__(config)
        d_v, _, l_v, _ = dimensions(config.clip_config)
        self.vision_model = CLIPVisionModel(config.clip_config.vision_config)
        self.visual_projection = nn.Linear(d_v, config.projection_dim, bias=False)
        if not config.share_layer_norms:
            eps = config.clip_config.vision_config.layer_norm_eps
            # The sketches' LayerNorms are the vision tower's own, so that nothing unused is stored.
            self.photo_norms = LayerNormAdapter(2 * l_v + 2, d_v, eps)
        # For each modality one tensor of keys and values: (2, prompts of all layers, d_v).
        self.sketch_prompts = nn.Buffer(torch.zeros(2, sum(config.prompt_counts["sketch"]), d_v))
        self.photo_prompts = nn.Buffer(torch.zeros(2, sum(config.prompt_counts["photo"]), d_v))
        self.post_init()
        self.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SplipEncoder):
            initialization.zeros_(module.sketch_prompts)
            initialization.zeros_(module.photo_prompts)
            initialization.normal_(module.visual_projection.weight, std=module.visual_projection.in_features**-0.5)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)

    @classmethod
    @torch.no_grad()
    def from_model(cls, model: Any) -> "SplipEncoder":
        """Return a domain-conditioned `SplipModel` folded; PEFT's adapters are merged."""
        key_values = {modality: model.visual_key_values(modality) for modality in MODALITIES}
        counts = {
            modality: [0 if pair is None else pair.shape[1] for pair in pairs] for modality, pairs in key_values.items()
        }
        config = SplipEncoderConfig(
            clip_config=copy.deepcopy(model.config.clip_config),
            prompt_counts=counts,
            class_names=model.config.class_names,
            model_fingerprint=model.model_fingerprint(),
            base_model=model.config.base_model,
            share_layer_norms=model.layer_norms("sketch")[0] is model.layer_norms("photo")[0],
            attn_implementation=model.attention,
        )
        encoder = cls(config).to(dtype=model.dtype, device=model.device)
        encoder.vision_model.load_state_dict(merged_state(model.clip.vision_model))
        encoder.visual_projection.load_state_dict(model.clip.visual_projection.state_dict())
        for modality in MODALITIES:
            for own, trained in zip(encoder.layer_norms(modality), model.layer_norms(modality), strict=True):
                own.load_state_dict(trained.state_dict())
            pairs = [pair for pair in key_values[modality] if pair is not None]
            if pairs:
                encoder._constants(modality).copy_(torch.cat(pairs, dim=1)[:, :, 0])
        encoder.record_weights()
        return encoder.eval()

    @property
    def vision(self) -> "SplipEncoder":
        """The module that holds CLIP's vision tower and projection: this one."""
        return self

    def layer_norms(self, modality: str) -> LayerNorms:
        """Return the vision LayerNorms that images of this modality pass, in the order of `vision_norms`."""
        own = modality == "photo" and not self.config.share_layer_norms
        return self.photo_norms if own else vision_norms(self)

    def model_fingerprint(self) -> str:
        """Return the fingerprint of the model that was folded; another one if its weights were changed since."""
        return self.recorded_fingerprint()

    def recorded_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of the tensors `state` that the recorded fingerprint stands for: all."""
        return dict(state)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the folded model with its fingerprint as it is now."""
        self.config.model_fingerprint = self.model_fingerprint()
        self.record_weights()
        super().save_pretrained(save_directory, **kwargs)

    def condition(
        self, embeddings: Tensor, modality: str, return_class_embeds: bool
    ) -> tuple[list[KeyValue | None], None]:
        """Return the constant keys and values of each vision layer's prompts, (2, K, 1, d_v); no class embeddings."""
        counts = self.config.prompt_counts[modality]
        layers = self._constants(modality)[:, :, None].split(counts, dim=1)  # L_v tensors (2, K, 1, d_v)
        return [pair if pair.shape[1] else None for pair in layers], None

    def _constants(self, modality: str) -> Tensor:
        return self.sketch_prompts if modality == "sketch" else self.photo_prompts


class SearchEncoder(SplipEncoder):
    """A folded `SplipModel` that keeps CLIP's text tower, so that words can be searched for too.

    It has one vision tower, the folded one; the text tower is that of the model which was folded, not a copy.
    """

    @classmethod
    @torch.no_grad()
    def from_model(cls, model: Any) -> "SearchEncoder":
        """Return the folded form of a domain-conditioned `SplipModel`, with its text tower."""
        encoder = super().from_model(model)
        encoder.text_model, encoder.text_projection = model.clip.text_model, model.clip.text_projection
        encoder.name_or_path = model.name_or_path
        encoder.record_weights()
        return encoder

    @torch.no_grad()
    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return embeddings of free texts by the frozen CLIP text tower: (N, D), unit norm, float32."""
        pooled = self.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output  # (N, d_t)
        return F.normalize(self.text_projection(pooled).float(), dim=-1)  # (N, D)
