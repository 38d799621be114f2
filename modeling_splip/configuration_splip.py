"""Settings of SpLIP (ECCV 2024, arXiv 2407.04207) and of its folded encoder."""

from typing import Any

from transformers import CLIPConfig
from transformers.configuration_utils import PretrainedConfig

from .configuration_retriever import RetrieverConfig

CONDITIONINGS = ("image", "domain")
LAYER_NORMS = ("both", "vision", "text", "none")


class SplipConfig(RetrieverConfig):
    """Settings of a `SplipModel`, besides those of every `RetrieverConfig`.

    Marks: [P] as the paper is reported by public notes, [R] what independent re-implementations agree on, [O] our
    choice, because no readable source says.

    Args:
        template: text of a class prompt with `{modality}` and `{class_name}`. [P]
        m: number of text prompts T, at least 1. [P] 4
        n: number of visual prompts V_ms a layer, at least 1. [P] 2
        bottleneck: hidden width of B_vt. [R] 256
        use_b_t: whether images prompt the text tower (B_t). [P]
        use_b_v: whether the template prompts the vision tower (B_v). [P]
        use_b_vt: whether text outputs prompt the vision tower (B_vt). [P]
        layer_norms: which towers' LayerNorms are trained: "both" [P], "vision", "text" or "none".
        share_layer_norms: one set of vision LayerNorms for both modalities, or one for each. [O]
        prompt_depth: in how many layers of each tower, from the first, prompts are set; None for all. [P] all
        conditioning: "image", T from each image, to the letter [P]; "domain", T from the mean of E_0 over the
            training images of the modality, so that all prompts are constants at inference. [O]
        peft: fields of a PEFT configuration that trains in the vision tower, such as LoRA. [O] none
    """

    model_type = "splip"

    def __init__(
        self,
        template: str = "{modality} of a {class_name}",
        m: int = 4,
        n: int = 2,
        bottleneck: int = 256,
        use_b_t: bool = True,
        use_b_v: bool = True,
        use_b_vt: bool = True,
        layer_norms: str = "both",
        share_layer_norms: bool = True,
        prompt_depth: int | None = None,
        conditioning: str = "image",
        **kwargs,
    ):
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning must be one of {CONDITIONINGS}, got {conditioning!r}.")
        if layer_norms not in LAYER_NORMS:
            raise ValueError(f"layer_norms must be one of {LAYER_NORMS}, got {layer_norms!r}.")
        for name, value in {"m": m, "n": n, "bottleneck": bottleneck}.items():
            if not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, got {value!r}.")
            if value < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {value}; switch a part off by its use_ field instead."
                )
        if prompt_depth is not None and prompt_depth < 1:
            raise ValueError(
                f"prompt_depth must be at least 1, or None for all layers, got {prompt_depth}; switch prompts off by "
                "the use_ fields instead."
            )
        self.m = m
        self.n = n
        self.bottleneck = bottleneck
        self.use_b_t = use_b_t
        self.use_b_v = use_b_v
        self.use_b_vt = use_b_vt
        self.layer_norms = layer_norms
        self.share_layer_norms = share_layer_norms
        self.prompt_depth = prompt_depth
        self.conditioning = conditioning
        super().__init__(template=template, **kwargs)


class SplipEncoderConfig(PretrainedConfig):
    """Settings of a `SplipEncoder`: a domain-conditioned `SplipModel` folded into a vision tower and constants.

    Args:
        clip_config: shape of the base CLIP; only its vision part is built.
        prompt_counts: for each modality the number of prompt tokens in each vision layer.
        class_names: the seen classes of the model that was folded.
        model_fingerprint: fingerprint of the model that was folded.
        share_layer_norms: whether both modalities use the same LayerNorms.
    """

    model_type = "splip_encoder"

    def __init__(
        self,
        clip_config: CLIPConfig | dict[str, Any] | None = None,
        prompt_counts: dict[str, list[int]] | None = None,
        class_names: list[str] | None = None,
        model_fingerprint: str | None = None,
        share_layer_norms: bool = True,
        **kwargs,
    ):
        self.clip_config = CLIPConfig(**clip_config) if isinstance(clip_config, dict) else clip_config or CLIPConfig()
        none = [0] * self.clip_config.vision_config.num_hidden_layers
        self.prompt_counts = dict(prompt_counts or {"sketch": none, "photo": none})
        self.class_names = list(class_names or [])
        self.model_fingerprint = model_fingerprint
        self.share_layer_norms = share_layer_norms
        super().__init__(**kwargs)

    @property
    def projection_dim(self) -> int:
        """D, the width of an embedding."""
        return self.clip_config.projection_dim
