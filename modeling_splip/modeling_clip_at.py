"""CLIP-AT (CVPR 2023, arXiv 2303.13440): visual prompts and trained LayerNorms, for each modality, on one frozen CLIP.

Symbols: x an image, E its CLS and patch embeddings (1 + P, d_v), V the K prompts of its modality (K, d_v), f the
embedding (D).
"""

from typing import cast

import torch
from torch import Tensor, nn
from transformers import CLIPModel, initialization

from .adapters import VisualPrompts
from .clip_backbone import TowerOutput, dimensions, embed_patches, run_vision
from .configuration_clip_at import ClipAtConfig
from .configuration_retriever import MODALITIES, check_modality
from .modeling_encoder import RetrievalOutput, retrieval_output
from .modeling_retriever import Retriever


class ClipAtModel(Retriever):
    """CLIP-AT for B images of one modality a call.

    The prompts stand behind the patches, before the first LayerNorm, and pass all layers as the patches do, which is
    what the released code does. With all parts switched off it is plain CLIP.
    """

    config_class = ClipAtConfig
    base_model_prefix = "clip_at"
    title, arxiv = "CLIP-AT (CVPR 2023)", "2303.13440"

    def __init__(self, config: ClipAtConfig):
        super().__init__(config)
        d_v, *_ = dimensions(config.clip_config)
        self.clip = CLIPModel(config.clip_config)
        if config.prompts:
            names = ("shared",) if config.share_prompts else MODALITIES
            self.prompts = nn.ModuleDict({name: VisualPrompts(config.prompts, d_v) for name in names})
        if config.layer_norms == "vision":
            self.vision_adapters = self.build_vision_adapters(config.share_layer_norms)
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisualPrompts):
            initialization.normal_(module.tokens)  # as the released code; the first LayerNorm sets the scale

    def forward(
        self,
        pixel_values: Tensor,
        modality: str,
        return_class_embeds: bool = True,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        return_dict: bool = True,
    ) -> RetrievalOutput | tuple:
        """Encode B images of one modality; the arguments are those of `SplipModel.forward`.

        The class embeddings are the frozen text tower's, the same for every image: (1, C, D).
        """
        norms = self.layer_norms(check_modality(modality))
        embeddings = embed_patches(self.clip, pixel_values, interpolate_pos_encoding)  # (B, 1 + P, d_v)
        x = self._with_prompts(embeddings, modality)  # (B, 1 + P + K, d_v)
        output = run_vision(self.clip, x, norms, attention=self.attention, output_attentions=output_attentions)
        output = _without_prompts(output, embeddings.shape[1])
        class_embeds = None
        if return_class_embeds and self.config.class_names:
            class_embeds = self.frozen_class_embeds(modality)[None]  # (1, C, D)
        return retrieval_output(
            self.clip, norms, embeddings, output, class_embeds, output_hidden_states, output_attentions, return_dict
        )

    def _with_prompts(self, embeddings: Tensor, modality: str) -> Tensor:
        if not self.config.prompts:
            return embeddings
        own = cast(VisualPrompts, self.prompts["shared" if self.config.share_prompts else modality])
        prompts = own.tokens  # (K, d_v)
        return torch.cat([embeddings, prompts.to(embeddings.dtype).expand(len(embeddings), -1, -1)], dim=1)


def _without_prompts(output: TowerOutput, count: int) -> TowerOutput:
    """Drop the prompts' outputs; in attentions they come first among what is looked at, as in every model here."""
    return TowerOutput(
        output.last[:, :count],
        tuple(layer[:, :count] for layer in output.layers),
        tuple(
            torch.cat([rows[..., count:], rows[..., :count]], dim=-1)
            for rows in (weights[:, :, :count] for weights in output.attentions)
        ),
    )
