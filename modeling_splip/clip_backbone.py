"""CLIP, run layer by layer: with `attention`, the only file that knows CLIP's layers.

Nothing here holds state. LayerNorms and prompts are arguments, so that several adapters can share one frozen CLIP, and
calls from several threads cannot disturb each other.

Layers compute on the sequence first, (N, B, d): what is put in front of a sequence is then one block of memory, and so
are keys and values behind those of prompts. What callers give and get has the batch first.

Shapes: B images, P patches, d_v and d_t the vision and text widths, L_v and L_t their layers, D the projection.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig

from .attention import KeyValue, KeyValueRoom, attend, linear_dtype

# A CLIPModel, or another module that holds its vision tower. Torch types a module's parts as "Tensor | Module".
Clip = Any
# A tower's LayerNorms in its order: a list, or a LayerNormAdapter, whose items torch types as Module.
LayerNorms = Any


class TowerOutput(NamedTuple):
    """The outputs of a tower's layers.

    Attributes:
        first: (B, N, d) input of the first layer.
        last: (B, N, d) output of the last layer, before the last LayerNorm.
        layers: L tensors (B, N, d), every layer's output.
        attentions: L tensors (B, heads, N, K + N); empty if they were not asked for.
    """

    first: Tensor
    last: Tensor
    layers: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]


def dimensions(config: CLIPConfig) -> tuple[int, int, int, int]:
    """Return (d_v, d_t, L_v, L_t)."""
    vision, text = config.vision_config, config.text_config
    return vision.hidden_size, text.hidden_size, vision.num_hidden_layers, text.num_hidden_layers


def run_device(clip: Clip) -> torch.device:
    """Return the device that CLIP computes on, also where Accelerate has offloaded its weights."""
    scale = clip.logit_scale
    return torch.device(clip._hf_hook.execution_device) if scale.is_meta and hasattr(clip, "_hf_hook") else scale.device


def vision_norms(clip: Clip) -> list[nn.LayerNorm]:
    """Return the vision tower's 2 L_v + 2 LayerNorms: the one before the layers, two a layer, the one after them."""
    tower = clip.vision_model
    inner = [norm for layer in tower.encoder.layers for norm in (layer.layer_norm1, layer.layer_norm2)]
    return [tower.pre_layrnorm, *inner, tower.post_layernorm]


def text_norms(clip: Clip) -> list[nn.LayerNorm]:
    """Return the text tower's 2 L_t + 1 LayerNorms: two a layer, and the one after them."""
    tower = clip.text_model
    inner = [norm for layer in tower.encoder.layers for norm in (layer.layer_norm1, layer.layer_norm2)]
    return [*inner, tower.final_layer_norm]


def embed_patches(clip: Clip, pixel_values: Tensor, interpolate: bool = False) -> Tensor:
    """Return [CLS, patches] with positions, before the first LayerNorm: (B, 1 + P, d_v). The patches are E_0.

    Args:
        pixel_values: (B, 3, H, W), normalised as the processor does.
        interpolate: take images of another size than CLIP's, with the position embeddings interpolated; H and W must
            be multiples of the patch size.

    Raises:
        ValueError: if the images have another shape or size.
    """
    config = clip.vision_model.config
    if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels:
        raise ValueError(
            f"pixel_values must be (batch, {config.num_channels}, height, width), got {tuple(pixel_values.shape)}."
        )
    if not interpolate and tuple(pixel_values.shape[2:]) != (config.image_size, config.image_size):
        raise ValueError(
            f"pixel_values are {pixel_values.shape[2]} x {pixel_values.shape[3]}, but this CLIP takes image_size="
            f"{config.image_size}: use its processor, or pass interpolate_pos_encoding=True."
        )
    if interpolate and any(side % config.patch_size for side in pixel_values.shape[2:]):
        raise ValueError(
            f"pixel_values are {pixel_values.shape[2]} x {pixel_values.shape[3]}, but interpolate_pos_encoding needs "
            f"multiples of patch_size={config.patch_size}: resize the images."
        )
    return clip.vision_model.embeddings(pixel_values, interpolate_pos_encoding=interpolate)


