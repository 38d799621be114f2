"""Settings of CLIP-AT (CVPR 2023, arXiv 2303.13440)."""

from .configuration_retriever import RetrieverConfig

LAYER_NORMS = ("vision", "none")


class ClipAtConfig(RetrieverConfig):
    """Settings of a `ClipAtModel`, besides those of every `RetrieverConfig`.

    Marks: [P] as the paper is reported by public notes, [C] as its released code does, [O] our choice.

    Args:
        template: text of a class prompt. [P] "a photo of a {class_name}"
        prompts: K, visual prompts at the first layer, at least 1, or 0 for none. [P] 3
        share_prompts: the same prompts for sketches and photos. [P] false, true in fine-grained models
        layer_norms: train the vision tower's LayerNorms, "vision" [P], or "none".
        share_layer_norms: the same LayerNorms for sketches and photos. [P] false, true in fine-grained models; [C] true
        peft: fields of a PEFT configuration that trains in the vision tower, such as LoRA. [O] none
    """

    model_type = "clip_at"

    def __init__(
        self,
        template: str = "a photo of a {class_name}",
        prompts: int = 3,
        share_prompts: bool = False,
        layer_norms: str = "vision",
        share_layer_norms: bool = False,
        **kwargs,
    ):
        if prompts < 0:
            raise ValueError(f"prompts must be at least 0, got {prompts}.")
        if layer_norms not in LAYER_NORMS:
            raise ValueError(f"layer_norms must be one of {LAYER_NORMS}, got {layer_norms!r}.")
        self.prompts = prompts
        self.share_prompts = share_prompts
        self.layer_norms = layer_norms
        self.share_layer_norms = share_layer_norms
        super().__init__(template=template, **kwargs)
