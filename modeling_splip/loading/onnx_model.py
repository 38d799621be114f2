"""A model in an ONNX file that `splip export` wrote: ONNX Runtime computes, the file's metadata say the rest."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil

from ..configuration_retriever import check_modality
from ..modeling_base import RetrievalModel
from ..processing_splip import SplipProcessor

# Metadata of the file: what is said of the model, and the digest of the whole file, with zeros in the digest's place.
FACTS, DIGEST = "splip", "splip.digest"
NO_DIGEST = b"0" * 32
# Inputs and output of the graph. A model that encodes both modalities alike has no second input.
PIXELS, IS_SKETCH, EMBEDS = "pixel_values", "is_sketch", "embeds"
# Where ONNX Runtime may compute, the fastest first.
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxModel(nn.Module):
    """The encoder of sketches and photos in a file, with what searching and evaluating need of a model.

    Its fingerprint is that of the model that was exported, so that galleries may be built by the one and searched by
    the other. If the file was changed since, by quantising its weights for example, its fingerprint is another one.

    Attributes:
        config: the exported model's projection_dim, class_names, base_model and model_type.
        title, arxiv: its method's name and paper.
    """

    device = torch.device("cpu")  # of the tensors that are passed in; ONNX Runtime moves them where it computes

    def __init__(self, path: str | Path):
        """Open a file.

        Raises:
            OSError: if it is damaged, or ONNX Runtime is not installed.
            ValueError: if another program wrote it.
        """
        super().__init__()
        content = Path(path).read_bytes()
        self.name_or_path = str(path)
        self._session = _session(path, content)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if FACTS not in metadata:
            raise ValueError(
                f"'{path}' does not say how images are prepared for it: pass an ONNX file that splip export wrote."
            )
        self.facts = json.loads(metadata[FACTS])
        names = ("projection_dim", "class_names", "base_model", "model_type")
        self.config = SimpleNamespace(**{name: self.facts[name] for name in names})
        self.title, self.arxiv = self.facts["title"], self.facts["arxiv"]
        own = metadata[DIGEST]
        self._changed = None if own == digest(content.replace(own.encode(), NO_DIGEST)) else digest(content)
        self._inputs = {each.name: each.shape for each in self._session.get_inputs()}

    def encode(self, pixel_values: Tensor, modality: str) -> Tensor:
        """Return the embeddings of B images of one modality: (B, D), unit norm, float32, where the images are.

        Args:
            pixel_values: (B, 3, H, W) as the processor gives them.
            modality: "sketch" or "photo".

        Raises:
            ValueError: if the modality is unknown or the images have another shape or size.
        """
        check_modality(modality)
        expected, found = tuple(self._inputs[PIXELS][1:]), tuple(pixel_values.shape)
        if found[1:] != expected:
            raise ValueError(f"pixel_values must be (batch, {', '.join(map(str, expected))}), got {found}.")
        if not found[0]:
            return pixel_values.new_zeros(0, self.config.projection_dim, dtype=torch.float32)
        feed: dict[str, Any] = {PIXELS: pixel_values.float().cpu().numpy()}
        if IS_SKETCH in self._inputs:
            feed[IS_SKETCH] = np.array(modality == "sketch")
        return torch.from_numpy(self._session.run([EMBEDS], feed)[0]).to(pixel_values.device)

    def for_search(self) -> "OnnxModel":
        """Return the model itself: no other form costs less."""
        return self

    def model_fingerprint(self) -> str:
        """Return the fingerprint of the model that was exported; another one if the file was changed since."""
        return self._changed or self.facts["model_fingerprint"]

    def __reduce__(self) -> tuple[type["OnnxModel"], tuple[str]]:
        """Return how another process gets the model: from the same file."""
        return OnnxModel, (os.path.abspath(self.name_or_path),)

    # Of the model together with its processor, by the same rule as for every model.
    fingerprint = RetrievalModel.fingerprint


class ImagesOnly(SplipProcessor):
    """A processor without a tokenizer: an ONNX file holds no text tower."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Return the class of a part of the processor, as transformers does, which may be missing here."""
        return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)


def load_onnx(path: str | Path) -> tuple[OnnxModel, SplipProcessor]:
    """Return the model in a file that `splip export` wrote, and its processor, which takes images alone.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it is damaged, or ONNX Runtime is not installed.
        ValueError: if another program wrote it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file '{path}': write it with splip export.")
    model = OnnxModel(path)
    image, ours = model.facts["image_processor"], model.facts["processor"]
    return model.eval(), ImagesOnly(CLIPImageProcessorPil(**image), None, **ours)


def digest(content: bytes) -> str:
    """Return 32 hex digits of a file's content."""
    return hashlib.blake2b(content, digest_size=len(NO_DIGEST) // 2).hexdigest()


def _session(path: str | Path, content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise OSError(f"'{path}' needs onnxruntime, which is not installed: pip install onnxruntime.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    known = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(content, options, [each for each in _PROVIDERS if each in known])
    except Exception as error:  # ONNX Runtime has a dozen kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(f"'{path}' is damaged ({reason.rstrip('.')}): export the model again.") from error
