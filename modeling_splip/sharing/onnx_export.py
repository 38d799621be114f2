"""A model as one ONNX file that encodes sketches and photos and says how they are prepared."""

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript  # noqa: F401 - torch needs it to write ONNX; here, so that the command says where it is missing
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ..common.files import written_whole
from ..configuration_retriever import MODALITIES
from ..loading.onnx_model import DIGEST, EMBEDS, FACTS, IS_SKETCH, NO_DIGEST, PIXELS, OnnxModel, digest
from ..modeling_base import RetrievalModel
from .private import shared_base

# The largest difference between an embedding in PyTorch (float32) and in the file; our choice.
LIMITS = {"float32": 1e-4, "float16": 2e-2}
_MOST_BYTES = 2**31 - 2**20  # what a protobuf file can hold, with room for the graph
_BRANCHES = {"sketch": "then_branch", "photo": "else_branch"}


@dataclass
class OnnxReport:
    """What was written.

    Attributes:
        inputs: the graph's inputs, such as "pixel_values (batch, 3, 224, 224) float32".
        opset: version of ONNX's operators.
        dtype: "float32" or "float16", of the weights.
        bytes: size of the file.
        differences: modality -> largest difference from PyTorch's embeddings in float32.
        fingerprint: of the file with its processor.
    """

    inputs: list[str]
    opset: int
    dtype: str
    bytes: int
    differences: dict[str, float]
    fingerprint: str


def export_onnx(model: RetrievalModel, processor: Any, out: str | os.PathLike, fp16: bool = False) -> OnnxReport:
    """Write a model to one ONNX file, which takes a batch of any size, and compare it with PyTorch.

    The graph takes `pixel_values` (B, 3, H, W), float32, and a boolean `is_sketch`, and gives `embeds` (B, D), unit
    norm, float32. A model that encodes both modalities alike has no `is_sketch`. Weights that both modalities share are
    stored once. A model with domain conditioning is folded first.

    Args:
        model: of any method, on the CPU.
        processor: the model's; its settings go to the file's metadata.
        out: the file; its name must end in .onnx, so that it can be loaded by its name.
        fp16: store weights and compute in half precision.

    Raises:
        ValueError: if the name or the size does not fit, or the file does not compute what PyTorch computes. Then no
            file is written.
    """
    out = Path(out).expanduser()
    if out.suffix != ".onnx":
        raise ValueError(f"The file's name must end in .onnx, got '{out}'.")
    model = model.for_search().eval()
    exported = copy.deepcopy(model).half() if fp16 else model
    size = sum(tensor.nbytes for tensor in exported.state_dict().values())
    if size > _MOST_BYTES:
        advice = "this model is too large for it" if fp16 else "pass --fp16"
        raise ValueError(f"The model has {size / 2**30:.1f} GiB of weights, and one ONNX file holds 2: {advice}.")
    with _quiet():
        sketch, photo = (_graph(exported, modality) for modality in MODALITIES)
    proto = sketch if sketch.graph == photo.graph else _joined(sketch, photo)
    dtype = "float16" if fp16 else "float32"
    for key, value in ((FACTS, json.dumps(_facts(exported, processor, dtype))), (DIGEST, NO_DIGEST.decode())):
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    with written_whole(out) as partial:
        content = proto.SerializeToString()
        partial.write_bytes(content.replace(NO_DIGEST, digest(content).encode()))
        written = OnnxModel(partial)
        differences = {modality: _difference(model, written, modality) for modality in MODALITIES}
        if not max(differences.values()) < LIMITS[dtype]:  # NaN too
            raise ValueError(
                f"The ONNX file does not compute what PyTorch computes (embeddings differ by up to "
                f"{max(differences.values()):.1g}), so it was not written: "
                + ("export without --fp16." if fp16 else "use another version of torch or onnxscript.")
            )
    inputs = [_described(each) for each in proto.graph.input]
    opset = proto.opset_import[0].version
    return OnnxReport(inputs, opset, dtype, len(content), differences, written.fingerprint(processor))


