"""The Cross-Modal Attention Alignment network (2024, arXiv 2407.00979): the parts that retrieval needs.

These are two vision towers (one frozen CLIP with LayerNorms for each modality) and the relation network. Descriptions
and cross-attention are used in training only and are part of the objective: there is no text at inference.

Symbols: x an image, Z its tokens in the shared space (1 + P, D), CLS first, f the embedding (D).
"""

import torch
from torch import Tensor
from transformers import CLIPModel

from .adapters import RelationNetwork
from .clip_backbone import project_image
from .configuration_cross_align import CrossAlignConfig
from .configuration_retriever import check_modality
from .modeling_retriever import Retriever


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
