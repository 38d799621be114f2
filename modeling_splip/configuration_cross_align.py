"""Settings of the Cross-Modal Attention Alignment network (2024, arXiv 2407.00979)."""

from typing import ClassVar

from .configuration_retriever import RetrieverConfig


class CrossAlignConfig(RetrieverConfig):
    """Settings of a `CrossAlignModel`, besides those of every `RetrieverConfig`.

    Little more than the abstract of the paper is readable: two vision towers, a text tower, cross-attention between
    text and images, a global triplet loss and a local relation network. Everything else is our choice [O].

    Args:
        template: text of a class prompt; only the class embeddings of the output use it. [O]
        layer_norms: train the vision tower's LayerNorms, "vision", or "none". [O]
        share_layer_norms: one set for both modalities, or one for each: the two towers of the paper. [O] false
        peft: fields of a PEFT configuration that trains in the vision tower, such as LoRA. [O] none
    """

    model_type = "cross_align"
    choices: ClassVar = {"layer_norms": ("vision", "none")}

    layer_norms: str = "vision"
    share_layer_norms: bool = False
