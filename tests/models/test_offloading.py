"""Offloaded weights give the same values: by Accelerate's hooks, on a model in memory or while it is loaded."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from method_models import CASES, MODALITIES, build
from transformers import AutoModel

LORA = {"peft_type": "LORA", "r": 2, "target_modules": r".*vision_model.*(q_proj|v_proj)"}


def values(model, pixels) -> dict[str, torch.Tensor]:
    """Return everything that a model computes of images."""
    found = {}
    for modality in MODALITIES:
        output = model(pixels, modality)
        found |= {f"embeds {modality}": output.embeds, f"classes {modality}": output.class_embeds}
        found[f"frozen {modality}"] = model.frozen_class_embeds(modality)
    ids = torch.tensor([[512, 5, 513]])
    found["words"] = model.encode_text(ids, torch.ones_like(ids))
    if hasattr(model, "relation"):
        tokens = [model.encode_tokens(pixels, modality).float() for modality in MODALITIES]
        found["relation"] = model.relation(*tokens)
    return found


@pytest.mark.parametrize("way", ["disk_offload", "cpu_offload", "device_map"])
@pytest.mark.parametrize(("name", "settings"), [*CASES, ("splip", {"peft": LORA})])
@torch.no_grad()
def test_offloaded_weights_give_the_same_values(tiny_clip, pixels, tmp_path, name, settings, way):
    model = build(name, settings, tiny_clip)
    expected, fingerprint = values(model, pixels), model.fingerprint()
    model.save_pretrained(tmp_path / "model")
    if way == "disk_offload":
        disk_offload(model, str(tmp_path / "disk"), execution_device=torch.device("cpu"))
    elif way == "cpu_offload":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        places = {"": "disk"}
        model = AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "folder")
    assert any(parameter.is_meta for parameter in model.parameters())
    for key, value in values(model, pixels).items():
        # Weights that are mapped from a file are not aligned like those made here, and kernels round differently.
        atol = 1e-6 if way == "device_map" else 0
        torch.testing.assert_close(value, expected[key], atol=atol, rtol=0, msg=key)
    assert model.fingerprint() == fingerprint
    model.save_pretrained(tmp_path / "again")
    assert AutoModel.from_pretrained(tmp_path / "again").fingerprint() == fingerprint


def test_a_tensor_offloaded_without_its_module_is_refused(tiny_clip, tmp_path):
    """Accelerate would never fetch it."""
    model = build("splip", {}, tiny_clip)
    model.save_pretrained(tmp_path / "model")
    places = {name: "cpu" for name, _ in model.named_children() if name != "clip"}
    places |= {f"clip.{name}": "cpu" for name, _ in model.clip.named_children()} | {"clip.logit_scale": "disk"}
    sentence = r"'clip\.logit_scale' has no values, since device_map offloads it without its module, .*: give whole"
    with pytest.raises(ValueError, match=sentence), pytest.warns(UserWarning, match="do not match any submodules"):
        AutoModel.from_pretrained(tmp_path / "model", device_map=places, offload_folder=tmp_path / "folder")
