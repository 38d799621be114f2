"""Settings of SpLIP (ECCV 2024, arXiv 2407.04207) and of its folded encoder."""

from dataclasses import field
from typing import Any, ClassVar

from .configuration_retriever import MODALITIES, RetrievalConfig, RetrieverConfig

_SWITCH_OFF = "; switch a part off by its use_ field instead"


class SplipConfig(RetrieverConfig):
    """Settings of a `SplipModel`, besides those of every `RetrieverConfig`.

    Marks: [P] as the paper is reported by public notes, [R] what independent re-implementations agree on, [O] our
    choice, because no readable source says.

    Args:
        template: text of a class prompt with `{modality}` and `{class_name}`. [P]
        m: number of text prompts T, at least 1. [P] 4
        n: number of visual prompts V_ms a layer, at least 1. [P] 2
        bottleneck: hidden width of B_vt. [R] 256
        b_t_input: what B_t reads of an image: "mean", the mean over its patches [O], or "patches", all of them one
            behind the other [R, one]; this needs `conditioning` "image" and images of the base CLIP's size.
        b_v_input: what B_v reads at a time: "token", one token of the template [O], or "template", all of them one
            behind the other [R, one].
        template_sos: whether V_tg has a prompt of [SOS] too: four prompts of "[SOS] sketch of a", or three. The paper's
            text can be read both ways. [O] true
        w_mean: what counts once in the mean of W_l: "tokens", every token of every class [O], or "classes", so that a
            long name does not count more [O].
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
    choices: ClassVar = {
        "conditioning": ("image", "domain"),
        "layer_norms": ("both", "vision", "text", "none"),
        "b_t_input": ("mean", "patches"),
        "b_v_input": ("token", "template"),
        "w_mean": ("tokens", "classes"),
    }
    later: ClassVar[tuple[str, ...]] = (*RetrieverConfig.later, "b_t_input", "b_v_input", "template_sos", "w_mean")
    at_least: ClassVar = {
        "m": (1, _SWITCH_OFF),
        "n": (1, _SWITCH_OFF),
        "bottleneck": (1, _SWITCH_OFF),
        "prompt_depth": (1, "; switch prompts off by the use_ fields instead"),
    }

    template: str = "{modality} of a {class_name}"
    m: int = 4
    n: int = 2
    bottleneck: int = 256
    b_t_input: str = "mean"
    b_v_input: str = "token"
    template_sos: bool = True
    w_mean: str = "tokens"
    use_b_t: bool = True
    use_b_v: bool = True
    use_b_vt: bool = True
    layer_norms: str = "both"
    share_layer_norms: bool = True
    prompt_depth: int | None = None
    conditioning: str = "image"

    def _check_values(self) -> None:
        super()._check_values()
        if self.b_t_input == "patches" and self.conditioning == "domain":
            raise ValueError("b_t_input='patches' reads single images: set conditioning='image', or b_t_input='mean'.")


class SplipEncoderConfig(RetrievalConfig):
    """Settings of a `SplipEncoder`: a domain-conditioned `SplipModel` folded into a vision tower and constants.

    Args:
        clip_config: shape of the base CLIP; only its vision part is built.
        class_names: the seen classes of the model that was folded.
        prompt_counts: for each modality the number of prompt tokens in each vision layer.
        model_fingerprint: fingerprint of the model that was folded.
        base_model: name or path of its base CLIP; nothing is loaded from there.
        share_layer_norms: whether both modalities use the same LayerNorms.
    """

    model_type = "splip_encoder"
    of_weights: ClassVar = ("class_names", "prompt_counts", "model_fingerprint")

    prompt_counts: dict[str, list[int]] = field(default_factory=dict)
    model_fingerprint: str | None = None
    base_model: str | None = None
    share_layer_norms: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        none = [0] * self.clip_config.vision_config.num_hidden_layers
        self.prompt_counts = dict(self.prompt_counts or dict.fromkeys(MODALITIES, none))
