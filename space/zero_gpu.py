"""ZeroGPU, the GPU that Hugging Face lends a Space for the seconds of a call: models encode there."""

import threading
from collections.abc import Callable
from typing import Any

import torch

# What Hugging Face reckons with before it lends; a batch of pictures takes less.
SECONDS = 15


def lend_gpu(model: Any) -> bool:
    """Let a model encode on ZeroGPU; return false, and change nothing, where the library `spaces` is not installed.

    Only tensors pass between the Space and the process that has the GPU. On other hardware `spaces` does nothing, and
    the model encodes on a GPU if there is one.

    Args:
        model: a retrieval model; its `encode`, and `encode_text` where it has one, are replaced.
    """
    try:
        from spaces import GPU
    except ImportError:
        return False
    lock = threading.Lock()

    def on_gpu(encode: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(*args: Any, **kwargs: Any) -> torch.Tensor:
            device = "cuda" if torch.cuda.is_available() else model.device
            with lock:
                model.to(device)
            args = tuple(_to(value, device) for value in args)
            return encode(*args, **{name: _to(value, device) for name, value in kwargs.items()}).cpu()

        return GPU(run, duration=SECONDS)

    for name in ("encode", "encode_text"):
        if hasattr(model, name):
            setattr(model, name, on_gpu(getattr(model, name)))
    return True


def _to(value: Any, device: Any) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
