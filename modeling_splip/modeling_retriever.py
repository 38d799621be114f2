"""What every trained model has in common: a frozen CLIP with small trained parts, and their checkpoints."""

import difflib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel, initialization

from .adapters import LayerNormAdapter
from .adapters_peft import base_names, check_peft, inject_peft
from .class_prompts import frozen_class_embeds, frozen_text_embeds
from .clip_backbone import KeyValue, LayerNorms, dimensions, vision_norms
from .clip_base import load_clip, load_recorded_clip, resolve_base
from .configuration_retriever import MODALITIES, check_class_names, check_prompt_lengths, tokenize_class_prompts
from .fingerprints import loaded_state, weights_fingerprint
from .modeling_base import RetrievalModel


class Retriever(RetrievalModel):
    """A frozen CLIP with small trained parts.

    A subclass builds them in `__init__` (LayerNorms of the vision tower under the name `vision_adapters`), and copies
    what starts from CLIP's own weights in `start_from_clip`.
    """

    clip: CLIPModel
    fingerprint_field = "base_fingerprint"

    @property
    def vision(self) -> CLIPModel:
        """The module that holds CLIP's vision tower and projection."""
        return self.clip

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the tensors that a checkpoint does not hold."""
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            initialization.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)

    def post_init(self) -> None:
        """Initialise, and put PEFT's layers into the base CLIP if the configuration has some."""
        super().post_init()
        if self.config.peft:
            self.inject(self.clip, self.config)

    @classmethod
    def inject(cls, clip: CLIPModel, config: Any) -> None:
        """Put the configuration's PEFT layers into a base CLIP."""
        inject_peft(clip, config.peft)

    def build_vision_adapters(self, shared: bool) -> nn.ModuleDict:
        """Return LayerNorm adapters of the vision tower: one for both modalities, or one for each."""
        d_v, _, l_v, _ = dimensions(self.config.clip_config)
        eps = self.config.clip_config.vision_config.layer_norm_eps
        names = ("shared",) if shared else MODALITIES
        return nn.ModuleDict({name: LayerNormAdapter(2 * l_v + 2, d_v, eps) for name in names})

    def layer_norms(self, modality: str) -> LayerNorms:
        """Return the vision LayerNorms that images of this modality pass, in the order of `vision_norms`."""
        adapters = getattr(self, "vision_adapters", None)
        if adapters is None:
            return vision_norms(self.clip)
        return adapters[modality] if modality in adapters else adapters["shared"]

    def frozen_class_embeds(self, modality: str = "photo") -> Tensor:
        """Return the embeddings of the seen classes by the frozen CLIP text tower, no prompts: (C, D), unit norm."""
        if not self.config.class_token_ids:
            raise ValueError("This model has no class_names, and there are no class embeddings without them.")
        prefix, classes = self.config.prefix_token_ids[modality], self.config.class_token_ids
        return frozen_class_embeds(self.clip, prefix, classes, self.attention)

    def condition(
        self, embeddings: Tensor, modality: str, return_class_embeds: bool
    ) -> tuple[Sequence[KeyValue | None] | None, Tensor | None]:
        """Return no prompts, and the class embeddings of the frozen text tower, the same for all images: (1, C, D)."""
        if not return_class_embeds or not self.config.class_names:
            return None, None
        return None, self.frozen_class_embeds(modality)[None]

    @property
    def text_prompt_count(self) -> int:
        """How many learned tokens each class prompt holds besides its own: here none."""
        return 0

    @property
    def stores_image_means(self) -> bool:
        """Whether the model stores a mean over the training images of each modality, to be set before training.

        If so, training takes `mean_patch` of every training image of a modality, and gives the mean of these over the
        images to `set_domain_mean`.
        """
        return False

    def mean_patch(self, pixel_values: Tensor) -> Tensor:
        """Return what each image adds to the mean that the model stores: (B, d_v).

        Raises:
            ValueError: if the model stores none (`stores_image_means`).
        """
        raise ValueError(f"{type(self).__name__} stores no mean of the training images, so no image adds to it.")

    def set_domain_mean(self, modality: str, mean: Tensor) -> None:
        """Store the mean of `mean_patch` over the training images of one modality, (d_v,).

        Raises:
            ValueError: if the model stores none (`stores_image_means`), or it has another shape.
        """
        raise ValueError(f"{type(self).__name__} stores no mean of the training images: do not set one.")

    def layer_norm_parameters(self) -> list[nn.Parameter]:
        """Return the weights and biases of the LayerNorms that are trained, for a learning rate of their own."""
        adapters = [module for module in self.modules() if isinstance(module, LayerNormAdapter)]
        return [parameter for adapter in adapters for parameter in adapter.parameters()]

    def freeze(self) -> None:
        """Freeze the base CLIP; everything else trains."""
        base = base_names(self.clip)
        for name, parameter in self.clip.named_parameters():
            parameter.requires_grad_(name not in base)

    def train(self, mode: bool = True) -> "Retriever":
        """Set training mode. The frozen CLIP stays in evaluation mode, except for a tower that PEFT trains."""
        super().train(mode)
        self.clip.eval()
        if self.config.peft:
            for modality in MODALITIES:
                self.tower(modality).vision_model.train(mode)
        return self

    def start_from_clip(self) -> None:
        """Copy the base CLIP's weights into the trained parts that start from them: here the LayerNorm adapters."""
        check_prompt_lengths(self.config, self.text_prompt_count)
        for adapter in getattr(self, "vision_adapters", {}).values():
            adapter.copy_from(vision_norms(self.clip))

    @classmethod
    def class_prompt_settings(cls, tokenizer: Any, class_names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
        """Return the token ids of the class prompts as configuration fields, so that encoding needs no tokenizer."""
        template = settings.get("template", cls.config_class.defaults()["template"])
        prefixes, suffixes = tokenize_class_prompts(tokenizer, template, class_names)
        return {"prefix_token_ids": prefixes, "class_token_ids": suffixes}

    @classmethod
    def from_clip(cls, base: str, class_names: list[str] | None = None, **settings: Any) -> "Retriever":
        """Build an untrained model on a pretrained CLIP.

        Args:
            base: the pretrained CLIP: folder, Hub id, or the name of a packaged one, such as "mini_clip".
            class_names: readable names of the seen classes, each once; some methods need at least one.
            **settings: fields of the configuration class.

        Returns:
            The model in evaluation mode, in torch's default dtype.

        Raises:
            ValueError: if a class name is empty, occurs twice or is too long for the text tower, or the configuration
                has no such field or value.
            OSError: if there is no such CLIP.
        """
        known = [*cls.config_class.defaults(), "attn_implementation"]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ValueError(f"{cls.config_class.__name__} has no field '{name}' (nearest: '{near}').")
        check_class_names(class_names)
        clip = load_clip(base)
        clip.config.name_or_path = ""  # a path of this machine would be saved with the model
        class_names = list(class_names or [])
        if class_names:
            tokenizer = AutoTokenizer.from_pretrained(resolve_base(base), trust_remote_code=False)
            settings |= cls.class_prompt_settings(tokenizer, class_names, settings)
        peft = settings.pop("peft", None)
        config = cls.config_class(
            clip_config=clip.config,
            base_model=str(base),
            base_fingerprint=weights_fingerprint(clip.state_dict()),
            class_names=class_names,
            **settings,
        )
        config.set_tower_dtypes(torch.get_default_dtype())  # whatever the base is stored in
        model = cls(config)
        model.clip.load_state_dict(clip.state_dict())
        model.start_from_clip()
        if peft:  # some kinds start from the weights that they adapt
            model.config.peft = peft
            cls.inject(model.clip, model.config)
            check_peft(model.eval())
        model.record_weights()
        model.freeze()
        return model.eval()

    def adapter_state(self) -> dict[str, Tensor]:
        """Return the tensors that are not the base CLIP's: what an adapter-only checkpoint holds."""
        return self._without_base(self.state_dict())

    def _without_base(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that are not the base CLIP's."""
        base = {f"clip.{name}" for name in base_names(self.clip)}
        return {name: tensor for name, tensor in state.items() if name not in base}

    def recorded_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of the tensors `state` that the recorded fingerprint stands for: the base CLIP's own."""
        return {plain: state[f"clip.{name}"] for name, plain in base_names(self.clip).items()}

    def model_fingerprint(self) -> str:
        """Return 16 hex digits of base weights, adapter tensors and settings."""
        digest = hashlib.blake2b(digest_size=8)
        state = loaded_state(self)
        base = self.recorded_fingerprint(state)
        digest.update(base.encode())
        digest.update(weights_fingerprint(self._without_base(state)).encode())
        settings = self.config.fingerprinted() | {"base_fingerprint": base}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return embeddings of free texts by the frozen CLIP text tower: (N, D), unit norm, float32."""
        return frozen_text_embeds(self.clip, input_ids, attention_mask).float()

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, in PEFT's form."""
        train, total = self.num_parameters(only_trainable=True), self.num_parameters()
        print(f"trainable params: {train:,d} || all params: {total:,d} || trainable%: {100 * train / total:.4f}")

    def save_pretrained(self, save_directory: str | os.PathLike, full: bool | None = None, **kwargs: Any) -> None:
        """Save the adapters, or with `full` the base CLIP's weights too.

        An adapter-only checkpoint names its base CLIP in the config and takes the weights from there when loaded.

        Args:
            save_directory: the folder; it need not exist.
            full: by default false if the configuration names a base CLIP.
            **kwargs: as for every transformers model.

        Raises:
            ValueError: without `full`, if the configuration names no base CLIP, or the CLIP in this model is no longer
                that one.
        """
        full = not self.config.base_model if full is None else full
        state = kwargs.pop("state_dict", None) or loaded_state(self)
        config = self.config
        before = config.checkpoint, config.base_fingerprint
        fingerprint = self._base_fingerprint(state)
        if not full:
            if not config.base_model:
                raise ValueError("This model does not name its base CLIP (config.base_model): save it with full=True.")
            if config.base_fingerprint not in (None, fingerprint):
                raise ValueError(
                    f"The CLIP inside this model is no longer base CLIP '{config.base_model}', since its weights were "
                    "changed, by merging adapters for example: save it with full=True."
                )
            state = self._without_base(state)
        try:
            config.checkpoint, config.base_fingerprint = "full" if full else "adapter", fingerprint
            super().save_pretrained(save_directory, state_dict=state, **kwargs)
        finally:
            config.checkpoint, config.base_fingerprint = before

    def _base_fingerprint(self, state: Mapping[str, Tensor]) -> str:
        """Return the fingerprint of the base CLIP in `state`, or of this model's if `state` holds adapters alone."""
        complete = all(f"clip.{name}" in state for name in base_names(self.clip))
        return self.recorded_fingerprint(state if complete else None)

    @classmethod
    def base_state(
        cls, config: Any, base_model: str | None, hub: dict[str, Any], state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the base CLIP's tensors, named as in this model; none for a checkpoint that holds them.

        Raises:
            OSError: if there is no such CLIP.
            ValueError: if it is another CLIP than the one that the checkpoint was trained on.
        """
        if config.checkpoint == "full" or "clip.logit_scale" in state:
            return {}
        clip = load_recorded_clip(base_model or config.base_model, config, **hub)
        tensors = clip.state_dict()
        if config.peft:
            cls.inject(clip, config)
        base = {f"clip.{name}": tensors[plain] for name, plain in base_names(clip).items()}
        return {} if base.keys() & state.keys() else base  # never a mixture of two CLIPs
