"""CLIP-AT (CVPR 2023, arXiv 2303.13440): visual prompts and trained LayerNorms, for each modality, on one frozen CLIP.

Symbols: x an image, E its CLS and patch embeddings (1 + P, d_v), V the visual prompts of its modality (K, d_v), f the
embedding (D).
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPModel, initialization

from .adapters import LayerNormAdapter, VisualPrompts
from .class_prompts import embed_classes, text_norms
from .clip_backbone import KeyValue, TowerOutput, dimensions, parameter_at
from .configuration_clip_at import ClipAtConfig
from .configuration_retriever import MODALITIES
from .modeling_retriever import Retriever


class ClipAtModel(Retriever):
    """CLIP-AT for B images of one modality a call.

    The visual prompts are put behind the patches before the first LayerNorm, and pass all layers as the patches do, as
    in the released code. With all parts switched off it is plain CLIP.
    """

    title = "CLIP-AT (CVPR 2023)"
    arxiv = "2303.13440"
    config_class = ClipAtConfig
    base_model_prefix = "clip_at"

    def __init__(self, config: ClipAtConfig):
        super().__init__(config)
        d_v, d_t, _, l_t = dimensions(config.clip_config)
        self.clip = CLIPModel(config.clip_config)
        if config.prompts:
            names = ("shared",) if config.share_prompts else MODALITIES
            self.prompts = nn.ModuleDict({name: VisualPrompts(config.prompts, d_v) for name in names})
        if config.layer_norms in ("both", "vision"):
            self.vision_adapters = self.build_vision_adapters(config.share_layer_norms)
        if config.layer_norms in ("both", "text"):
            self.text_adapter = LayerNormAdapter(2 * l_t + 1, d_t, config.clip_config.text_config.layer_norm_eps)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisualPrompts):
            initialization.normal_(module.tokens)  # as the released code; the first LayerNorm sets the scale

    def start_from_clip(self) -> None:
        """Start the LayerNorm adapters from the base CLIP's own weights."""
        super().start_from_clip()
        if self.trains_text:
            self.text_adapter.copy_from(text_norms(self.clip))

    @property
    def trains_text(self) -> bool:
        """Whether LayerNorms of the text tower train."""
        return self.config.layer_norms in ("both", "text")

    def class_embeds(self, modality: str = "photo") -> Tensor:
        """Return the seen classes' embeddings, by the text tower's trained LayerNorms where it has some: (C, D)."""
        if not self.trains_text:
            return self.frozen_class_embeds(modality)
        prefix, classes = self.config.prefix_token_ids[modality], self.config.class_token_ids
        return embed_classes(self.clip, self.text_adapter, prefix, classes, self.attention)

    def condition(
        self, embeddings: Tensor, modality: str, return_class_embeds: bool
    ) -> tuple[Sequence[KeyValue | None] | None, Tensor | None]:
        """Return no keys and values, since prompts pass all layers, and the class embeddings: (1, C, D)."""
        wanted = return_class_embeds and self.config.class_names
        return None, self.class_embeds(modality)[None] if wanted else None

    def run_layers(
        self,
        embeddings: Tensor,
        modality: str,
        key_values: Sequence[KeyValue | None] | None,
        output_attentions: bool,
    ) -> TowerOutput:
        """Return what the vision layers make of the embeddings (B, 1 + P, d_v), with the visual prompts behind them."""
        x = self._with_prompts(embeddings, modality)  # (B, 1 + P + K, d_v)
        output = super().run_layers(x, modality, key_values, output_attentions)
        return _without_prompts(output, embeddings.shape[1])

    def _with_prompts(self, embeddings: Tensor, modality: str) -> Tensor:
        """Return [E, V]: (B, 1 + P + K, d_v)."""
        if not self.config.prompts:
            return embeddings
        own = cast(VisualPrompts, self.prompts["shared" if self.config.share_prompts else modality])
        visual = parameter_at(own, "tokens", embeddings, embeddings.dtype)  # V, (K, d_v)
        return torch.cat([embeddings, visual.expand(embeddings.shape[0], -1, -1)], dim=1)


def _without_prompts(output: TowerOutput, count: int) -> TowerOutput:
    """Return the outputs without those of the prompts; in attentions the prompts come first, as in every model here."""
    return TowerOutput(
        output.first[:, :count],
        output.last[:, :count],
        tuple(layer[:, :count] for layer in output.layers),
        tuple(
            torch.cat([rows[..., count:], rows[..., :count]], dim=-1)
            for rows in (weights[:, :, :count] for weights in output.attentions)
        ),
    )
