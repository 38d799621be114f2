"""The Cross-Modal Attention Alignment network (2024, arXiv 2407.00979): what of it retrieval needs.

Two vision towers (one frozen CLIP, LayerNorms of their own) and the relation network. Descriptions and cross-attention
serve training only and live in the objective: at inference there is no text.

Symbols: x an image, Z its tokens in the shared space (1 + P, D), CLS first, f the embedding (D).
"""

import torch
from torch import Tensor
from transformers import CLIPModel

from .adapters import RelationNetwork
from .clip_backbone import embed_patches, project_image, run_vision
from .configuration_cross_align import CrossAlignConfig
from .configuration_retriever import check_modality
from .modeling_encoder import RetrievalOutput, retrieval_output
from .modeling_retriever import Retriever


class CrossAlignModel(Retriever):
    """The alignment network for B images of one modality a call.

    Rank by the embeddings; `relation` scores pairs of images by their tokens, to rank the first results again.
    """

    config_class = CrossAlignConfig
    base_model_prefix = "cross_align"
    title, arxiv = "Cross-Modal Attention Alignment (2024)", "2407.00979"

    def __init__(self, config: CrossAlignConfig):
        super().__init__(config)
        self.clip = CLIPModel(config.clip_config)
        if config.layer_norms == "vision":
            self.vision_adapters = self.build_vision_adapters(config.share_layer_norms)
        vision = config.clip_config.vision_config
        self.relation_network = RelationNetwork((vision.image_size // vision.patch_size) ** 2)
        self.post_init()
        self.freeze()

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
        output = run_vision(self.clip, embeddings, norms, attention=self.attention, output_attentions=output_attentions)
        class_embeds = None
        if return_class_embeds and self.config.class_names:
            class_embeds = self.frozen_class_embeds(modality)[None]  # (1, C, D)
        return retrieval_output(
            self.clip, norms, embeddings, output, class_embeds, output_hidden_states, output_attentions, return_dict
        )

    @torch.no_grad()
    def encode_tokens(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return the patches' shared tokens Z[1:] for `relation`: (B, P, D), unit norm, in float16 to be stored."""
        output = self(pixel_values, modality, return_class_embeds=False)
        return self.shared_tokens(output.tokens[:, 1:], modality).half()

    def shared_tokens(self, tokens: Tensor, modality: str) -> Tensor:
        """Return Z, (B, 1 + P, D), unit norm, of an output's `tokens`: last LayerNorm and projection, as f is made."""
        return project_image(self.clip, self.layer_norms(check_modality(modality))[-1], tokens)

    def relation(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return how well pairs match, (B,) in 0..1, of their patches' shared tokens Z[1:], (B, P, D) each."""
        return self.relation_network(sketch, photo)
