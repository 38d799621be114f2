"""A model and its processor by name: a checkpoint of any method, a baseline, or a file that `splip export` wrote.

- `by_name`: what a name means, and what is refused.
- `baselines`: frozen CLIP, by the sketch itself or by the name of what it shows.
- `onnx_model`: a model in an ONNX file, computed by ONNX Runtime.
"""

from ..common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BASELINES": "by_name",
        "DEFAULT_MODEL": "by_name",
        "LARGER_MODEL": "by_name",
        "about_default": "by_name",
        "check_precision": "by_name",
        "drawn_world_note": "by_name",
        "load_retriever": "by_name",
        "OnnxModel": "onnx_model",
        "TextQueryClip": "baselines",
        "frozen_clip": "baselines",
    },
)
