"""Saving: the last save is what loads, and what could not come back as it is, is refused."""

import json
import shutil

import pytest
import torch
from conftest import CLASSES
from method_models import build
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, CLIPModel

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


def merge_lora(model) -> None:
    """Change the CLIP inside a model as users of PEFT do: adapters are trained, merged and gone."""
    config = LoraConfig(r=2, target_modules=r".*vision_model.*(q_proj|v_proj)", init_lora_weights=False)
    get_peft_model(model, config).merge_and_unload()


def edit_data(model) -> None:
    model.clip.vision_model.post_layernorm.bias.data[0] += 0.5


def edit_in_place(model) -> None:
    with torch.no_grad():
        model.clip.text_model.encoder.layers[0].mlp.fc1.weight[0, 0].add_(1.0)


@pytest.mark.parametrize("change", [merge_lora, edit_data, edit_in_place])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_base_that_was_changed_is_never_lost(tiny_clip, pixels, tmp_path, change, loaded):
    model = build("splip", DOMAIN, tiny_clip)
    if loaded:
        model.save_pretrained(tmp_path / "first")
        model = SplipModel.from_pretrained(tmp_path / "first")
    before = model.fingerprint()
    change(model)
    changed = model.fingerprint()
    assert changed != before
    with pytest.raises(ValueError, match=r"is no longer base CLIP '.*', since .*: save it with full=True"):
        model.save_pretrained(tmp_path / "adapter")
    model.save_pretrained(tmp_path / "full", full=True)
    again = SplipModel.from_pretrained(tmp_path / "full")
    assert torch.equal(again.encode(pixels, "sketch"), model.encode(pixels, "sketch"))
    assert again.fingerprint() == again.fold().fingerprint() == changed
    # Nor by the form that was loaded in full.
    with pytest.raises(ValueError, match="save it with full=True"):
        edit_data(again)
        again.save_pretrained(tmp_path / "adapter")


def test_a_folded_model_that_was_changed_has_another_fingerprint(tiny_clip, tmp_path):
    encoder = build("splip", DOMAIN, tiny_clip).fold()
    before = encoder.fingerprint()
    encoder.visual_projection.weight.data[0, 0] += 1
    assert encoder.fingerprint() != before
    encoder.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).fingerprint() == encoder.fingerprint()
    search = build("splip", DOMAIN, tiny_clip).for_search()
    assert search.fingerprint() == before
    search.text_projection.weight.data[0, 0] += 1
    assert search.fingerprint() != before


def test_a_cast_to_fewer_bits_is_no_change_and_back_it_is_one(tiny_clip, tmp_path):
    model = build("clip_at", {}, tiny_clip)
    model.save_pretrained(tmp_path / "first")
    loaded = AutoModel.from_pretrained(tmp_path / "first", dtype=torch.bfloat16)
    plain = model.fingerprint()
    model.bfloat16()
    assert model.fingerprint() == loaded.fingerprint() != plain
    model.save_pretrained(tmp_path / "half")
    assert AutoModel.from_pretrained(tmp_path / "half").fingerprint() == loaded.fingerprint()
    for one in (model, loaded):
        with pytest.raises(ValueError, match="save it with full=True"):
            one.float().save_pretrained(tmp_path / "back")
    wide = AutoModel.from_pretrained(tmp_path / "first").double()
    wide.save_pretrained(tmp_path / "wide")
    assert AutoModel.from_pretrained(tmp_path / "wide").fingerprint() == wide.fingerprint()


def test_a_base_in_half_precision_is_recorded_as_it_is(tiny_clip, tmp_path):
    base = shutil.copytree(tiny_clip, tmp_path / "half")
    CLIPModel.from_pretrained(tiny_clip).half().save_pretrained(base)
    model = SplipModel.from_clip(str(base), CLASSES)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert loaded.fingerprint() == model.fingerprint()
    loaded.save_pretrained(tmp_path / "again")
    edit_data(loaded)
    with pytest.raises(ValueError, match="save it with full=True"):
        loaded.save_pretrained(tmp_path / "again")


def test_a_model_without_a_record_is_named_by_its_weights(tiny_clip, tmp_path):
    config = SplipModel.from_clip(tiny_clip, CLASSES).config
    config.base_fingerprint = None
    one, other = SplipModel(config).eval(), SplipModel(config).eval()
    assert one.fingerprint() != other.fingerprint()
    one.save_pretrained(tmp_path, full=True)
    assert AutoModel.from_pretrained(tmp_path).fingerprint() == one.fingerprint()
