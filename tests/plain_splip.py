"""SpLIP written out slowly from its equations, on the stock CLIP modules: what the fast model is compared with.

Every class prompt is a full sentence of its own through stock `CLIPEncoderLayer`s with a causal mask; vision prompts
are inserted before every layer and dropped after it; the trained LayerNorms stand in the towers' own places.
"""

import copy
import math

import torch
from tiny import CLASSES, byte_tokenizer
from torch import Tensor
from torch.nn import functional as F

from modeling_splip.configuration_retriever import MODALITIES
from modeling_splip.modeling_splip import SplipModel


class PlainSplip:
    """A deep copy of a model, computed the plain way; `self.model` holds the copy's parameters and gradients."""

    def __init__(self, model: SplipModel, attention: str):
        self.model = copy.deepcopy(model)
        self.config = self.model.config
        self.clip = self.model.clip
        self.clip.set_attn_implementation(attention)
        self.tokenizer = byte_tokenizer()

    def __call__(self, pixels: Tensor, modality: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings (B, D), class embeddings (B, C, D) and the mean of W_l, (L_t, B, d_t)."""
        self.swap_norms(modality)
        embeddings = self.clip.vision_model.embeddings(pixels)  # (B, 1 + P, d_v)
        prompts = self.text_prompts(embeddings[:, 1:], modality)
        outputs, classes = self.text(prompts, modality, len(pixels))
        if self.config.w_mean == "classes":
            means = torch.stack([torch.stack([c.mean(dim=1) for c in layer]).mean(dim=0) for layer in outputs])
        else:
            means = torch.stack([torch.cat(layer, dim=1).mean(dim=1) for layer in outputs])
        return self.vision(embeddings, means, modality), classes, means

    def swap_norms(self, modality: str) -> None:
        """Put the trained LayerNorms of this modality into the towers."""
        config = self.config
        if config.layer_norms in ("both", "vision"):
            norms = iter(self.model.vision_adapters["shared" if config.share_layer_norms else modality])
            vision = self.clip.vision_model
            vision.pre_layrnorm = next(norms)
            for layer in vision.encoder.layers:
                layer.layer_norm1, layer.layer_norm2 = next(norms), next(norms)
            vision.post_layernorm = next(norms)
        if config.layer_norms in ("both", "text"):
            norms = iter(self.model.text_adapter)
            for layer in self.clip.text_model.encoder.layers:
                layer.layer_norm1, layer.layer_norm2 = next(norms), next(norms)
            self.clip.text_model.final_layer_norm = next(norms)

    def text_prompts(self, patches: Tensor, modality: str) -> Tensor | None:
        """T = B_t(E_0): (B, m, d_t)."""
        if not self.config.use_b_t:
            return None
        mean = patches.mean(dim=1)  # (B, d_v)
        if self.config.b_t_input == "patches":
            mean = torch.cat([patches[:, i] for i in range(patches.shape[1])], dim=1)  # (B, P d_v)
        if self.config.conditioning == "domain":
            mean = self.model.domain_mean[MODALITIES.index(modality)].expand(len(patches), -1)
        return self.model.b_t.layers(mean).reshape(len(patches), self.config.m, -1)

    def text(self, prompts: Tensor | None, modality: str, batch: int) -> tuple[list[list[Tensor]], Tensor]:
        """Return W_l, for every layer and class (B, J_c, d_t), and F_t(c | x), (B, C, D)."""
        tower = self.clip.text_model
        m = 0 if prompts is None else prompts.shape[1]
        depth = len(tower.encoder.layers) if self.config.prompt_depth is None else self.config.prompt_depth
        outputs: list[list[Tensor]] = [[] for _ in tower.encoder.layers]
        classes = []
        for name in CLASSES:
            sentence = torch.tensor(self.tokenizer(f"{modality} of a {name}")["input_ids"])  # SOS ... EOS
            words = tower.embeddings.token_embedding(sentence).expand(batch, -1, -1)
            room = words.new_zeros(batch, m, words.shape[2])
            x = tower.embeddings(inputs_embeds=torch.cat([words[:, :1], room, words[:, 1:]], dim=1))
            mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)[None, None]
            for index, layer in enumerate(tower.encoder.layers):
                if prompts is not None and index < depth:
                    x = torch.cat([x[:, :1], prompts, x[:, 1 + m :]], dim=1)
                x = layer(x, mask)
                outputs[index].append(torch.cat([x[:, :1], x[:, 1 + m :]], dim=1))
            classes.append(F.normalize(self.clip.text_projection(tower.final_layer_norm(x[:, -1])), dim=-1))
        return outputs, torch.stack(classes, dim=1)

    def vision(self, embeddings: Tensor, means: Tensor, modality: str) -> Tensor:
        """Return f, (B, D)."""
        tower = self.clip.vision_model
        l_v, l_t = len(tower.encoder.layers), len(means)
        depth = l_v if self.config.prompt_depth is None else self.config.prompt_depth
        batch = len(embeddings)
        x = tower.pre_layrnorm(embeddings)
        for number, layer in enumerate(tower.encoder.layers, start=1):
            inserted = x[:, :0]
            if self.config.use_b_v and number <= depth:
                ids = torch.tensor(self.tokenizer(f"{modality} of a")["input_ids"][:-1])
                words = self.clip.text_model.embeddings.token_embedding(ids)
                words = words if self.config.template_sos else words[1:]
                inserted = torch.cat([inserted, self.template_prompts(words).expand(batch, -1, -1)], dim=1)
            if self.config.use_b_vt and number <= depth:
                source = means[math.ceil(number * l_t / l_v) - 1]
                mapped = self.model.b_vt.layers(source).reshape(batch, self.config.n, -1)
                inserted = torch.cat([inserted, mapped], dim=1)
            x = layer(torch.cat([x[:, :1], inserted, x[:, 1:]], dim=1), None)
            x = torch.cat([x[:, :1], x[:, 1 + inserted.shape[1] :]], dim=1)
        return F.normalize(self.clip.visual_projection(tower.post_layernorm(x[:, 0])), dim=-1)

    def template_prompts(self, words: Tensor) -> Tensor:
        """V_tg of the template's tokens, (q, d_v)."""
        layer = self.model.b_v.layer
        if self.config.b_v_input == "token":
            return layer(words)
        d_t, d_v = words.shape[1], self.clip.vision_model.config.hidden_size
        # The rows and columns of the matrix that belong to tokens which are there.
        return torch.stack(
            [
                sum(
                    layer.weight[i * d_v : (i + 1) * d_v, j * d_t : (j + 1) * d_t] @ words[j] for j in range(len(words))
                )
                + layer.bias[i * d_v : (i + 1) * d_v]
                for i in range(len(words))
            ]
        )


def build(base: str, **settings) -> SplipModel:
    """A model whose trained parts are far from their start, so that leaving one out cannot go unnoticed."""
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = SplipModel.from_clip(base, CLASSES, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if model.config.conditioning == "domain":
            size = model.config.clip_config.vision_config.image_size
            for modality in MODALITIES:
                images = torch.randn(8, 3, size, size, generator=generator)
                model.set_domain_mean(modality, model.mean_patch(images).mean(dim=0))
    return model


def differences(model: SplipModel, pixels: Tensor, modality: str) -> dict[str, float]:
    """Largest differences from the plain version; gradients relative to each tensor's largest entry or 0.001."""
    # Stock eager attention takes its softmax in float32, so that float64 is compared with stock sdpa.
    wide = model.dtype == torch.float64
    plain = PlainSplip(model, "sdpa" if wide else model.config._attn_implementation)
    model.zero_grad()
    output = model(pixels, modality)
    embeds, classes, means = plain(pixels, modality)
    own_means, _ = model._text_pass(_prompts(model, pixels, modality), modality)
    generator = torch.Generator().manual_seed(3)
    for found in ((output.embeds, output.class_embeds), (embeds, classes)):
        generator.manual_seed(3)
        draws = [torch.randn(shape, generator=generator) for shape in (embeds.shape, classes.shape)]
        sum((part * draw).sum() for part, draw in zip(found, draws, strict=True)).backward()
    return {
        "embeds": float((output.embeds - embeds).detach().abs().max()),
        "class_embeds": float((output.class_embeds - classes).detach().abs().max()),
        "means": float((own_means - means).detach().abs().max()),
        "gradients": _gradient_difference(model, plain.model),
    }


def _prompts(model: SplipModel, pixels: Tensor, modality: str) -> Tensor | None:
    return model._text_prompts(model.clip.vision_model.embeddings(pixels), modality)


def _gradient_difference(model: SplipModel, plain: SplipModel) -> float:
    expected = {id(parameter): parameter.grad for parameter in plain.parameters()}
    names = dict(plain.named_parameters(remove_duplicate=False))
    worst = 0.0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own, other = parameter.grad, expected[id(names[name])]
        assert (own is None) == (other is None), f"{name}: gradient in one version only"
        if own is not None:
            worst = max(worst, float((own - other).abs().max() / other.abs().max().clamp(min=1e-3)))
    return worst
