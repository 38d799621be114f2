"""What every retrieval model has in common: the calls, frozen CLIP plus small adapters, and the checkpoints."""

import copy
import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.utils import ModelOutput, cached_file

from .clip_backbone import Clip, LayerNorms, TowerOutput, frozen_text_embeds, load_clip, project_image, resolve_base

MODALITIES = ("sketch", "photo")
WEIGHTS = "model.safetensors"
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_BASE_ARGUMENTS = ("cache_dir", "local_files_only", "token")  # those that hold for the base CLIP's repository too
# Fields that say where weights lie or what they are, not what the model computes with them.
_NOT_FINGERPRINTED = ("self", "kwargs", "clip_config", "base_model", "checkpoint", "class_names")


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


def check_modality(modality: str) -> str:
    """Return the modality, or raise ValueError if it is neither "sketch" nor "photo"."""
    if modality not in MODALITIES:
        raise ValueError(f"modality must be 'sketch' or 'photo' (one modality a call), got {modality!r}.")
    return modality


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

    def settings(self) -> dict[str, Any]:
        """Return the configuration fields that decide what the model computes."""
        fields = inspect.signature(type(self.config).__init__).parameters
        return {name: getattr(self.config, name) for name in fields if name not in _NOT_FINGERPRINTED}

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
            ValueError: if the base CLIP has another shape or other weights than the one trained on.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, **kwargs)
        hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        config = kwargs.pop("config", None)
        if not isinstance(config, PretrainedConfig):
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **hub)
        config = copy.deepcopy(config)
        _set_tower_dtypes(config, kwargs.get("dtype", kwargs.get("torch_dtype")))
        state = cls.base_state(config, base_model, {name: hub[name] for name in _BASE_ARGUMENTS if name in hub})
        state |= load_file(cached_file(pretrained_model_name_or_path, WEIGHTS, **hub))
        # Tensors mapped from a file lie off the alignment of those made here, where kernels round differently.
        state = {name: tensor.clone() for name, tensor in state.items()}
        loaded = super().from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        if base_model is not None:
            model.config.base_model = str(base_model)
        model.freeze()
        return loaded


class Retriever(RetrieverEncoder):
    """A frozen CLIP with small trained parts.

    A subclass builds them in `__init__` and copies what starts from CLIP's own weights in `start_from_clip`.
    """

    clip: CLIPModel

    def freeze(self) -> None:
        """Freeze the base CLIP; everything else trains."""
        self.clip.requires_grad_(False)

    def train(self, mode: bool = True) -> "Retriever":
        """Set training mode; the frozen CLIP stays in evaluation mode."""
        super().train(mode)
        self.clip.eval()
        return self

    def start_from_clip(self) -> None:
        """Copy into the trained parts what starts from the base CLIP's weights."""

    @classmethod
    def prompt_settings(cls, tokenizer: Any, class_names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
        """Return further configuration fields that need the tokenizer, such as the token ids of class prompts."""
        return {}

    @classmethod
    def from_clip(cls, base: str, class_names: list[str] | None = None, **settings: Any) -> "Retriever":
        """Build an untrained model on a pretrained CLIP.

        Args:
            base: folder, Hub id, or "mini_clip" for the packaged offline backbone.
            class_names: readable names of the seen classes, unique and not empty where the method needs them.
            **settings: fields of the configuration class.

        Raises:
            ValueError: if a class name is empty, occurs twice or does not fit into the text context.
        """
        clip = load_clip(base)
        class_names = list(class_names or [])
        if class_names:
            tokenizer = AutoTokenizer.from_pretrained(resolve_base(base))
            settings |= cls.prompt_settings(tokenizer, class_names, settings)
        config = cls.config_class(
            clip_config=clip.config,
            base_model=str(base),
            base_fingerprint=weights_fingerprint(clip.state_dict()),
            class_names=class_names,
            **settings,
        )
        _set_tower_dtypes(config, torch.get_default_dtype())  # whatever the base is stored in
        model = cls(config)
        model.clip.load_state_dict(clip.state_dict())
        model.start_from_clip()
        model.freeze()
        return model.eval()

    def adapter_state(self) -> dict[str, Tensor]:
        """Return the tensors that are not the base CLIP's: what an adapter-only checkpoint holds."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("clip.")}

    def model_fingerprint(self) -> str:
        """Return 16 hex digits of base weights, adapter tensors and settings."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(str(self.config.base_fingerprint).encode())
        digest.update(weights_fingerprint(self.adapter_state()).encode())
        digest.update(json.dumps(self.settings(), sort_keys=True).encode())
        return digest.hexdigest()

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return embeddings of free texts by the frozen CLIP text tower: (N, D), unit norm, float32."""
        return frozen_text_embeds(self.clip, input_ids, attention_mask).float()

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, in PEFT's form."""
        trainable, total = self.num_parameters(only_trainable=True), self.num_parameters()
        print(
            f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {100 * trainable / total:.4f}"
        )

    def save_pretrained(self, save_directory: str | os.PathLike, full: bool = False, **kwargs: Any) -> None:
        """Save the adapters, or with `full` the base CLIP's weights too.

        An adapter-only checkpoint names its base CLIP in the config and takes the weights from there when loaded.
        """
        state = kwargs.pop("state_dict", None) or self.state_dict()
        before = self.config.checkpoint
        if not full:
            if not self.config.base_model:
                raise ValueError("This model does not name its base CLIP (config.base_model): save it with full=True.")
            state = {name: tensor for name, tensor in state.items() if not name.startswith("clip.")}
        try:
            self.config.checkpoint = "full" if full else "adapter"
            super().save_pretrained(save_directory, state_dict=state, **kwargs)
        finally:
            self.config.checkpoint = before

    @classmethod
    def base_state(cls, config: Any, base_model: str | None, hub: dict[str, Any]) -> dict[str, Tensor]:
        """Load the base CLIP's tensors under `clip.`; refuses another CLIP than the one that was trained on."""
        if config.checkpoint == "full":
            return {}
        base = base_model or config.base_model
        clip = load_clip(base, **hub)
        for tower in ("vision_config", "text_config"):
            expected, found = getattr(config.clip_config, tower), getattr(clip.config, tower)
            for field in ("hidden_size", "num_hidden_layers"):
                if getattr(expected, field) != getattr(found, field):
                    raise ValueError(
                        f"Base CLIP '{base}' has {tower}.{field}={getattr(found, field)}, but the checkpoint was "
                        f"trained on {getattr(expected, field)}: pass base_model= with the CLIP that it was trained on."
                    )
        state = clip.state_dict()
        fingerprint = weights_fingerprint(state)
        if config.base_fingerprint and fingerprint != config.base_fingerprint:
            raise ValueError(
                f"Base CLIP '{base}' has other weights (fingerprint {fingerprint}) than the one that the checkpoint "
                f"was trained on ({config.base_fingerprint}): pass base_model= with that one."
            )
        return {f"clip.{name}": tensor for name, tensor in state.items()}


def _set_tower_dtypes(config: Any, dtype: torch.dtype | str | None) -> None:
    """Ask for the towers in the model's dtype: CLIP builds them in that of their own configurations."""
    dtype = config.dtype if dtype in (None, "auto") else dtype
    for tower in (config.clip_config, config.clip_config.vision_config, config.clip_config.text_config):
        tower.dtype = dtype