def embed_tokens(clip: Clip, token_ids: Tensor) -> Tensor:
    """Return token embeddings without positions: (..., d_t)."""
    return clip.text_model.embeddings.token_embedding(token_ids)


def text_positions(clip: Clip, positions: Tensor) -> Tensor:
    """Return the text tower's position embeddings: (..., d_t)."""
    return clip.text_model.embeddings.position_embedding(positions)


def prompt_key_values(clip: Clip, norms: LayerNorms, visual_prompts: Sequence[Tensor | None]) -> list[KeyValue | None]:
    """Return the keys and values of each vision layer's prompts, (2, K, B or 1, d_v); None where it has no prompts.

    The layer's output at a prompt is dropped. So the layer's first LayerNorm and its key and value projections are all
    that ever read a prompt.

    Args:
        norms: the vision LayerNorms in the order of `vision_norms`.
        visual_prompts: for each layer (B or 1, K, d_v) or None.
    """
    pairs: list[Tensor] = []
    for index, (layer, prompt) in enumerate(zip(clip.vision_model.encoder.layers, visual_prompts, strict=True)):
        if prompt is not None:
            normed = norms[1 + 2 * index](prompt.transpose(0, 1))  # (K, B or 1, d_v)
            pairs += [layer.self_attn.k_proj(normed), layer.self_attn.v_proj(normed)]
    found = iter(torch.stack(pairs).split(2) if pairs else ())  # (2, K, B or 1, d_v) each
    return [None if prompt is None else next(found) for prompt in visual_prompts]


def run_vision(
    clip: Clip,
    embeddings: Tensor,
    norms: LayerNorms,
    key_values: Sequence[KeyValue | None] | None = None,
    attention: str = "sdpa",
    output_attentions: bool = False,
) -> TowerOutput:
    """Run the vision layers over [CLS, patches]; each layer also attends to its own prompts.

    Args:
        embeddings: (B, 1 + P, d_v) of `embed_patches`.
        norms: 2 L_v + 2 LayerNorms in the order of `vision_norms`.
        key_values: each layer's prompts, from `prompt_key_values`; None for plain CLIP.
        attention: "sdpa" or "eager".
        output_attentions: whether to return the attentions; they are computed eagerly.
    """
    norms = list(norms)
    x = norms[0](embeddings).transpose(0, 1).contiguous()  # (1 + P, B, d_v)
    eager = attention == "eager" or output_attentions
    room = None if torch.is_grad_enabled() or torch.compiler.is_compiling() else KeyValueRoom(linear_dtype(x))
    states, attentions = [x], []
    for index, layer in enumerate(clip.vision_model.encoder.layers):
        extra = key_values[index] if key_values is not None else None
        x, weights = _encoder_layer(layer, norms[1 + 2 * index], norms[2 + 2 * index], None, eager, x, extra, room)
        states.append(x)
        attentions.append(weights)
    return _output(states, attentions if output_attentions else [])


def run_text(
    clip: Clip,
    embeddings: Tensor,
    norms: LayerNorms,
    mask: Tensor,
    text_prompts: Tensor | None = None,
    depth: int | None = None,
    attention: str = "sdpa",
) -> TowerOutput:
    """Run the text layers; the input of each of the first `depth` layers has T at positions 1..m.

    Args:
        embeddings: (B, S, d_t) tokens with positions; with text prompts, positions 1..m hold placeholders.
        norms: 2 L_t + 1 LayerNorms in the order of `text_norms`.
        mask: (S, S) or (B, 1, S, S), added to the attention logits: 0 where a row may look, -inf elsewhere.
        text_prompts: T, (B, m, d_t), or None.
        depth: how many layers have text prompts; None for all.
        attention: "sdpa" or "eager".
    """
    x = embeddings.transpose(0, 1).contiguous()  # (S, B, d_t)
    mask = mask.to(linear_dtype(x))  # here, since in every layer it would be copied again
    if text_prompts is not None:
        text_prompts = text_prompts.to(x.dtype).transpose(0, 1)  # (m, B, d_t)
    states = [x]
    for index, layer in enumerate(clip.text_model.encoder.layers):
        if text_prompts is not None and (depth is None or index < depth):
            m = text_prompts.shape[0]
            first, _, rest = x.split([1, m, x.shape[0] - 1 - m])
            x = torch.cat([first, text_prompts, rest])  # (S, B, d_t)
        x, _ = _encoder_layer(layer, norms[2 * index], norms[2 * index + 1], mask, attention == "eager", x)
        states.append(x)
    return _output(states, [])


