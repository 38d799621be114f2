"""The files of a checkpoint: which ones are read, and what is said where one is missing or damaged."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import cached_file

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's
# Arguments of `from_pretrained` that say where files come from.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def split_hub_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments that say where files come from out of `kwargs`, and return them."""
    return {key: kwargs.pop(key) for key in HUB_ARGUMENTS if key in kwargs}


def base_arguments(hub: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the hub arguments that hold for the base CLIP's repository too."""
    return {key: hub[key] for key in ("cache_dir", "local_files_only", "token") if key in hub}


def read_model_type(name: str, hub: Mapping[str, Any]) -> str | None:
    """Return the model type that a checkpoint's configuration names.

    Args:
        name: folder or Hub id.
        hub: where files come from, some of `HUB_ARGUMENTS`.

    Raises:
        OSError: if there is no configuration.
        ValueError: if it is damaged.
    """
    try:
        file = _find(name, CONFIG, hub)
    except OSError:
        file = None
    if file is None and os.path.isdir(name):
        raise OSError(f"'{name}' has no {CONFIG}: pass what save_pretrained or training wrote.")
    if file is None:
        raise OSError(
            f"'{name}' is no local checkpoint folder, and no configuration of that name came from the Hub or the "
            "cache: check the name and the network."
        )
    try:
        with open(file, encoding="utf-8") as opened:
            return json.load(opened).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{name}/{CONFIG}' is damaged: save or download the model again.") from error


def read_tensors(name: str, hub: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's tensors, from its one file or from the shards that its index names; safetensors only.

    Args:
        name: folder or Hub id.
        hub: where files come from, some of `HUB_ARGUMENTS`.

    Raises:
        OSError: if there are none, or they are damaged.
        ValueError: if the index names a file outside of the checkpoint, or there are weights of two saves.
    """
    single, index = (_find(name, file, hub) for file in (WEIGHTS, INDEX))
    if single is not None and index is not None:
        raise ValueError(
            f"'{name}' holds weights of two saves, {WEIGHTS} and {INDEX}: delete the older one, or save the model "
            "again."
        )
    if single is not None:
        return _read_file(single, name)
    if index is None:
        raise OSError(f"'{name}' has no {WEIGHTS}: save or download the model again; other formats are never read.")
    try:
        with open(index, encoding="utf-8") as file:
            shards = sorted(map(str, set(json.load(file)["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{name}/{INDEX}' is damaged: save or download the model again.") from error
    for shard in shards:
        if os.path.basename(shard) != shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"'{name}/{INDEX}' names '{shard}', which is no safetensors file beside it: do not use it."
            )
    parts = [_read_file(cached_file(name, shard, **hub), name) for shard in shards]
    return {key: tensor for part in parts for key, tensor in part.items()}


def check_no_variant(variant: str | None) -> None:
    """Raise ValueError if a variant of the weights is asked for: a folder holds one form of one model."""
    if variant is not None:
        raise ValueError(f"variant='{variant}' is not supported: use a folder of its own for each variant.")


def check_can_save(folder: str | os.PathLike, model: Any) -> None:
    """Raise ValueError if what is saved to the folder would not be what loads.

    Args:
        folder: where the model is to be saved; it need not exist.
        model: the model; PEFT's adapters must be those that its configuration names.
    """
    if not getattr(model.config, "peft", None) and any(hasattr(module, "base_layer") for module in model.modules()):
        raise ValueError(
            "This model has adapters that PEFT added later, and a checkpoint cannot hold them: merge them and save "
            "with full=True, or build the model with peft= and their settings."
        )
    if os.path.exists(os.path.join(folder, ADAPTER_CONFIG)):
        raise ValueError(
            f"'{os.fspath(folder)}' holds {ADAPTER_CONFIG}, for which AutoModel loads another model: save to another "
            "folder."
        )


def is_first_process() -> bool:
    """Return whether this is the first of the processes that train together, or the only one."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def remove_older_weights(folder: str | os.PathLike) -> None:
    """Remove the weights of an earlier save: the one file beside new shards, or the index beside a new one file.

    transformers has removed older shards when this is called.
    """
    sharded = any(re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", file) for file in os.listdir(folder))
    older = os.path.join(folder, WEIGHTS if sharded else INDEX)
    if os.path.exists(older):
        os.remove(older)


def _find(name: str, file: str, hub: Mapping[str, Any]) -> str | None:
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)


def _read_file(file: Any, name: str) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise OSError(f"The weights in '{name}' are damaged ({error}): save or download the model again.") from error


@contextmanager
def shapes_fit(name: str) -> Iterator[None]:
    """Raise ValueError where transformers finds that a configuration and its weights have other shapes."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ValueError(
            f"The configuration of '{name}' does not fit its weights, or the memory: save or download the model again."
        ) from error


def check_report(report: Mapping[str, Any], name: str, kind: str) -> None:
    """Raise ValueError if transformers' loading report of a checkpoint has missing or unexpected tensors.

    Args:
        report: what `output_loading_info=True` gives.
        name: the checkpoint's folder or Hub id.
        kind: the model class that was loaded.
    """
    for key, word in (("missing_keys", "lacks"), ("unexpected_keys", "holds besides")):
        if report[key]:
            raise ValueError(
                f"'{name}' {word} {len(report[key])} tensors of a {kind}, such as {min(report[key])}: save or "
                "download the model again."
            )
