"""Checkpoints: how a model is saved and loaded, which files are read, and what is said where one is damaged."""

import copy
import json
import os
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.configuration_utils import PretrainedConfig
from transformers.utils import cached_file

from .configuration_retriever import check_against, set_tower_dtypes

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's
MODULES = "modules.json"  # sentence-transformers'
# Arguments of `from_pretrained` that say where files come from.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_FOR_THE_MODEL = ("dtype", "torch_dtype", "attn_implementation")


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


def write_modules(folder: str | os.PathLike, module: type) -> None:
    """Write the file by which sentence-transformers finds its module in a saved folder."""
    kind = f"{module.__module__.rpartition('.')[2]}.{module.__name__}"
    with open(os.path.join(folder, MODULES), "w", encoding="utf-8") as file:
        json.dump([{"idx": 0, "name": "0", "path": "", "type": kind}], file, indent=2)


def _find(name: str, file: str, hub: Mapping[str, Any]) -> str | None:
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)


def _read_file(file: Any, name: str) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise OSError(f"The weights in '{name}' are damaged ({error}): save or download the model again.") from error


def check_report(report: Mapping[str, Any], name: str, kind: str) -> None:
    """Raise ValueError if transformers' loading report of a checkpoint has missing, unexpected or other tensors.

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
    for key, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"'{name}' has {key} of shape {tuple(found)}, but a {kind} with these settings has {tuple(expected)}: "
            "load it with the settings that it was trained with."
        )


class Checkpoints:
    """Part of a model: how it is saved and loaded.

    Attributes:
        fingerprint_field: the configuration's field that holds the fingerprint of weights that never train.
        sentence_module: what sentence-transformers loads of a saved folder.
    """

    config_class: ClassVar[Any]
    sentence_module: ClassVar[type]
    fingerprint_field: ClassVar[str] = ""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model; what an earlier save left in the folder never loads.

        Raises:
            ValueError: with `variant=`, or if another model would be loaded from the folder.
        """
        check_no_variant(kwargs.get("variant"))
        check_can_save(save_directory, self)
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        if kwargs.get("is_main_process", True) and is_first_process():
            remove_older_weights(save_directory)
            write_modules(save_directory, self.sentence_module)

    @classmethod
    def base_state(
        cls, config: Any, base_model: str | None, hub: dict[str, Any], state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint, its configuration and tensors, leaves to the base CLIP: here none."""
        return {}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, base_model: str | None = None, **kwargs: Any
    ):
        """Load a checkpoint of any form, from safetensors only.

        Args:
            pretrained_model_name_or_path: folder or Hub id; None with `config=` and `state_dict=`.
            base_model: for an adapter-only checkpoint, the base CLIP's folder or id instead of the config's.
            **kwargs: as for every transformers model: `dtype`, `device_map`, `revision`, ...; `config` instead of the
                checkpoint's, or fields of it (`output_hidden_states=True`); `state_dict` instead of its weights, with
                or without the base CLIP's.

        Returns:
            The model, frozen where it never trains; with `output_loading_info=True` also transformers' report.

        Raises:
            OSError: in one sentence, if there is no such checkpoint or its weights are damaged.
            ValueError: if it is of another kind, lacks tensors, or the base CLIP has another shape or other weights
                than the one trained on.
        """
        check_no_variant(kwargs.pop("variant", None))
        with_report = kwargs.pop("output_loading_info", False)
        name = None if pretrained_model_name_or_path is None else str(pretrained_model_name_or_path)
        hub = split_hub_arguments(kwargs)
        given = kwargs.pop("state_dict", None)
        config, kwargs = cls._configuration(name, hub, kwargs)
        state = read_tensors(str(name), hub) if given is None else dict(given)
        state = cls.base_state(config, base_model, base_arguments(hub), state) | state
        set_tower_dtypes(config, kwargs.get("dtype", kwargs.get("torch_dtype")), state)
        # Tensors mapped from a file are not aligned like those made here, and kernels round differently on them.
        state = {key: tensor.clone() for key, tensor in state.items()}
        check_against(config.clip_config, state)
        skip = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs |= {"config": config, "state_dict": state, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = super().from_pretrained(None, *args, **kwargs)  # type: ignore[misc]
        check_report(report if not skip else report | {"mismatched_keys": ()}, name or "state_dict", cls.__name__)
        if given is None:
            model.record_weights()
        if name is not None:
            model.name_or_path = model.config.name_or_path = name
        if base_model is not None:
            model.config.base_model = str(base_model)
        model.freeze()  # transformers makes every parameter anew
        return (model, report) if with_report else model

    @classmethod
    def _configuration(cls, name: str | None, hub: dict[str, Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Return the configuration of `from_pretrained`, and those of its arguments that are no fields of it."""
        config = kwargs.pop("config", None)
        if isinstance(config, PretrainedConfig):
            config = copy.deepcopy(config)
        else:
            # These are for the model, though the configuration has fields of the same names.
            own: dict[str, Any] = {key: kwargs.pop(key) for key in _FOR_THE_MODEL if key in kwargs}
            config, kwargs = cls._read_config(str(config or name), hub, **kwargs)
            kwargs |= own
        if name is not None:
            # A live model's configuration does not know in which form this checkpoint was saved.
            stored = cls._read_config(name, hub)[0]
            for field in (cls.fingerprint_field, "checkpoint"):
                if hasattr(stored, field):
                    setattr(config, field, getattr(stored, field))
        return config, kwargs

    @classmethod
    def _read_config(cls, name: str, hub: dict[str, Any], **fields: Any) -> tuple[Any, dict[str, Any]]:
        """Read a checkpoint's configuration, of this class and no other; return it, and what is no field of it."""
        found = read_model_type(name, hub)
        if found != cls.config_class.model_type:
            raise ValueError(
                f"'{name}' is a '{found}' model, and {cls.__name__} loads '{cls.config_class.model_type}' ones: use "
                "AutoModel, or its own class."
            )
        return cls.config_class.from_pretrained(name, return_unused_kwargs=True, **hub, **fields)
