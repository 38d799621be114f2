"""Settings of the Cross-Modal Attention Alignment network (2024, arXiv 2407.00979)."""

from typing import ClassVar

from .configuration_retriever import RetrieverConfig


class CrossAlignConfig(RetrieverConfig):
    """Settings of a `CrossAlignModel`, besides those of every `RetrieverConfig`.

    Little more than the abstract of the paper is readable: two vision towers, a text tower, cross-attention between
    text and images, a global triplet loss and a local relation network. Everything else is our choice [O]. One frozen
    CLIP stands for both towers, and what trains in it is separate for sketches and photos.

    Args:
        template: text of a class prompt; only the class embeddings of the output use it. [O]
        layer_norms: train the vision tower's LayerNorms, "vision", or "none". [O]
        share_layer_norms: one set for both modalities, or one for each: the two towers of the paper. [O] false
        peft: fields of a PEFT configuration that trains in the vision tower, such as LoRA. [O] none
        share_peft: PEFT's adapters are the same for both modalities; otherwise sketches and photos have a vision tower
            with adapters each, which trains apart, as the paper's two. [O] true
    """

    model_type = "cross_align"
    choices: ClassVar = {"layer_norms": ("vision", "none")}
    later: ClassVar[tuple[str, ...]] = (*RetrieverConfig.later, "share_peft")

    layer_norms: str = "vision"
    share_layer_norms: bool = False
    share_peft: bool = True
