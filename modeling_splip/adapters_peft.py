"""PEFT's adapters in the base CLIP's vision tower: every kind that starts at CLIP and loads as it was saved.

LoRA is one of them. What would not come back is refused when the model is built. PEFT is optional: it is imported only
if a configuration asks for it, so that all other models load without it.
"""

import importlib
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# What PEFT may wrap. LayerNorms have adapters of their own, and the projections are computed apart, in float32.
_ALLOWED = re.compile(r"vision_model\.encoder\.layers\.\d+\.(self_attn|mlp)\.\w+$")
# The name in a CLIP of a second vision tower, which a model may have for its photos.
PHOTO_TOWER = "photo_vision_model"
# Other starts of LoRA change the base's weights, which an adapter checkpoint does not hold.
_STARTS = (True, False, None, "gaussian", "orthogonal")


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
        config = peft.get_peft_config(dict(settings))
        _check_settings(config)
        peft.inject_adapter_in_model(config, clip)
    except PeftError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"peft {settings} is no PEFT configuration for this CLIP ({error}): see PEFT's docs."
        ) from error
    for name in _injected(clip):
        if not _ALLOWED.match(name):
            raise ValueError(
                f"peft would change '{name}', but only linear layers of the vision tower can take PEFT's adapters: "
                r"set target_modules, for example to '.*vision_model.*(q_proj|v_proj)'."
            )


class PeftError(ValueError):
    """A PEFT configuration whose model would not start at CLIP, or not come back as it was saved."""


def _check_settings(config: Any) -> None:
    """Raise PeftError if the configuration trains or changes tensors of the base CLIP."""
    advice = "leave it out, since adapter checkpoints hold nothing of the base CLIP."
    if getattr(config, "modules_to_save", None):
        raise PeftError(f"peft has modules_to_save={config.modules_to_save}: {advice}")
    if getattr(config, "bias", None) not in (None, "none"):
        raise PeftError(f"peft has bias='{config.bias}': {advice}")
    start = getattr(config, "init_lora_weights", None)
    if start not in _STARTS:
        raise PeftError(f"peft has init_lora_weights='{start}', which changes the base CLIP's weights: leave it out.")


def check_peft(model: Any) -> None:
    """Raise ValueError unless the model's PEFT adapters start at CLIP and load as they are saved.

    It is tried out: each layer is compared with CLIP's own, then the adapters are moved, and a second model is made of
    this one's tensors as `from_pretrained` does. The model and the random numbers stay as they were.

    Args:
        model: an untrained model with PEFT's layers, in evaluation mode, not on the device "meta".
    """
    kind = model.config.peft.get("peft_type")
    trained = {name: value for name, value in model.clip.named_parameters() if name not in base_names(model.clip)}
    before = {name: value.detach().clone() for name, value in trained.items()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            own = _outputs(model)
            for name, output in own.items():
                layer = model.clip.get_submodule(name).base_layer
                if not torch.allclose(output, F.linear(_input(layer), layer.weight, layer.bias), atol=1e-3):
                    raise PeftError(
                        f"peft's '{kind}' with these settings does not start at CLIP: change how it starts."
                    )
            pointers = [value.data_ptr() for name, value in model.adapter_state().items() if value.numel()]
            if len(set(pointers)) < len(pointers):
                raise ValueError("layers share tensors")
            torch.manual_seed(0)
            for value in trained.values():
                if value.is_floating_point():
                    value.add_(0.05 * torch.randn_like(value))
            loaded = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
            for (name, output), other in zip(_outputs(model).items(), _outputs(loaded).values(), strict=True):
                if not torch.allclose(output, other, atol=1e-5):
                    raise ValueError(f"'{name}' differs")
    except PeftError:
        raise
    except Exception as error:  # each kind fails in its own way
        raise PeftError(
            f"peft's '{kind}' with these settings would not load as it was saved ({_first_line(error)}): use another "
            "kind, such as LORA."
        ) from error
    finally:
        with torch.no_grad():
            for name, value in before.items():
                trained[name].copy_(value)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")


def _input(layer: nn.Linear) -> Tensor:
    """Return inputs of a layer, (4, d), the same in each call."""
    values = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0))
    return values.to(layer.weight)


def _outputs(model: Any) -> dict[str, Tensor]:
    """Return the output of every layer that PEFT has wrapped, (4, d)."""
    layers = {name: model.clip.get_submodule(name) for name in _injected(model.clip)}
    return {name: layer(_input(layer.base_layer)) for name, layer in layers.items()}


def base_names(clip: nn.Module) -> dict[str, str]:
    """Return the name of each of the base CLIP's own tensors -> its name in the base, without PEFT's layers.

    A second vision tower (`PHOTO_TOWER`) has the tensors of the first.
    """
    injected = _injected(clip)
    names = {}
    for name in clip.state_dict():
        owner = next((layer for layer in injected if name.startswith(f"{layer}.")), None)
        if owner is None:
            names[name] = name
        elif name.startswith(f"{owner}.base_layer."):
            names[name] = owner + name.removeprefix(f"{owner}.base_layer")
    return {name: plain.replace(f"{PHOTO_TOWER}.", "vision_model.") for name, plain in names.items()}


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
