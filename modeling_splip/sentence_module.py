"""What sentence-transformers loads of a saved folder: it encodes queries as sketches, and documents as photos."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoProcessor

_MODALITIES = {"query": "sketch", "document": "photo"}  # sentence-transformers' tasks


class SketchPhotoModule(nn.Module):
    """A model and its processor as the one module of a `SentenceTransformer`.

    Nothing of sentence-transformers is imported: it takes any module that has these methods.
    """

    modalities = ("image",)  # of inputs, in the library's words
    save_in_root = True

    def __init__(self, model: Any, processor: Any):
        super().__init__()
        self.model, self.processor = model, processor

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        *,
        cache_folder: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> "SketchPhotoModule":
        """Return the module of a folder or a Hub repository; the arguments are the library's."""
        if backend != "torch":
            raise ValueError(
                f"backend='{backend}' is not supported: use 'torch', or write an ONNX file with "
                "`splip export MODEL --out FILE.onnx`."
            )
        names = ("token", "revision", "local_files_only", "trust_remote_code")
        hub = {"cache_dir": cache_folder} | {name: kwargs[name] for name in names if name in kwargs}
        model = AutoModel.from_pretrained(model_name_or_path, **hub, **(config_kwargs or {}), **(model_kwargs or {}))
        return cls(model, AutoProcessor.from_pretrained(model_name_or_path, **hub, **(processor_kwargs or {})))

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Return the features of B images: `pixel_values` (B, 3, H, W) and `modality`.

        Args:
            inputs: as the processor takes them, or dicts with one under "image".
            prompt: must be empty: images have none.
            task: "query" for sketches or "document" for photos.

        Raises:
            ValueError: without a task, or with a prompt.
        """
        if task not in _MODALITIES:
            raise ValueError(
                "encode() does not say what the images are: use encode_query for sketches, encode_document for photos."
            )
        if prompt:
            raise ValueError(f"Images take no prompt, got {prompt!r}: leave it out.")
        images = [each["image"] if isinstance(each, dict) else each for each in inputs]
        pixel_values = self.processor(images=images, modality=_MODALITIES[task])["pixel_values"]
        return {"pixel_values": pixel_values, "modality": _MODALITIES[task]}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Return the features with `sentence_embedding`, the embeddings (B, D): unit norm, float32."""
        output = self.model(features["pixel_values"], features["modality"], return_class_embeds=False, return_dict=True)
        return features | {"sentence_embedding": output.embeds.to(torch.float32)}

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return self.model.config.projection_dim

    def save(self, output_path: str, safe_serialization: bool = True) -> None:
        """Save model and processor, as they were loaded from."""
        if not safe_serialization:
            raise ValueError("Weights are saved as safetensors alone: leave safe_serialization=False out.")
        self.model.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