class _Encoder(nn.Module):
    """One modality of a model, from pixels in float32."""

    def __init__(self, model: RetrievalModel, modality: str):
        super().__init__()
        self.model, self.modality = model, modality

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the embeddings (B, D), float32."""
        return self.model.encode(pixel_values.to(self.model.dtype), self.modality)


@torch.no_grad()
def _graph(model: RetrievalModel, modality: str) -> onnx.ModelProto:
    """Return one modality's graph, without anything about this machine."""
    program = torch.onnx.export(
        _Encoder(model, modality),
        (_images(model, 2),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=[PIXELS],
        output_names=[EMBEDS],
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    graph.ClearField("doc_string")
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.ClearField("metadata_props")  # stack traces, with paths
        part.ClearField("doc_string")
    used = {name for node in graph.node for name in node.input}
    for tensor in [each for each in graph.initializer if each.name not in used]:
        graph.initializer.remove(tensor)
    del proto.metadata_props[:], graph.metadata_props[:]
    return proto


def _joined(sketch: onnx.ModelProto, photo: onnx.ModelProto) -> onnx.ModelProto:
    """Return one model that computes by the graph of the one modality or of the other, as `is_sketch` says."""
    weights: dict[bytes, TensorProto] = {}  # the content of a tensor -> the tensor, stored once
    branches = {}
    for modality, proto in zip(MODALITIES, (sketch, photo), strict=True):
        graph, names = proto.graph, {}
        for tensor in graph.initializer:
            own = tensor.name
            tensor.name = ""
            kept = weights.setdefault(tensor.SerializeToString(deterministic=True), tensor)
            kept.name = kept.name or f"{modality}.{own}"
            names[own] = kept.name
        values = {name for node in graph.node for name in node.output}
        names |= {name: f"{modality}.{name}" for name in values}
        for node in graph.node:
            node.name = f"{modality}.{node.name}"
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in (*graph.output, *graph.value_info):
            value.name = names.get(value.name, value.name)
        branches[_BRANCHES[modality]] = helper.make_graph(
            graph.node, modality, [], graph.output, value_info=graph.value_info
        )
    choice = helper.make_node("If", [IS_SKETCH], [EMBEDS], **branches)
    flag = helper.make_tensor_value_info(IS_SKETCH, TensorProto.BOOL, [])
    output = copy.deepcopy(photo.graph.output[0])
    output.name = EMBEDS
    pixels = photo.graph.input[0]
    graph = helper.make_graph([choice], "encoder", [pixels, flag], [output], list(weights.values()))
    return helper.make_model(graph, opset_imports=photo.opset_import, ir_version=photo.ir_version)


def _facts(model: RetrievalModel, processor: Any, dtype: str) -> dict[str, Any]:
    """Return what the file says of itself: how images are prepared, and which model it is."""
    settings = processor.image_settings()
    image = {name: value for name, value in settings.items() if hasattr(processor.image_processor, name)}
    return {
        "preprocessing": (
            "Sketches are dark strokes on white: pad them with white to a square. Then, for sketches and photos, "
            "resize, crop the centre, rescale and normalise as image_processor says, in RGB."
        ),
        "image_processor": image,
        "processor": {"invert_sketches": processor.invert_sketches},
        "modalities": "is_sketch says which a batch holds; without this input both are encoded alike.",
        "output": "embeds are of unit norm: rank photos by their dot product with a sketch.",
        "title": model.title,
        "arxiv": model.arxiv,
        "model_type": model.config.model_type,
        "projection_dim": model.config.projection_dim,
        "base_model": shared_base(model.config),
        "class_names": list(model.config.class_names),
        "dtype": dtype,
        "model_fingerprint": model.model_fingerprint(),
    }


def _images(model: RetrievalModel, count: int) -> Tensor:
    """Return images of the model's size, (B, 3, H, W), the same in every call."""
    vision = model.config.clip_config.vision_config
    shape = (count, vision.num_channels, vision.image_size, vision.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _difference(model: RetrievalModel, written: OnnxModel, modality: str) -> float:
    """Return the largest difference between the embeddings in PyTorch and in the file, of one image and of three."""
    batches = [_images(model, count) for count in (1, 3)]
    pairs = [(model.encode(images, modality).numpy(), written.encode(images, modality).numpy()) for images in batches]
    return float(max(np.abs(own - other).max() for own, other in pairs))


def _described(value: onnx.ValueInfoProto) -> str:
    kind = value.type.tensor_type
    sides = [side.dim_param or str(side.dim_value) for side in kind.shape.dim]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return " ".join([value.name, *([f"({', '.join(sides)})"] if sides else []), dtype])


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporter says of libraries and of its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
