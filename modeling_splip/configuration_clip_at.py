"""Settings of CLIP-AT (CVPR 2023, arXiv 2303.13440)."""

from typing import ClassVar

from .configuration_retriever import RetrieverConfig


class ClipAtConfig(RetrieverConfig):
    """Settings of a `ClipAtModel`, besides those of every `RetrieverConfig`.

    Marks: [P] as the paper is reported by public notes, [C] as its released code does, [O] our choice.

    Args:
        template: text of a class prompt. [P] "a photo of a {class_name}"
        prompts: K, the number of visual prompts at the first layer; 0 for none. [P] 3
        share_prompts: the same visual prompts for sketches and photos. [P] false, true in fine-grained models
        layer_norms: which towers' LayerNorms are trained: "vision" [P], those of the image encoder; "both", another
            reading of the paper, which speaks of the entire CLIP; "text" or "none". Those of the text tower train by
            the class loss alone.
        share_layer_norms: the same LayerNorms for sketches and photos. [P] false, true in fine-grained models; [C] true
        peft: fields of a PEFT configuration that trains in the vision tower, such as LoRA. [O] none
    """

    model_type = "clip_at"
    choices: ClassVar = {"layer_norms": ("vision", "both", "text", "none")}
    at_least: ClassVar = {"prompts": (0, "")}

    prompts: int = 3
    share_prompts: bool = False
    layer_norms: str = "vision"
    share_layer_norms: bool = False
