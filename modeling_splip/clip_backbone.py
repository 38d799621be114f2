"""CLIP, run layer by layer: the only file that knows CLIP's layers.

Nothing here holds state. LayerNorms and prompts are arguments, so that several adapters can share one frozen CLIP, and
calls from several threads cannot disturb each other.

Layers compute on the sequence first, (N, B, d): so keys and values behind those of prompts are one block of memory.
What callers give and get has the batch first.

Shapes: B images, P patches, d_v and d_t the vision and text widths, L_v and L_t their layers, D the projection.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig

# Keys and values of a layer's prompts: (2, K, B or 1, d).
KeyValue = Tensor
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
    states, attentions = [x.transpose(0, 1)], []
    for index, layer in enumerate(clip.vision_model.encoder.layers):
        extra = key_values[index] if key_values is not None else None
        x = states[-1].transpose(0, 1)  # a view of what is returned, so that gradients pass through it
        x, weights = encoder_layer(layer, norms[1 + 2 * index], norms[2 + 2 * index], None, eager, x, extra, room)
        states.append(x.transpose(0, 1))
        attentions.append(weights)
    return tower_output(states, attentions if output_attentions else [])


def tower_output(states: list[Tensor], attentions: list[Any]) -> TowerOutput:
    """Return a tower's output from the states (B, N, d) before and after every layer."""
    first, *layers = states
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


def value_tokens(clip: Clip, norms: LayerNorms, x: Tensor) -> Tensor:
    """Return what each token of the last layer's input (B, N, d_v) says for itself: (B, N, D), unit norm.

    It passes the layer's values and their projection, as in MaskCLIP (ECCV 2022, arXiv 2112.01071). The attention,
    which mixes the patches, is left out. The LayerNorms `norms` are in the order of `vision_norms`.
    """
    attention = clip.vision_model.encoder.layers[-1].self_attn
    return project_image(clip, norms[-1], attention.out_proj(attention.v_proj(norms[-3](x))))


class KeyValueRoom:
    """Room for a layer's keys and values behind those of its prompts; the layers of one call use it in turn.

    An image's own keys and values are projected into it (in `dtype`, that of the linear layers), so that they are not
    copied to stand behind the prompts'. Without gradients only: the backward pass would need what the next layer
    overwrites. Its views are made once, since for small batches the processor's work counts.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self._shape: tuple[int, ...] = ()

    def _make(self, k: int, x: Tensor, heads: int) -> None:
        n, batch, width = x.shape
        room = x.new_empty(2, k + n, batch, width, dtype=self.dtype)
        self._prompts, own = room.split([k, n], dim=1)
        self._places = own.flatten(1, 2).unbind()  # (N B, d) each
        by_head = room.unflatten(-1, (heads, -1)).permute(0, 2, 3, 1, 4)
        self._keys_values = by_head.unbind()  # (B, heads, K + N, d / heads) each
        self._shape = k, n, batch, width

    def fill(self, module: Any, x: Tensor, extra: KeyValue) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a sequence behind those of prompts: (B, heads, K + N, d / heads) each.

        Args:
            module: the layer's attention.
            x: (N, B, d), of the room's dtype.
            extra: (2, K, B or 1, d).
        """
        if self._shape != (extra.shape[1], *x.shape):
            self._make(extra.shape[1], x, module.num_heads)
        self._prompts.copy_(extra)
        flat = x.flatten(0, 1)
        for linear, place in zip((module.k_proj, module.v_proj), self._places, strict=True):
            if _is_plain(linear):
                weight, bias = linear.weight, linear.bias
                if weight.dtype != self.dtype:  # under autocast
                    weight, bias = weight.to(self.dtype), bias.to(self.dtype)
                torch.addmm(bias, flat, weight.t(), out=place)
            else:
                place.copy_(linear(x).flatten(0, 1))
        return self._keys_values


def _is_plain(linear: Any) -> bool:
    """Return whether a layer computes x W^T + b and nothing else: no adapter, no hook, no quantised or missing part."""
    own = vars(linear)
    hooked = own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own
    whole = all(type(part) is nn.Parameter for part in own["_parameters"].values())
    return type(linear) is nn.Linear and whole and not hooked


def linear_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype that a linear layer gives for x: under autocast another one than its own."""
    kind = x.device.type
    cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if cast else x.dtype


def encoder_layer(
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
        attended, weights = _attend(layer.self_attn, norm1(x), mask, extra, room, eager)
        x = x + attended
        return x + layer.mlp(norm2(x)), weights

    if not (getattr(layer, "gradient_checkpointing", False) and torch.is_grad_enabled()):
        return forward(x, extra, None)
    # PyTorch's reentrant form sees no tensor inside of another argument, and gives parameters their gradients only if
    # an argument needs one. So a parameter that trains is an argument too.
    parameters = (p for module in (norm1, norm2, layer) for p in module.parameters() if p.requires_grad)
    return layer._gradient_checkpointing_func(forward, x, extra, next(parameters, None))


def _by_head(x: Tensor, heads: int) -> Tensor:
    """Return (N, B, d) as (B, heads, N, d / heads)."""
    return x.unflatten(2, (heads, x.shape[2] // heads)).permute(1, 2, 0, 3)


def _attend(
    module: Any,
    x: Tensor,
    mask: Tensor | None,
    extra: KeyValue | None,
    room: KeyValueRoom | None,
    eager: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the attention of a sequence over its prompts and itself, and its weights.

    Args:
        module: the layer's attention.
        x: (N, B, d).
        mask: broadcasts to (B, heads, N, N), added to the logits: 0 where a row may look, -inf elsewhere.
        extra: keys and values of prompts, (2, K, B or 1, d).
        room: where keys and values are put together, without gradients; None to copy them.
        eager: whether to compute it step by step, which gives the weights.

    Returns:
        (N, B, d), and if eager (B, heads, N, K + N) with the prompts first.
    """
    if room is not None:
        x = x.to(room.dtype)  # once; autocast would do it in every projection
    q = module.q_proj(x)  # (N, B, d)
    if extra is not None and room is not None:
        k, v = room.fill(module, x, extra)
    else:
        k, v = module.k_proj(x), module.v_proj(x)  # (N, B, d) each
        if extra is not None:
            # Contiguous, because a GPU joins other tensors element by element.
            prompts = extra.to(k.dtype).expand(-1, -1, x.shape[1], -1).contiguous().unbind()  # (K, B, d) each
            k, v = (torch.cat(pair) for pair in zip(prompts, (k, v), strict=True))  # (K + N, B, d) each
        k, v = _by_head(k, module.num_heads), _by_head(v, module.num_heads)
    q = _by_head(q, module.num_heads)
    mask = None if mask is None else mask.to(q.dtype)
    weights = None
    if eager:
        logits = q @ k.transpose(-1, -2) * module.scale
        logits = logits if mask is None else logits + mask
        weights = logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype)
        attended = weights @ v
    else:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=module.scale)
    return module.out_proj(attended.permute(2, 0, 1, 3).flatten(2)), weights
