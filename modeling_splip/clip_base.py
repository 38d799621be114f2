"""The pretrained CLIP that a model is built on: by folder, by Hub id, or by the name of one that this package ships."""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import CLIPConfig, CLIPModel

from .checkpoint_files import HUB_ARGUMENTS, read_model_type
from .configuration_retriever import check_clip_size
from .fingerprints import weights_fingerprint

# The packaged backbones: one knows real pictures, the other drawn objects only.
SMALL_CLIP, MINI_CLIP = "small_clip", "mini_clip"


def packaged_folder(name: str) -> Path | None:
    """Return the folder of what this package ships under that name, such as "mini_clip"; None if there is none.

    It is also found by code that was copied from a Hub repository, where the package is installed: looking for the
    package does not import it.
    """
    found = importlib.util.find_spec("modeling_splip")
    for place in (found.submodule_search_locations or []) if found else []:
        pretrained = Path(place) / "pretrained"
        if pretrained.is_dir() and name in os.listdir(pretrained) and (pretrained / name).is_dir():
            return pretrained / name
    return None


def resolve_base(name: str | os.PathLike) -> str:
    """Return the path of a packaged base CLIP for its name, any other name or path as it is.

    Raises:
        FileNotFoundError: if it can only be the name of a packaged one, and the package is not installed.
    """
    name = str(name)
    folder = packaged_folder(name)
    if folder is not None:
        return str(folder)
    packaged_or_nothing = re.fullmatch(r"\w+", name) and not os.path.exists(name)
    if packaged_or_nothing and importlib.util.find_spec("modeling_splip") is None:
        raise FileNotFoundError(
            f"The base CLIP '{name}' ships with the splip package, which is not installed here: install it, or pass "
            "base_model= with the path of a copy."
        )
    return name


def load_clip(base: str, **kwargs: Any) -> CLIPModel:
    """Return a pretrained CLIP.

    Weights are read from safetensors alone. Of a repository with pickled ones, transformers downloads the copy that the
    Hub has converted.

    Args:
        base: folder, Hub id, or the name of a packaged one.
        **kwargs: passed to `CLIPModel.from_pretrained`.

    Raises:
        OSError: in one sentence, if there is no such CLIP, or its weights are damaged.
        ValueError: if it is a model of another kind, or lacks tensors.
    """
    path = resolve_base(base)
    check_is_clip(base, path, kwargs)
    try:
        with _shapes_fit(base):
            clip, report = CLIPModel.from_pretrained(path, use_safetensors=True, output_loading_info=True, **kwargs)
    except SafetensorError as error:
        raise OSError(f"The weights of base CLIP '{base}' are damaged ({error}): save or download it again.") from error
    except OSError as error:
        where = (
            "has no CLIP weights in safetensors"
            if os.path.isdir(path)
            else "is no local folder and not on the Hub or in the cache, with weights in safetensors"
        )
        raise OSError(
            f"Base CLIP '{base}' {where}: check the name, or pass base_model= with a local folder."
        ) from error
    # transformers fills what is missing with random values.
    if report["missing_keys"]:
        count, name = len(report["missing_keys"]), min(report["missing_keys"])
        raise ValueError(
            f"Base CLIP '{base}' lacks {count} tensors of a CLIP, such as {name}: pass one that has all of them."
        )
    return clip


def load_recorded_clip(base: str, config: Any, **kwargs: Any) -> CLIPModel:
    """Return the base CLIP of a model, checked to be the one that its configuration records.

    Args:
        base: folder, Hub id, or the name of a packaged one.
        config: the model's configuration.
        **kwargs: passed to `CLIPModel.from_pretrained`.

    Raises:
        OSError: if there is no such CLIP.
        ValueError: if it has another shape or other weights.
    """
    clip = load_clip(base, **kwargs)
    for tower in ("vision_config", "text_config"):
        expected, found = getattr(config.clip_config, tower), getattr(clip.config, tower)
        for field in ("hidden_size", "num_hidden_layers"):
            if getattr(expected, field) != getattr(found, field):
                raise ValueError(
                    f"Base CLIP '{base}' has {tower}.{field}={getattr(found, field)}, but the checkpoint was "
                    f"trained on {getattr(expected, field)}: pass base_model= with the CLIP that it was trained on."
                )
    fingerprint = weights_fingerprint(clip.state_dict())
    if config.base_fingerprint and fingerprint != config.base_fingerprint:
        raise ValueError(
            f"Base CLIP '{base}' has other weights (fingerprint {fingerprint}) than the one that the checkpoint "
            f"was trained on ({config.base_fingerprint}): pass base_model= with that one."
        )
    return clip


@contextmanager
def _shapes_fit(name: str) -> Iterator[None]:
    """Raise ValueError where transformers finds that a configuration and its weights have other shapes."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ValueError(
            f"The configuration of '{name}' does not fit its weights, or the memory: save or download the model again."
        ) from error


def check_is_clip(base: str, path: str, hub: Mapping[str, Any]) -> None:
    """Raise ValueError if the configuration at `path` is that of another kind of model than CLIP, or of absurd size."""
    place = {key: hub[key] for key in HUB_ARGUMENTS if key in hub}
    try:
        found = read_model_type(path, place)
    except OSError:
        return  # loading says it better
    if found != CLIPConfig.model_type:
        raise ValueError(
            f"Base CLIP '{base}' is a '{found}' model: pass a CLIP, or load a trained model by its name alone."
        )
    try:
        check_clip_size(CLIPConfig.from_pretrained(path, **place))
    except Exception as error:  # transformers checks values by its own kinds of errors
        raise ValueError(f"The configuration of base CLIP '{base}' is damaged ({error}): get it again.") from error
