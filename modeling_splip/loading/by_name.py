"""Loading a model and its processor by name: a checkpoint of any method, a baseline, or an ONNX file."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel

from ..checkpoint_files import CONFIG, split_hub_arguments
from ..clip_base import MINI_CLIP, SMALL_CLIP, packaged_folder
from ..configuration_retriever import RetrievalConfig
from ..modeling_base import RetrievalModel
from ..processing_splip import SplipProcessor
from .baselines import TextQueryClip, frozen_clip
from .onnx_model import OnnxModel, load_onnx

BASELINES = ("clip", "clip-text")
# What searching uses where no model is named: packaged, and small.
DEFAULT_MODEL = "small_splip"
LARGER_MODEL = "clip:openai/clip-vit-base-patch32"


def load_retriever(
    name: str, class_names: Sequence[str] = (), **kwargs: Any
) -> tuple[RetrievalModel | OnnxModel, SplipProcessor]:
    """Return a model in evaluation mode, and its processor.

    Args:
        name: "clip" (the frozen `small_clip`), "clip:<base>" (any frozen CLIP), "clip-text" or "clip-text:<base>"
            (the same, but it searches with the name of what a sketch shows), a checkpoint folder, a Hub id, the name of
            a packaged model, or an ONNX file, whose name ends in .onnx.
        class_names: what a sketch may show; only "clip-text" needs them.
        **kwargs: passed to `from_pretrained`: `dtype`, `base_model`, ..., and `revision`, `subfolder`, `cache_dir`,
            `token`, which hold for configuration, weights and processor. Baselines and ONNX files take none.

    Raises:
        OSError, ValueError: in one sentence, if there is no such checkpoint or it is of no known method.
    """
    method, _, base = name.partition(":")
    if name.endswith(".onnx"):
        if kwargs:
            raise ValueError(f"'{name}' takes no {', '.join(kwargs)}: the file holds the model as it was exported.")
        return load_onnx(name)
    if method in BASELINES:
        if kwargs:
            raise ValueError(f"'{method}' takes no {', '.join(kwargs)}: load it, then move or cast the model.")
        base = base or SMALL_CLIP
        model = frozen_clip(base) if method == "clip" else TextQueryClip.from_names(base, class_names)
        return model.eval(), SplipProcessor.from_clip(base)
    place = str(packaged_folder(name) or name)
    hub = split_hub_arguments(kwargs)
    config = _read_config(name, place, hub)
    if not isinstance(config, RetrievalConfig):
        raise ValueError(
            f"'{name}' is a '{config.model_type}' model, not one of this package; a plain CLIP is 'clip:{name}'."
        )
    model = AutoModel.from_pretrained(place, trust_remote_code=False, **hub, **kwargs)
    try:
        processor = SplipProcessor.from_pretrained(place, trust_remote_code=False, **hub)
    except (OSError, ValueError, RecursionError) as error:
        raise OSError(
            f"'{name}' holds a model but no processor: save one beside it, "
            "SplipProcessor.from_clip(base).save_pretrained(folder)."
        ) from error
    _check_numbers(name, model, processor)
    return model.eval(), processor


def check_precision(name: str, precision: str) -> None:
    """Raise ValueError where a precision is asked for that a model of this name cannot compute in."""
    if precision == "bf16" and name.endswith(".onnx"):
        raise ValueError(
            "--precision bf16 is for models of PyTorch: an ONNX file computes as it was exported, so leave it out."
        )


def about_default() -> str:
    """Return the line that says what the default model is, and which one to take instead."""
    return (
        f"Model: {DEFAULT_MODEL}, packaged and small (8.5 million parameters, 64 pixels; weights for non-commercial "
        f"research). With a network, a larger one finds more: --model {LARGER_MODEL}."
    )


def drawn_world_note(model: RetrievalModel | OnnxModel, drawn: bool) -> str:
    """Return a line of doubt where a model that knows drawn objects only meets other pictures; "" otherwise.

    Args:
        model: as `load_retriever` returns it.
        drawn: whether the pictures are of the drawn world.
    """
    if drawn or getattr(model.config, "base_model", None) != MINI_CLIP:
        return ""
    return (
        f"This model stands on {MINI_CLIP}, which knows drawn objects only: on real pictures it finds next to nothing. "
        f"Take {DEFAULT_MODEL}, or {LARGER_MODEL}."
    )


def _check_numbers(name: str, model: RetrievalModel, processor: SplipProcessor) -> None:
    """Raise ValueError where weights, or the means and deviations of the pixels, are no usable numbers."""
    wrong = next((key for key, weights in model.named_parameters() if not weights.isfinite().all()), None)
    if wrong is not None:
        raise ValueError(f"'{name}' has weights that are not finite ({wrong}): save or train the model again.")
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    if not all(abs(value) < math.inf for value in mean) or not all(0 < value < math.inf for value in std):
        raise ValueError(f"The processor of '{name}' has image_mean {mean} and image_std {std}: save it again.")


def _read_config(name: str, place: str, hub: dict[str, Any]) -> Any:
    """Return the configuration of the checkpoint `name`, which lies at `place`."""
    local = os.path.isdir(place)
    if local and not (Path(place) / hub.get("subfolder", "") / CONFIG).is_file():
        raise FileNotFoundError(
            f"Checkpoint folder '{name}' has no {CONFIG}: pass a folder that save_pretrained or training wrote."
        )
    looks_like_path = place.startswith((".", "/", "~")) or place.count("/") != 1
    if not local and looks_like_path:
        raise FileNotFoundError(f"There is no checkpoint folder '{name}': train one, or pass 'clip' or a Hub id.")
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **hub)
    except Exception as error:  # transformers checks values by its own kinds of errors
        if local:
            raise ValueError(f"'{name}/{CONFIG}' is damaged or of no known method: save the model again.") from error
        raise OSError(
            f"'{name}' is no local checkpoint folder, and no configuration of a known method came from the Hub or the "
            "cache (offline, misspelt, or not a splip model): check the name and the network."
        ) from error