def _output(states: list[Tensor], attentions: list[Any]) -> TowerOutput:
    """Return a tower's output from the states (N, B, d) before and after every layer."""
    first, *layers = (state.transpose(0, 1) for state in states)
    return TowerOutput(first, layers[-1], tuple(layers), tuple(attentions))


def parameter_at(module: Any, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a module's parameter on the device of `x`, also if Accelerate has offloaded it."""
    value, hook = getattr(module, name), getattr(module, "_hf_hook", None)
    return (hook.weights_map[name] if value.is_meta and hook else value).to(device=x.device, dtype=dtype)


def project(head: nn.Linear, norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Return embeddings (..., D): last LayerNorm, projection, unit norm; computed in float32 or wider."""
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.promote_types(head.weight.dtype, torch.float32)
        weight, bias = (parameter_at(norm, name, x, dtype) for name in ("weight", "bias"))
        x = F.layer_norm(x.to(dtype), norm.normalized_shape, weight, bias, norm.eps)
        return F.normalize(F.linear(x, parameter_at(head, "weight", x, dtype)), dim=-1)


def project_image(clip: Clip, norm: nn.LayerNorm, cls: Tensor) -> Tensor:
    """Return f(x), (B, D), from the CLS outputs (B, d_v)."""
    return project(clip.visual_projection, norm, cls)


def project_text(clip: Clip, norm: nn.LayerNorm, eos: Tensor) -> Tensor:
    """Return F_t, (..., D), from the EOS outputs (..., d_t)."""
    return project(clip.text_projection, norm, eos)


def frozen_text_embeds(clip: Clip, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the text embeddings of plain CLIP: (N, D), unit norm, float32 or wider, without gradients."""
    with torch.no_grad():
        output = clip.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        features = output if isinstance(output, Tensor) else output.pooler_output
        return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


@torch.no_grad()
def frozen_text_tokens(clip: Clip, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Return all tokens of plain CLIP's text tower in the shared space, (N, J, D): unit norm; 0 where padded."""
    device = run_device(clip)
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    states = clip.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (N, J, d_t)
    tokens = F.normalize(clip.text_projection(states), dim=-1)  # (N, J, D); the last LayerNorm is in the states
    return tokens.float() * attention_mask[..., None]


def _encoder_layer(
    layer: Any,
    norm1: nn.LayerNorm,
    norm2: nn.LayerNorm,
    mask: Tensor | None,
    eager: bool,
    x: Tensor,
    extra: KeyValue | None = None,
    room: KeyValueRoom | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run one transformer layer, with activation checkpointing after `gradient_checkpointing_enable`."""

    def forward(x: Tensor, extra: KeyValue | None, _: Tensor | None) -> tuple[Tensor, Tensor | None]:
        attended, weights = attend(layer.self_attn, norm1(x), mask, extra, room, eager)
        x = x + attended
        return x + layer.mlp(norm2(x)), weights

    if not (getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled()):
        return forward(x, extra, None)
    # PyTorch's reentrant form sees no tensor inside of another argument, and gives parameters their gradients only if
    # an argument needs one. So a parameter that trains is an argument too.
    parameters = (p for module in (norm1, norm2, layer) for p in module.parameters() if p.requires_grad)
    return layer._gradient_checkpointing_func(forward, x, extra, next(parameters, None))
