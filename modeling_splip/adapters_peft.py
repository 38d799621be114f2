"""PEFT's adapters in the base CLIP's vision tower: every kind that wraps linear layers, such as LoRA.

PEFT is optional: it is imported only if a configuration asks for it, so that all other models load without it.
"""

import importlib
import re
from typing import Any

import torch
from torch import nn

# What PEFT may wrap. LayerNorms have adapters of their own, and the projections are computed apart, in float32.
_ALLOWED = re.compile(r"vision_model\.encoder\.layers\.\d+\.(self_attn|mlp)\.\w+$")


def inject_peft(clip: nn.Module, settings: dict[str, Any]) -> None:
    """Put PEFT's layers into the vision tower of a CLIP; the text tower stays as it is, a reference for the losses.

    Args:
        clip: the base CLIP, changed in place.
        settings: fields of a PEFT configuration as in its `adapter_config.json`: `peft_type`, `target_modules`, ...

    Raises:
        ImportError: if PEFT is not installed.
        ValueError: if it is no PEFT configuration, or would change other layers than the vision tower's linear ones.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ImportError("This model has PEFT adapters, and peft is not installed: pip install peft.") from error
    try:
        peft.inject_adapter_in_model(peft.get_peft_config(dict(settings)), clip)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"peft {settings} is no PEFT configuration for this CLIP ({error}): see PEFT's docs."
        ) from error
    for name in _injected(clip):
        if not _ALLOWED.match(name):
            raise ValueError(
                f"peft would change '{name}', but only linear layers of the vision tower can take PEFT's adapters: "
                r"set target_modules, for example to '.*vision_model.*(q_proj|v_proj)'."
            )


def base_names(clip: nn.Module) -> dict[str, str]:
    """Return the name of each of the base CLIP's own tensors -> its name without PEFT's layers."""
    injected = _injected(clip)
    names = {}
    for name in clip.state_dict():
        owner = next((layer for layer in injected if name.startswith(f"{layer}.")), None)
        if owner is None:
            names[name] = name
        elif name.startswith(f"{owner}.base_layer."):
            names[name] = owner + name.removeprefix(f"{owner}.base_layer")
    return names


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a tower's tensors with PEFT's adapters merged into the weights, named as without PEFT.

    The tower keeps its weights: they are put back, since merging and unmerging does not restore every bit.
    """
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    layers: list[Any] = [module.get_submodule(name) for name in _injected(module)]
    try:
        for layer in layers:
            layer.merge()
        return {plain: module.state_dict()[name].clone() for name, plain in base_names(module).items()}
    finally:
        for layer in layers:
            layer.unmerge()
        module.load_state_dict(before)


def _injected(module: nn.Module) -> list[str]:
    return [name for name, layer in module.named_modules() if hasattr(layer, "base_layer")]
