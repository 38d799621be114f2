"""LayerNorm adapters in PEFT's form, for `PeftModel.from_pretrained(clip, folder, subfolder="peft")`."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from ..class_prompts import text_norms
from ..clip_backbone import vision_norms
from ..common.files import write_json
from ..modeling_retriever import Retriever

# Never at a checkpoint's root: an adapter_config.json there makes AutoModel load the base CLIP instead.
FOLDER = "peft"
_PREFIX, _SUFFIX = "base_model.model.", ".ln_tuning_layers"


def export_peft(model: Retriever, folder: str | Path) -> list[Path]:
    """Write a model's LayerNorm adapters in PEFT's form.

    They go to `peft`, or to `peft/sketch` and `peft/photo` where each modality has its own. Prompts, mappers and other
    parts that PEFT does not know are not written, so PEFT gives the model's embeddings only where nothing but
    LayerNorms was trained.

    Args:
        model: of any method; its `vision_adapters` and `text_adapter` are written where it has them.
        folder: in which `peft` is made.

    Returns:
        The folders that were written; none for a model that trains no LayerNorms.
    """
    text = list(getattr(model, "text_adapter", []))
    names = {id(norm): name for name, norm in model.clip.named_modules()}
    written = []
    for modality, vision in (getattr(model, "vision_adapters", None) or {"shared": []}).items():
        pairs = [*zip(vision_norms(model.clip), vision, strict=True)] if len(vision) else []
        pairs += [*zip(text_norms(model.clip), text, strict=True)] if text else []
        if pairs:
            target = Path(folder) / FOLDER / ("" if modality == "shared" else modality)
            _write(target, {names[id(norm)]: adapter for norm, adapter in pairs}, model.config.base_model)
            written.append(target)
    return written


def _write(folder: Path, adapters: dict[str, nn.Module], base: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{_PREFIX}{name}{_SUFFIX}.{part}": tensor.contiguous()
        for name, adapter in adapters.items()
        for part, tensor in adapter.state_dict().items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        "peft_type": "LN_TUNING",
        "base_model_name_or_path": base,
        "target_modules": list(adapters),
        "inference_mode": True,
        "task_type": None,
    }
    write_json(folder / "adapter_config.json", config)
