"""Loading a model by name: a checkpoint of any method, or a baseline. Nothing of training is imported."""

import os
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig

from .clip_backbone import MINI_CLIP
from .modeling_baselines import TextQueryClip, frozen_clip
from .modeling_clip_at import ClipAtModel
from .modeling_cross_align import CrossAlignModel
from .modeling_encoder import HUB_ARGUMENTS, RetrieverEncoder
from .modeling_splip import SplipModel
from .modeling_splip_encoder import SplipEncoder
from .processing_splip import SplipProcessor

BASELINES = ("clip", "clip-text")
MODELS = {model.config_class.model_type: model for model in (SplipModel, SplipEncoder, ClipAtModel, CrossAlignModel)}


def load_retriever(name: str, class_names: Sequence[str] = (), **kwargs) -> tuple[RetrieverEncoder, SplipProcessor]:
    """Load a model in evaluation mode, and its processor.

    Args:
        name: "clip" (the frozen packaged backbone), "clip:<base>" (any frozen CLIP), "clip-text" or "clip-text:<base>"
            (the same, searching with the name of what a sketch shows), a checkpoint folder or a Hub id.
        class_names: what a sketch may show; only "clip-text" needs them.
        **kwargs: passed to `from_pretrained`: `dtype`, `base_model`, ..., and `revision`, `subfolder`, `cache_dir`,
            `token`, which hold for configuration, weights and processor. The baselines take none.

    Raises:
        OSError, ValueError: in one sentence, if there is no such checkpoint or it is of no known method.
    """
    method, _, base = name.partition(":")
    if method in BASELINES:
        if kwargs:
            raise ValueError(f"'{method}' takes no {', '.join(kwargs)}: load it, then move or cast the model.")
        base = base or MINI_CLIP
        model = frozen_clip(base) if method == "clip" else TextQueryClip.from_names(base, class_names)
        return model.eval(), SplipProcessor.from_clip(base)
    hub = {key: kwargs[key] for key in HUB_ARGUMENTS if key in kwargs}
    if os.path.isdir(name) and not (Path(name) / kwargs.get("subfolder", "") / "config.json").is_file():
        raise FileNotFoundError(
            f"Checkpoint folder '{name}' has no config.json: pass a folder that save_pretrained or training wrote."
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") != 1
    if not os.path.isdir(name) and looks_like_path:
        raise FileNotFoundError(f"There is no checkpoint folder '{name}': train one, or pass 'clip' or a Hub id.")
    try:
        config = AutoConfig.from_pretrained(name, **hub)
    except (OSError, ValueError) as error:
        if os.path.isdir(name):
            raise ValueError(f"'{name}/config.json' is damaged or of no known method: save the model again.") from error
        raise OSError(
            f"'{name}' is no local checkpoint folder, and no configuration of a known method came from the Hub or the "
            f"cache (offline, misspelt, or not a splip model): check the name and the network."
        ) from error
    if config.model_type not in MODELS:
        raise ValueError(
            f"'{name}' is a '{config.model_type}' model, not one of {sorted(MODELS)}; a plain CLIP is 'clip:{name}'."
        )
    model = MODELS[config.model_type].from_pretrained(name, **kwargs)
    try:
        processor = SplipProcessor.from_pretrained(name, **hub)
    except (OSError, ValueError) as error:
        raise OSError(
            f"'{name}' holds a model but no processor: save one beside it, "
            "SplipProcessor.from_clip(base).save_pretrained(folder)."
        ) from error
    return model.eval(), processor
