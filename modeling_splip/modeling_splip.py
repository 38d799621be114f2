"""SpLIP (ECCV 2024, arXiv 2407.04207): a frozen CLIP whose towers give each other prompts, and whose LayerNorms train.

Symbols: x an image of modality delta, E_0 its patch embeddings (P, d_v), T the m text prompts, W_l the outputs of text
layer l, V_tg and V_ms the visual prompts, f the embedding (D), F_t(c | x) the embedding of class c, C seen classes.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, initialization

from .adapters import LayerNormAdapter, MultimodalPromptMapper, TemplatePromptMapper, TextPromptMapper
from .class_prompts import (
    constant_ids,
    constant_prompts,
    embed_tokens,
    project_text,
    prompt_key_values,
    run_text,
    text_norms,
    text_positions,
)
from .clip_backbone import KeyValue, LayerNorms, dimensions, embed_patches, run_device
from .configuration_retriever import MODALITIES, check_modality
from .configuration_splip import SplipConfig
from .modeling_base import RetrievalModel
from .modeling_retriever import Retriever
from .modeling_splip_encoder import SearchEncoder, SplipEncoder


class SplipModel(Retriever):
    """SpLIP for B images of one modality a call.

    `model(pixel_values=, modality=)` returns a `RetrievalOutput`; `model.encode(pixel_values, modality)` the embeddings
    alone. With all parts switched off it is plain CLIP.
    """

    title = "SpLIP (ECCV 2024)"
    arxiv = "2407.04207"
    config_class = SplipConfig
    base_model_prefix = "splip"

    def __init__(self, config: SplipConfig):
        super().__init__(config)
        d_v, d_t, _, l_t = dimensions(config.clip_config)
        self.clip = CLIPModel(config.clip_config)
        if (config.use_b_t or config.use_b_v or config.use_b_vt) and not config.class_names:
            raise ValueError("class_names is empty, but SpLIP's prompts need the seen classes: pass at least one name.")
        if config.use_b_t:
            vision = config.clip_config.vision_config
            read = (vision.image_size // vision.patch_size) ** 2 if config.b_t_input == "patches" else 1
            self.b_t = TextPromptMapper(read * d_v, d_t, config.m)
        if config.use_b_v:
            whole = config.b_v_input == "template"
            together = max(len(self._template_ids(modality)) for modality in MODALITIES) if whole else 1
            self.b_v = TemplatePromptMapper(d_t, d_v, together)
        if config.use_b_vt:
            self.b_vt = MultimodalPromptMapper(d_t, d_v, config.n, config.bottleneck)
        if config.layer_norms in ("both", "vision"):
            self.vision_adapters = self.build_vision_adapters(config.share_layer_norms)
        if config.layer_norms in ("both", "text"):
            self.text_adapter = LayerNormAdapter(2 * l_t + 1, d_t, config.clip_config.text_config.layer_norm_eps)
        if config.conditioning == "domain":
            self.domain_mean = nn.Buffer(torch.zeros(len(MODALITIES), d_v))
            self._means_seen: dict[str, tuple[int, int]] = {}
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SplipModel) and module.config.conditioning == "domain":
            initialization.zeros_(module.domain_mean)

    @classmethod
    def class_prompt_settings(cls, tokenizer: Any, class_names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
        """Return the token ids of the class prompts as configuration fields.

        Raises:
            ValueError: if the template does not hold the modality and then the class name, or a name cannot be used.
        """
        template = settings.get("template", cls.config_class.defaults()["template"])
        before, found, _ = template.partition("{class_name}")
        if not found or "{modality}" not in before:
            found = json.dumps(template)
            raise ValueError(f"template must hold {{modality}} and after it {{class_name}}, got {found}.")
        return super().class_prompt_settings(tokenizer, class_names, settings)

    @property
    def text_prompt_count(self) -> int:
        """How many learned tokens each class prompt holds besides its own."""
        return self.config.m * self.config.use_b_t

    def start_from_clip(self) -> None:
        """Start the LayerNorm adapters of both towers from the base CLIP's own weights."""
        super().start_from_clip()
        if self.config.layer_norms in ("both", "text"):
            self.text_adapter.copy_from(text_norms(self.clip))

    def condition(
        self, embeddings: Tensor, modality: str, return_class_embeds: bool
    ) -> tuple[list[KeyValue | None], Tensor | None]:
        """Return each vision layer's prompts [V_tg, V_ms,l] as keys and values, and F_t(c | x), (B or 1, C, D)."""
        config = self.config
        means, class_embeds = None, None
        if config.use_b_vt or (return_class_embeds and config.class_names):
            text_prompts = self._text_prompts(embeddings, modality)  # (B or 1, m, d_t)
            means, eos = self._text_pass(text_prompts, modality)
            class_embeds = self._project_classes(eos) if return_class_embeds else None  # (B or 1, C, D)
        visual_prompts = self._visual_prompts(means, modality)
        return prompt_key_values(self.clip, self.layer_norms(modality), visual_prompts), class_embeds

    def class_embeds(self, modality: str) -> Tensor:
        """Return F_t(c | delta) of the seen classes if it does not depend on the image: (C, D), unit norm.

        Raises:
            ValueError: with image conditioning, where every image has class embeddings of its own.
        """
        check_modality(modality)
        if self.config.use_b_t and self.config.conditioning == "image":
            raise ValueError(
                "With conditioning='image' class embeddings depend on the image: read them from the output."
            )
        _, eos = self._text_pass(self._text_prompts(None, modality), modality)
        return self._project_classes(eos)[0]

    @property
    def stores_image_means(self) -> bool:
        """Whether the model stores the mean of E_0 over the training images of each modality: domain conditioning."""
        return self.config.conditioning == "domain"

    def mean_patch(self, pixel_values: Tensor) -> Tensor:
        """Return the mean of E_0 over the patches of each image: (B, d_v); frozen, so training does not change it."""
        return embed_patches(self.clip, pixel_values)[:, 1:].mean(dim=1)

    @torch.no_grad()
    def set_domain_mean(self, modality: str, mean: Tensor) -> None:
        """Store the mean of E_0 over the patches of all training images of one modality, (d_v,).

        Raises:
            ValueError: without domain conditioning, or if the modality is unknown or the mean has another shape.
        """
        check_modality(modality)
        if self.config.conditioning != "domain":
            raise ValueError(f"Only conditioning='domain' takes a mean, and this is '{self.config.conditioning}'.")
        if mean.shape != self.domain_mean.shape[1:]:
            raise ValueError(f"mean must be ({self.domain_mean.shape[1]},), the vision width, got {tuple(mean.shape)}.")
        self.domain_mean[MODALITIES.index(modality)] = mean

    def fold(self) -> "SplipEncoder":
        """Return a new model with the same embeddings that consists of a vision tower and constants only.

        Raises:
            ValueError: with image conditioning, where every image has prompts of its own.
        """
        if self.config.use_b_t and self.config.use_b_vt and self.config.conditioning == "image":
            raise ValueError("fold() needs conditioning='domain': with 'image' every image has prompts of its own.")
        if any(parameter.is_meta for parameter in self.parameters()):
            raise ValueError("fold() needs all weights in memory, and some are offloaded: load the model without that.")
        return SplipEncoder.from_model(self)

    def for_search(self) -> RetrievalModel:
        """Return a folded form that keeps the text tower, with domain conditioning; otherwise the model itself.

        A model that Accelerate has offloaded stays as it is, since it does not fit into memory a second time.
        """
        offloaded = any(parameter.is_meta for parameter in self.parameters())
        return self if offloaded or self.config.conditioning != "domain" else SearchEncoder.from_model(self)

    @torch.no_grad()
    def visual_key_values(self, modality: str) -> list[KeyValue | None]:
        """Return the constant keys and values of each layer's visual prompts: (2, K, 1, d_v), or None."""
        means = None
        if self.config.use_b_vt:
            means, _ = self._text_pass(self._text_prompts(None, modality), modality)
        return prompt_key_values(self.clip, self.layer_norms(modality), self._visual_prompts(means, modality))

    def _text_prompts(self, embeddings: Tensor | None, modality: str) -> Tensor | None:
        """Return T = B_t(E_0): (B, m, d_t) from each image, or (1, m, d_t) from the modality's mean."""
        if not self.config.use_b_t:
            return None
        if self.config.conditioning == "image" and embeddings is not None:
            return self.b_t(self._read_patches(embeddings[:, 1:]))
        if not torch.compiler.is_compiling():
            self._check_domain_mean(modality)
        return self.b_t(self.domain_mean[MODALITIES.index(modality)][None])

    def _check_domain_mean(self, modality: str) -> None:
        """Raise ValueError if the mean is not set; it is read once for each change, since that makes a GPU wait."""
        means = self.domain_mean
        state = means.data_ptr(), 0 if means.is_inference() else means._version
        if self._means_seen.get(modality) == state:
            return
        if not means[MODALITIES.index(modality)].any():
            raise ValueError(
                f"conditioning='domain' needs the mean of E_0 over the {modality} images of training: call "
                f"set_domain_mean('{modality}', mean) before encoding."
            )
        self._means_seen[modality] = state

    def _read_patches(self, patches: Tensor) -> Tensor:
        """Return what B_t reads of E_0, (B, P, d_v): (B, d_v), or all patches, (B, P d_v)."""
        if self.config.b_t_input == "mean":
            return patches.mean(dim=1)
        vision = self.config.clip_config.vision_config
        count = (vision.image_size // vision.patch_size) ** 2
        if patches.shape[1] != count:
            raise ValueError(
                f"b_t_input='patches' reads {count} patches an image, got {patches.shape[1]}: use images of the base "
                "CLIP's size."
            )
        return patches.flatten(1)

    def _template_ids(self, modality: str) -> list[int]:
        """Return the ids of the template's tokens that V_tg is made of."""
        return self.config.prefix_token_ids[modality][0 if self.config.template_sos else 1 :]

    def _text_pass(self, text_prompts: Tensor | None, modality: str) -> tuple[Tensor, Tensor]:
        """Run the class prompts; return the means of W_l, (L_t, B or 1, d_t), and the EOS outputs, (B or 1, C, d_t)."""
        config = self.config
        m = 0 if text_prompts is None else config.m
        device = run_device(self.clip)
        prefix, by_class = config.prefix_token_ids[modality], config.w_mean == "classes"
        dtype = self.clip.text_model.dtype
        packed = constant_prompts(prefix, config.class_token_ids, m, device, dtype, by_class)
        x = embed_tokens(self.clip, packed.token_ids) + text_positions(self.clip, packed.positions)  # (G, S, d_t)
        batch, groups = 1 if text_prompts is None else text_prompts.shape[0], x.shape[0]
        x = x[:, None].expand(-1, batch, -1, -1).flatten(0, 1)  # (G B, S, d_t)
        if text_prompts is not None:
            text_prompts = text_prompts.expand(groups, -1, -1, -1).flatten(0, 1)  # (G B, m, d_t)
        norms, depth = self._text_norms(), config.prompt_depth
        output = run_text(self.clip, x, norms, packed.mask, text_prompts, depth, self.attention)
        weights = packed.weights.to(output.last.dtype).unflatten(0, (groups, 1, -1))  # (G, 1, S)
        # Layers compute on (S, G B, d_t). So these are views, and nothing of that size is copied.
        states = [layer.unflatten(0, (groups, batch)).permute(0, 2, 1, 3) for layer in output.layers]  # (G, S, B, d_t)
        means = torch.stack([weights @ each.flatten(2) for each in states]).sum(dim=1)  # (L_t, 1, B d_t)
        length = states[-1].shape[1]
        eos = states[-1][packed.eos // length, packed.eos % length]  # (C, B, d_t)
        return means.unflatten(2, (batch, x.shape[-1])).squeeze(1), eos.transpose(0, 1)

    def _project_classes(self, eos: Tensor) -> Tensor:
        """Return F_t(c | x) from the EOS outputs: (B or 1, C, D), unit norm."""
        return project_text(self.clip, self._text_norms()[-1], eos)

    def _text_norms(self) -> LayerNorms:
        return self.text_adapter if self.config.layer_norms in ("both", "text") else text_norms(self.clip)

    def _visual_prompts(self, means: Tensor | None, modality: str) -> list[Tensor | None]:
        """Return [V_tg, V_ms,l], (B or 1, K, d_v), for every vision layer l; None for layers without prompts."""
        config = self.config
        _, _, l_v, l_t = dimensions(config.clip_config)
        depth = l_v if config.prompt_depth is None else config.prompt_depth
        count = min(depth, l_v)
        parts: list[Tensor] = []  # (layers with prompts, B or 1, k, d_v) each
        if config.use_b_v and count:
            (tokens,) = constant_ids(self._template_ids(modality), run_device(self.clip))
            template = self.b_v(embed_tokens(self.clip, tokens))  # V_tg, (q, d_v)
            parts.append(template.expand(count, 1, -1, -1))
        if config.use_b_vt and count:
            mapped = self.b_vt(means)  # (L_t, B or 1, n, d_v)
            chosen = [math.ceil((layer + 1) * l_t / l_v) - 1 for layer in range(count)]
            own = chosen == list(range(count))
            parts.append(mapped[:count] if own else torch.stack([mapped[layer] for layer in chosen]))
        if not parts:
            return [None] * l_v
        batch = next((part.shape[1] for part in parts if part.shape[1] != 1), 1)  # of no images too
        prompts = torch.cat([part.expand(-1, batch, -1, -1) for part in parts], dim=2)  # (count, B or 1, K, d_v)
        return [*prompts.unbind(), *[None] * (l_v - count)]
