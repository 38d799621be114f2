"""The pretrained CLIP that a model is built on, by folder, Hub id or packaged name, and the calls its users know."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple, logging

from .checkpoint_files import HUB_ARGUMENTS, read_model_type
from .configuration_retriever import check_modality
from .fingerprints import weights_fingerprint

logger = logging.get_logger(__name__)

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


def check_is_clip(base: str, path: str, hub: Mapping[str, Any]) -> None:
    """Raise ValueError if the configuration at `path` is that of another kind of model than CLIP."""
    try:
        found = read_model_type(path, {key: hub[key] for key in HUB_ARGUMENTS if key in hub})
    except (OSError, ValueError):
        return  # loading says it better
    if found != CLIPConfig.model_type:
        raise ValueError(
            f"Base CLIP '{base}' is a '{found}' model: pass a CLIP, or load a trained model by its name alone."
        )


class ClipCalls:
    """What users of CLIP call on a model, for every retrieval model."""

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor, modality: str | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Return the embeddings of B images as `pooler_output`: (B, D), unit norm; with gradients, unlike `encode`.

        Args:
            pixel_values, modality, **kwargs: as `forward` takes them.

        Returns:
            Also `last_hidden_state`, (B, 1 + P, d_v), and on request `hidden_states` and `attentions`.
        """
        kwargs |= {"return_class_embeds": False, "return_dict": True}
        output = self(pixel_values=pixel_values, modality=modality, **kwargs)  # type: ignore[operator]
        more = {"hidden_states": output.hidden_states, "attentions": output.attentions}
        return BaseModelOutputWithPooling(last_hidden_state=output.tokens, pooler_output=output.embeds, **more)

    @can_return_tuple
    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """Return the embeddings of N texts, sentences or class names, as `pooler_output`: (N, D), unit norm, float32.

        They are the frozen text tower's, as those of `encode_text`, and can be compared with images' embeddings.

        Raises:
            ValueError: if the model keeps no text tower.
        """
        if not hasattr(self, "encode_text"):
            raise ValueError(f"{type(self).__name__} has no text tower (it is folded): embed texts before folding.")
        return BaseModelOutputWithPooling(pooler_output=self.encode_text(input_ids, attention_mask))

    def get_input_embeddings(self) -> nn.Module:
        """Return the vision tower's patch embedding, which is what images meet first."""
        return self.vision.vision_model.get_input_embeddings()  # type: ignore[attr-defined]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another patch embedding into the vision tower."""
        self.vision.vision_model.set_input_embeddings(value)  # type: ignore[attr-defined]


def checked_modality(pixel_values: Any, modality: str | Sequence[str] | None) -> str:
    """Return the modality; "photo" if it was left out, which is said once in a process.

    Args:
        pixel_values: what shall be images.
        modality: also one for each image, all the same, as a pipeline puts them together.

    Raises:
        ValueError: if there is no such modality, or `pixel_values` is no tensor.
    """
    if not isinstance(pixel_values, Tensor):
        raise ValueError(
            f"pixel_values must be a tensor (batch, 3, height, width), got {type(pixel_values).__name__}: the "
            "processor makes one of images and paths, model.encode(**processor(images=..., modality=...))."
        )
    if modality is None:
        logger.warning_once("No modality was passed, so images count as photos: sketches need modality='sketch'.")
        return "photo"
    one = modality[0] if isinstance(modality, list | tuple) and len(set(modality)) == 1 else modality
    check_modality(one)
    return str(one)
