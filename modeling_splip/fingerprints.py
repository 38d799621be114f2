"""Weights: their fingerprint, whether they are those that a configuration records, and where they are offloaded to."""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


def weights_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hex digits that depend on every name, dtype, shape and value."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def quick_checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return a checksum of every tensor's values: five times faster than `weights_fingerprint`.

    Every value is read. PyTorch's version counters would cost nothing, but they do not see edits of `tensor.data`, and
    that is how PEFT merges adapters.
    """
    values = {name: tensor.detach().cpu().contiguous().reshape(-1) for name, tensor in tensors.items()}
    return {name: zlib.crc32(value.view(torch.uint8).numpy().data) for name, value in values.items()}


def loaded_state(model: Any) -> dict[str, Tensor]:
    """Return a model's tensors as `state_dict` does, those that Accelerate has offloaded too.

    Raises:
        ValueError: if a tensor has no values: the model was made on the device "meta", or `device_map` offloads a
            tensor without its module, which Accelerate then never fetches.
    """
    state = dict(model.state_dict())
    return {name: _offloaded(model, name) if tensor.is_meta else tensor for name, tensor in state.items()}


def _offloaded(model: Any, name: str) -> Tensor:
    """Return a tensor from where the hook of its module, or of one around it, keeps it."""
    parts = name.split(".")
    for count in range(len(parts) - 1, -1, -1):
        hook = getattr(model.get_submodule(".".join(parts[:count])), "_hf_hook", None)
        weights = getattr(hook, "weights_map", None)
        if weights is not None:
            return weights[".".join(parts[count:])]
    raise ValueError(
        f"'{name}' has no values, since device_map offloads it without its module, or the model was made on the device "
        "'meta': give whole modules a place in device_map, or load the weights first."
    )


class RecordedWeights:
    """Part of a model whose configuration records a fingerprint of weights that never train.

    The record is believed as long as these weights are the ones that it was made for. If they were changed in place,
    by merging adapters for example, the fingerprint is that of the weights as they are now.

    Attributes:
        fingerprint_field: the configuration's field that holds the fingerprint.
    """

    fingerprint_field: ClassVar[str] = ""
    config: Any
    dtype: Any

    def recorded_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return those of the model's tensors `state` that the recorded fingerprint stands for."""
        raise AttributeError(f"{type(self).__name__} must define recorded_weights.")

    def record_weights(self) -> None:
        """Note that the weights are now those whose fingerprint the configuration records."""
        self._recorded = {self.dtype: self._checksums()}

    def weights_are_recorded(self, state: Mapping[str, Tensor] | None = None) -> bool:
        """Return whether the weights are still those of `record_weights`, in the same or in fewer bits."""
        expected = getattr(self, "_recorded", {}).get(self.dtype)
        return expected is not None and expected == self._checksums(state)

    def recorded_fingerprint(self, state: Mapping[str, Tensor] | None = None) -> str:
        """Return the recorded fingerprint, or that of the weights as they are now if they were changed.

        Args:
            state: the model's tensors, where they are not in the model itself; by default its own.
        """
        recorded = getattr(self.config, self.fingerprint_field)
        if recorded and self.weights_are_recorded(state):
            return str(recorded)
        return weights_fingerprint(self.recorded_weights(loaded_state(self) if state is None else state))

    def _checksums(self, state: Mapping[str, Tensor] | None = None) -> dict[str, int]:
        return quick_checksums(self.recorded_weights(loaded_state(self) if state is None else state))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or cast the model. Cast to fewer bits, the weights still count as the recorded ones."""
        before, known = self.dtype, getattr(self, "_recorded", {})
        after = fn(torch.zeros(1, dtype=before)).dtype
        exact = after not in known and (before == torch.float32 or after.itemsize < before.itemsize)
        same = bool(known) and exact and after != before and self.weights_are_recorded()
        result = super()._apply(fn, recurse)  # type: ignore[misc]
        if same:
            known[after] = self._checksums()
        return result
