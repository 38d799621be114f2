"""The part of the contract that searching needs: the calls, the output, loading and the fingerprint."""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.utils import ModelOutput, cached_file

from .clip_backbone import Clip, LayerNorms, TowerOutput, project_image

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_BASE_ARGUMENTS = ("cache_dir", "local_files_only", "token")  # those that hold for the base CLIP's repository too


@dataclass
class RetrievalOutput(ModelOutput):
    """Output of a retrieval model for B images of one modality.

    Attributes:
        embeds: (B, D) unit-norm embeddings; rank photos by their dot product with a sketch.
        tokens: (B, 1 + P, d_v) last vision layer's outputs, CLS first.
        class_embeds: (B or 1, C, D) unit-norm embeddings of the seen classes; 1 where they do not depend on the image.
        hidden_states: L_v + 1 tensors (B, 1 + P, d_v), on request.
        attentions: L_v tensors (B, heads, 1 + P, K + 1 + P) with the K prompts first, on request.
    """

    embeds: Tensor | None = None
    tokens: Tensor | None = None
    class_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def retrieval_output(
    clip: Clip,
    norms: LayerNorms,
    embeddings: Tensor,
    output: TowerOutput,
    class_embeds: Tensor | None,
    output_hidden_states: bool,
    output_attentions: bool,
    return_dict: bool,
) -> RetrievalOutput | tuple:
    """Read f from CLS, (B, D), and put together what was asked for."""
    result = RetrievalOutput(
        embeds=project_image(clip, norms[-1], output.last[:, 0]),
        tokens=output.last,
        class_embeds=class_embeds,
        hidden_states=(norms[0](embeddings), *output.layers) if output_hidden_states else None,
        attentions=output.attentions if output_attentions else None,
    )
    return result if return_dict else result.to_tuple()


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits that depend on every name, dtype, shape and value."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class RetrieverEncoder(PreTrainedModel):
    """The part of the contract that searching needs: `encode` and `fingerprint`."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return the embeddings of B images of one modality: (B, D), unit norm, float32.

        Args:
            pixel_values: (B, 3, H, W) as the processor gives them.
            modality: "sketch" or "photo".
        """
        return self(pixel_values=pixel_values, modality=modality, return_class_embeds=False).embeds.float()

    def model_fingerprint(self) -> str:
        """Return 16 hex digits of the weights and settings, the same for every form of one model."""
        raise AttributeError(f"{type(self).__name__} must define model_fingerprint.")

    def fingerprint(self, processor: Any | None = None) -> str:
        """Return 16 hex digits that name this model together with its processor's settings.

        Two embeddings may be compared only if their fingerprints agree.
        """
        settings = json.dumps(processor.image_settings(), sort_keys=True) if processor is not None else ""
        return hashlib.blake2b((self.model_fingerprint() + settings).encode(), digest_size=8).hexdigest()

    def freeze(self) -> None:
        """Freeze what never trains: here everything."""
        self.requires_grad_(False)

    @classmethod
    def base_state(cls, config: Any, base_model: str | None, hub: dict[str, Any]) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint of this configuration leaves to the base CLIP."""
        return {}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, base_model: str | None = None, **kwargs: Any
    ):
        """Load a checkpoint of any form, from safetensors only.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            base_model: for an adapter-only checkpoint, the base CLIP's folder or id instead of the config's.
            **kwargs: as for every transformers model (`dtype`, `device_map`, `revision`, ...).

        Raises:
            OSError: in one sentence, if there is no such checkpoint or its weights are damaged.
            ValueError: if it is of another kind, lacks tensors, or the base CLIP has another shape or other weights
                than the one trained on.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, **kwargs)
        name = str(pretrained_model_name_or_path)
        hub = {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}
        config = kwargs.pop("config", None)
        if not isinstance(config, PretrainedConfig):
            config = cls._read_config(str(config or name), hub)
        config = copy.deepcopy(config)
        with_report = kwargs.pop("output_loading_info", False)
        set_tower_dtypes(config, kwargs.get("dtype", kwargs.get("torch_dtype")))
        state = cls.base_state(config, base_model, {key: hub[key] for key in _BASE_ARGUMENTS if key in hub})
        state |= checkpoint_tensors(name, hub)
        # Tensors mapped from a file lie off the alignment of those made here, where kernels round differently.
        state = {key: tensor.clone() for key, tensor in state.items()}
        model, report = super().from_pretrained(
            None, *args, config=config, state_dict=state, output_loading_info=True, **kwargs
        )
        for kind, word in (("missing_keys", "lacks"), ("unexpected_keys", "holds besides")):
            if report[kind]:
                raise ValueError(
                    f"'{name}' {word} {len(report[kind])} tensors of a {cls.__name__}, such as {min(report[kind])}: "
                    "save or download the model again."
                )
        model.name_or_path = model.config.name_or_path = name
        if base_model is not None:
            model.config.base_model = str(base_model)
        model.freeze()
        return (model, report) if with_report else model

    @classmethod
    def _read_config(cls, name: str, hub: dict[str, Any]) -> Any:
        """Read a checkpoint's configuration, of this class and no other."""
        try:
            file = cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False, **hub)
        except OSError:
            file = None
        if file is None and os.path.isdir(name):
            raise OSError(f"'{name}' has no config.json: pass what save_pretrained or training wrote.")
        if file is None:
            raise OSError(
                f"'{name}' is no local checkpoint folder, and no configuration of that name came from the Hub or the "
                "cache: check the name and the network."
            )
        try:
            with open(file, encoding="utf-8") as opened:
                found = json.load(opened).get("model_type")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"'{name}/config.json' is damaged: save or download the model again.") from error
        if found != cls.config_class.model_type:
            raise ValueError(
                f"'{name}' is a '{found}' model, and {cls.__name__} loads '{cls.config_class.model_type}' ones: use "
                "AutoModel, or its own class."
            )
        return cls.config_class.from_pretrained(name, **hub)


def checkpoint_tensors(name: str | os.PathLike, hub: dict[str, Any]) -> dict[str, Tensor]:
    """Read a checkpoint's tensors, from its one file or from the shards that its index names; safetensors only.

    Raises:
        OSError: if it holds neither, or they are damaged.
        ValueError: if the index names a file outside of the checkpoint.
    """
    single, index = (
        cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub) for file in (WEIGHTS, INDEX)
    )
    if single is not None:
        return _read_tensors(single, name)
    if index is None:
        raise OSError(f"'{name}' has no {WEIGHTS}: save or download the model again; other formats are never read.")
    with open(index, encoding="utf-8") as file:
        shards = sorted(set(json.load(file)["weight_map"].values()))
    for shard in shards:
        if os.path.basename(shard) != shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"'{name}/{INDEX}' names '{shard}', which is no safetensors file beside it: do not use it."
            )
    parts = [_read_tensors(cached_file(name, shard, **hub), name) for shard in shards]
    return {key: tensor for part in parts for key, tensor in part.items()}


def _read_tensors(file: Any, name: str | os.PathLike) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise OSError(f"The weights in '{name}' are damaged ({error}): save or download the model again.") from error


def set_tower_dtypes(config: Any, dtype: torch.dtype | str | None) -> None:
    """Ask for the towers in the model's dtype: CLIP builds them in that of their own configurations."""
    dtype = config.dtype if dtype in (None, "auto") else dtype
    for tower in (config.clip_config, config.clip_config.vision_config, config.clip_config.text_config):
        tower.dtype = dtype
