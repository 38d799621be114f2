"""Saving: the last save is what loads, and what could not come back as it is, is refused."""

import json
import shutil

import pytest
import torch
from conftest import CLASSES
from method_models import build
from transformers import AutoModel

from modeling_splip.modeling_splip import SplipModel

DOMAIN = {"conditioning": "domain", "share_layer_norms": False}
SHARDS = {"max_shard_size": "20KB"}


def saves(tiny_clip) -> dict:
    """Return every form as a function that saves it to a folder and returns the saved model."""
    model = build("splip", DOMAIN, tiny_clip)
    torch.manual_seed(9)
    with torch.no_grad():
        model.vision_adapters["sketch"][0].bias.add_(1)
    forms = {"adapter": (model, {}), "full": (model, {"full": True}), "folded": (model.fold(), {})}

    def save(one, options):
        def write(folder):
            one.save_pretrained(folder, **options)
            return one

        return write

    made = {name: save(one, options) for name, (one, options) in forms.items()}
    return made | {f"{name} in shards": save(one, options | SHARDS) for name, (one, options) in forms.items()}


def test_the_last_save_is_what_loads(tiny_clip, pixels, tmp_path):
    later, earlier = saves(tiny_clip), build("clip_at", {}, tiny_clip)
    for first in ({"full": True}, {"full": True} | SHARDS, {}, SHARDS):
        for name, write in later.items():
            folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
            earlier.save_pretrained(folder, **first)
            model = write(folder)
            loaded = AutoModel.from_pretrained(folder)
            assert torch.equal(loaded.encode(pixels, "sketch"), model.encode(pixels, "sketch")), (first, name)
            held = {path.name for path in folder.glob("*.safetensors*")}
            assert ("model.safetensors" in held) != ("model.safetensors.index.json" in held) == ("shards" in name)


def test_another_process_removes_nothing(tiny_clip, tmp_path):
    model = SplipModel.from_clip(tiny_clip, CLASSES)
    model.save_pretrained(tmp_path, **SHARDS)
    (tmp_path / "model.safetensors").write_bytes(b"")
    model.save_pretrained(tmp_path, is_main_process=False, **SHARDS)
    assert (tmp_path / "model.safetensors").exists()


def test_weights_of_two_saves_are_refused(tiny_clip, tmp_path):
    """As folders of earlier versions may hold them, or a repository that was pushed to twice."""
    model = SplipModel.from_clip(tiny_clip, CLASSES)
    for name, options in (("one", {}), ("many", SHARDS)):
        model.save_pretrained(tmp_path / name, **options)
    shutil.copy(tmp_path / "one" / "model.safetensors", tmp_path / "many")
    with pytest.raises(ValueError, match=r"many' holds weights of two saves, .*: delete the older one, or save"):
        AutoModel.from_pretrained(tmp_path / "many")


def test_variants_are_refused_where_they_would_be_lost(tiny_clip, tmp_path):
    model = SplipModel.from_clip(tiny_clip, CLASSES)
    with pytest.raises(ValueError, match="variant='fp16' is not supported: use a folder of its own for each variant"):
        model.save_pretrained(tmp_path / "model", variant="fp16")
    assert not (tmp_path / "model").exists()
    model.save_pretrained(tmp_path / "model", variant=None)
    with pytest.raises(ValueError, match="variant='fp16' is not supported"):
        AutoModel.from_pretrained(tmp_path / "model", variant="fp16")
    AutoModel.from_pretrained(tmp_path / "model", variant=None)


def test_nothing_is_saved_where_peft_would_load_another_model(tiny_clip, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": tiny_clip}))
    with pytest.raises(ValueError, match=r"holds adapter_config.json, for which AutoModel loads another model"):
        SplipModel.from_clip(tiny_clip, CLASSES).save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
