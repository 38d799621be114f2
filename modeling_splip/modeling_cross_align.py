"""The Cross-Modal Attention Alignment network (2024, arXiv 2407.00979): the parts that retrieval needs.

These are two vision towers (one frozen CLIP with LayerNorms for each modality, or two with PEFT's adapters each) and
the relation network. Descriptions and cross-attention are used in training only and are part of the objective: there is
no text at inference.

Symbols: x an image, Z its tokens in the shared space (1 + P, D), CLS first, f the embedding (D).
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from .adapters import RelationNetwork
from .adapters_peft import PHOTO_TOWER, base_names
from .clip_backbone import Clip, project_image
from .configuration_cross_align import CrossAlignConfig
from .configuration_retriever import check_modality
from .modeling_retriever import Retriever


class VisionTower(NamedTuple):
    """A vision tower and the projection behind it, as `clip_backbone` takes them."""

    vision_model: nn.Module
    visual_projection: nn.Module


class CrossAlignModel(Retriever):
    """The alignment network for B images of one modality a call.

    Rank by the embeddings; `relation` scores pairs of images by their tokens, to rank the first results again.
    """

    title = "Cross-Modal Attention Alignment (2024)"
    arxiv = "2407.00979"
    config_class = CrossAlignConfig
    base_model_prefix = "cross_align"

    def __init__(self, config: CrossAlignConfig):
        super().__init__(config)
        self.clip = CLIPModel(config.clip_config)
        if config.layer_norms == "vision":
            self.vision_adapters = self.build_vision_adapters(config.share_layer_norms)
        vision = config.clip_config.vision_config
        self.relation_network = RelationNetwork((vision.image_size // vision.patch_size) ** 2)
        self.post_init()
        self.freeze()

    @classmethod
    def inject(cls, clip: CLIPModel, config: CrossAlignConfig) -> None:
        """Put the configuration's PEFT layers into a base CLIP, and into a second vision tower if they train apart."""
        super().inject(clip, config)
        if not config.share_peft:
            setattr(clip, PHOTO_TOWER, copy.deepcopy(clip.vision_model))

    def tower(self, modality: str) -> Clip:
        """Return what holds the vision tower and projection of this modality's images."""
        if modality == "photo" and hasattr(self.clip, PHOTO_TOWER):
            return VisionTower(getattr(self.clip, PHOTO_TOWER), self.clip.visual_projection)
        return self.clip

    def recorded_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the base CLIP's own tensors; where two vision towers no longer agree, those of both."""
        found = super().recorded_weights(state)
        if hasattr(self.clip, PHOTO_TOWER):
            for name, plain in base_names(self.clip).items():
                own = state[f"clip.{name}"]
                if not torch.equal(own, found[plain]):
                    found[f"{plain}, changed"] = own
        return found

    @torch.no_grad()
    def encode_tokens(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return the patches' shared tokens Z[1:] for `relation`: (B, P, D), unit norm, in float16 for storing."""
        output = self(pixel_values, modality, return_class_embeds=False, return_dict=True)
        return self.shared_tokens(output.tokens[:, 1:], modality).half()

    def shared_tokens(self, tokens: Tensor, modality: str) -> Tensor:
        """Return Z, (B, 1 + P, D), unit norm, from an output's `tokens`: last LayerNorm and projection, as for f."""
        check_modality(modality)
        return project_image(self.clip, self.layer_norms(modality)[-1], tokens)

    def relation(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return how well pairs match, (B,) in 0..1, of their patches' shared tokens Z[1:], (B, P, D) each."""
        return self.relation_network(sketch, photo)
