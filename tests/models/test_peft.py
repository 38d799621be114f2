"""PEFT both ways: our LayerNorm adapters opened by PEFT, and PEFT's configurations trained in our models."""

import copy
import json
import subprocess
import sys

import launch
import pytest
import torch
from conftest import CLASSES
from method_models import CASES, MODALITIES, OFF, batch_of, build
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, CLIPModel

from modeling_splip.adapters_peft import base_names
from modeling_splip.class_prompts import text_norms
from modeling_splip.clip_backbone import vision_norms
from modeling_splip.sharing.peft_export import export_peft
from modeling_splip.training.methods import METHODS

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": r".*vision_model.*(q_proj|v_proj)"}
TRAINABLE = list(METHODS)


def opened_by_peft(base, folder, subfolder) -> CLIPModel:
    return PeftModel.from_pretrained(CLIPModel.from_pretrained(base), folder, subfolder=subfolder).base_model.model


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_peft_opens_our_layer_norms(tiny_clip, tmp_path, name, settings):
    model = build(name, settings, tiny_clip)
    model.save_pretrained(tmp_path)
    written = export_peft(model, tmp_path)
    shared = "shared" in model.vision_adapters
    assert [str(path.relative_to(tmp_path)) for path in written] == (
        ["peft"] if shared else ["peft/sketch", "peft/photo"]
    )
    for modality in MODALITIES:
        clip = opened_by_peft(tiny_clip, tmp_path, "peft" if shared else f"peft/{modality}")
        pairs = list(zip(vision_norms(clip), model.layer_norms(modality), strict=True))
        if name == "splip":
            pairs += zip(text_norms(clip), model.text_adapter, strict=True)
        plain = vision_norms(model.clip)
        for index, (theirs, ours) in enumerate(pairs):
            x = torch.randn(2, 3, ours.normalized_shape[0])
            assert torch.equal(theirs(x), ours(x))
            assert index >= len(plain) or not torch.allclose(theirs(x), plain[index](x), atol=1e-3)
    # The export stands beside the checkpoint, not in its way.
    assert torch.equal(next(iter(AutoModel.from_pretrained(tmp_path).vision_adapters.values()))[0].weight,
                       next(iter(model.vision_adapters.values()))[0].weight)  # fmt: skip


@pytest.mark.parametrize("name", TRAINABLE)
def test_with_layer_norms_alone_peft_gives_our_embeddings(tiny_clip, pixels, tmp_path, name):
    model = build(name, OFF[name] | {"layer_norms": "vision", "share_layer_norms": False}, tiny_clip)
    export_peft(model, tmp_path)
    for modality in MODALITIES:
        clip = opened_by_peft(tiny_clip, tmp_path, f"peft/{modality}").eval()
        embeds = F.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
        torch.testing.assert_close(embeds, model.encode(pixels, modality), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TRAINABLE)
def test_nothing_is_exported_where_no_layer_norm_trains(tiny_clip, tmp_path, name):
    assert export_peft(METHODS[name].model.from_clip(tiny_clip, CLASSES, layer_norms="none"), tmp_path) == []
    assert not list(tmp_path.iterdir())


def trained(name: str, base: str, **settings):
    """Return a model with LoRA in its vision tower, trained for some steps, and its loss before and after."""
    torch.manual_seed(0)
    model = METHODS[name].model.from_clip(base, CLASSES, peft=LORA, **settings)
    if settings.get("conditioning") == "domain":
        for modality in MODALITIES:
            model.set_domain_mean(modality, torch.randn(32))
    objective = METHODS[name].objective(model).train()
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for _ in range(8):
        loss = objective(batch_of("category"))["loss"]
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), values


@pytest.mark.parametrize("layer_norms", ["vision", "none"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_lora_trains_beside_and_in_place_of_layer_norms(tiny_clip, pixels, tmp_path, name, layer_norms):
    model, losses = trained(name, tiny_clip, layer_norms=layer_norms)
    assert losses[-1] < 0.9 * losses[0]
    lora = {key: tensor for key, tensor in model.adapter_state().items() if "lora_" in key}
    assert len(lora) == 4 * 2 * 2 and all(tensor.abs().max() > 0 for tensor in lora.values())
    state, base = model.clip.state_dict(), CLIPModel.from_pretrained(tiny_clip).state_dict()
    names = base_names(model.clip)
    assert sorted(names.values()) == sorted(base)
    for own, plain in names.items():
        assert torch.equal(state[own], base[plain]), own

    # Adapters alone and everything: both exact, both ready to train on.
    trains = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    for form in ("adapter", "full"):
        model.save_pretrained(tmp_path / form, full=form == "full")
        loaded = AutoModel.from_pretrained(tmp_path / form)
        assert torch.equal(loaded.encode(pixels, "sketch"), model.encode(pixels, "sketch"))
        assert loaded.fingerprint() == model.fingerprint()
        assert {key for key, parameter in loaded.named_parameters() if parameter.requires_grad} == trains
    stored = load_file(tmp_path / "adapter" / "model.safetensors")
    assert set(stored) == set(model.adapter_state()) and set(lora) <= set(stored)
    assert not any("base_layer" in key or key.startswith("clip.text") for key in stored)


@pytest.mark.parametrize("layer_norms", ["vision", "none"])
def test_two_towers_train_apart(tiny_clip, pixels, tmp_path, layer_norms):
    """LoRA for sketches and LoRA for photos: each has its own values, its own gradients and its own tensors."""
    start = METHODS["cross_align"].model.from_clip(tiny_clip, CLASSES, peft=LORA, share_peft=False)
    plain = METHODS["cross_align"].model.from_clip(tiny_clip, CLASSES)
    model, losses = trained("cross_align", tiny_clip, share_peft=False, layer_norms=layer_norms)
    assert losses[-1] < 0.9 * losses[0]
    own = {key: tensor for key, tensor in model.adapter_state().items() if "lora_B" in key}
    sketch = {key: tensor for key, tensor in own.items() if key.startswith("clip.vision_model.")}
    assert len(own) == 2 * len(sketch) == 4 * 2 * 2 and all(tensor.abs().max() > 0 for tensor in own.values())
    for modality in MODALITIES:
        torch.testing.assert_close(start.encode(pixels, modality), plain.encode(pixels, modality), atol=1e-6, rtol=0)

    # What one modality computes does not depend on the other's adapters, nor does its gradient reach them.
    for modality, other in (("sketch", "photo_vision_model"), ("photo", "clip.vision_model")):
        model.zero_grad()
        model(pixels, modality).embeds.sum().backward()
        reached = {key for key, value in model.named_parameters() if value.grad is not None and value.grad.any()}
        assert reached and not any("lora" in key and other in key for key in reached)
    before = {modality: model.encode(pixels, modality) for modality in MODALITIES}
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for key, value in changed.named_parameters():
            if "photo_vision_model" in key and "lora" in key:
                value.add_(0.1)
    assert torch.equal(changed.encode(pixels, "sketch"), before["sketch"])
    assert not torch.allclose(changed.encode(pixels, "photo"), before["photo"], atol=1e-4)

    for form in ("adapter", "full"):
        model.save_pretrained(tmp_path / form, full=form == "full")
        loaded = AutoModel.from_pretrained(tmp_path / form)
        for modality in MODALITIES:
            assert torch.equal(loaded.encode(pixels, modality), before[modality])
        assert loaded.fingerprint() == model.fingerprint() != changed.fingerprint()
    stored = load_file(tmp_path / "adapter" / "model.safetensors")
    assert set(stored) == set(model.adapter_state()) and not any("base_layer" in key for key in stored)
    assert model.train().clip.photo_vision_model.training and not model.clip.text_model.training


@pytest.mark.parametrize("tower", ["vision_model", "photo_vision_model"])
def test_a_changed_base_in_either_tower_is_seen(tiny_clip, tmp_path, tower):
    model = METHODS["cross_align"].model.from_clip(tiny_clip, CLASSES, peft=LORA, share_peft=False)
    fingerprint = model.fingerprint()
    with torch.no_grad():
        getattr(model.clip, tower).post_layernorm.weight.add_(1)
    assert model.fingerprint() != fingerprint
    with pytest.raises(ValueError, match="is no longer base CLIP"):
        model.save_pretrained(tmp_path)


def test_folding_merges_the_adapters(tiny_clip, pixels, tmp_path):
    model, _ = trained("splip", tiny_clip, conditioning="domain", share_layer_norms=False)
    before = model.encode(pixels, "sketch")
    encoder = model.fold()
    for modality in MODALITIES:
        torch.testing.assert_close(encoder.encode(pixels, modality), model.encode(pixels, modality), atol=1e-5, rtol=0)
    assert torch.equal(model.encode(pixels, "sketch"), before)  # folding left the model as it was
    encoder.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path).encode(pixels, "photo"), encoder.encode(pixels, "photo"))


def test_what_peft_may_not_change_is_refused(tiny_clip):
    build = METHODS["clip_at"].model.from_clip
    for targets, named in (("visual_projection", "visual_projection"), (r".*text_model.*q_proj", "text_model")):
        with pytest.raises(ValueError, match=rf"peft would change '{named}.*only linear layers of the vision tower"):
            build(tiny_clip, CLASSES, peft=LORA | {"target_modules": targets})
    for wrong in ({"peft_type": "LARO"}, LORA | {"rank": 4}, LORA | {"target_modules": ["nothing"]}):
        with pytest.raises(ValueError, match=r"is no PEFT configuration for this CLIP .*see PEFT's docs"):
            build(tiny_clip, CLASSES, peft=wrong)


def kind(peft_type: str, **settings) -> dict:
    return {"peft_type": peft_type, "target_modules": LORA["target_modules"], **settings}


KINDS = [
    LORA,
    LORA | {"init_lora_weights": "gaussian"},
    LORA | {"init_lora_weights": "orthogonal"},
    LORA | {"use_rslora": True},
    LORA | {"use_dora": True},
    LORA | {"lora_bias": True},
    kind("LOHA", r=2),
    kind("LOKR", r=2),
    kind("IA3", feedforward_modules=[]),
    kind("HRA", r=2),
    kind("ADALORA", init_r=3, target_r=2, total_step=10),
]


@pytest.mark.parametrize("peft", KINDS, ids=lambda peft: "-".join(map(str, [*peft.values()][0::3])))
def test_every_kind_that_is_taken_starts_at_clip_and_loads_as_it_was_saved(tiny_clip, pixels, tmp_path, peft):
    plain = METHODS["splip"].model.from_clip(tiny_clip, CLASSES, **OFF["splip"])
    untrained = METHODS["splip"].model.from_clip(tiny_clip, CLASSES, peft=peft, **OFF["splip"])
    torch.testing.assert_close(untrained.encode(pixels, "photo"), plain.encode(pixels, "photo"), atol=1e-5, rtol=0)
    model = build("splip", {"peft": peft, "conditioning": "domain"}, tiny_clip)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(pixels, "photo"), model.encode(pixels, "photo"))
    assert loaded.fingerprint() == model.fingerprint()
    torch.testing.assert_close(loaded.fold().encode(pixels, "photo"), model.encode(pixels, "photo"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("peft", "sentence"),
    [
        (LORA | {"init_lora_weights": "olora"}, "init_lora_weights='olora', which changes the base CLIP's weights"),
        (LORA | {"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the base CLIP's weights"),
        (LORA | {"init_lora_weights": False}, "'LORA' with these settings does not start at CLIP"),
        (LORA | {"modules_to_save": ["visual_projection"]}, r"modules_to_save=\['visual_projection'\]: leave it out"),
        (LORA | {"bias": "all"}, "bias='all': leave it out"),
        (kind("OFT", oft_block_size=4, r=0), "'OFT' with these settings would not load as it was saved"),
        (kind("BOFT", boft_block_size=4), "'BOFT' with these settings would not load as it was saved"),
        (kind("FOURIERFT", n_frequency=50), "'FOURIERFT' with these settings does not start at CLIP"),
        (kind("RANDLORA", r=2), "'RANDLORA' with these settings would not load as it was saved .layers share tensors"),
    ],
)
def test_a_kind_that_would_not_come_back_is_refused_when_it_is_built(tiny_clip, peft, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        METHODS["splip"].model.from_clip(tiny_clip, CLASSES, peft=peft)
    assert "\n" not in str(error.value)


def test_trying_out_leaves_model_and_random_numbers_as_they_were(tiny_clip, monkeypatch):
    drawn = []
    for check in (True, False):
        if not check:
            monkeypatch.setattr("modeling_splip.modeling_retriever.check_peft", lambda model: None)
        torch.manual_seed(4)
        model = METHODS["splip"].model.from_clip(tiny_clip, CLASSES, peft=LORA)
        drawn.append((model.state_dict(), torch.rand(3), [p.requires_grad for p in model.parameters()]))
    assert torch.equal(drawn[0][1], drawn[1][1]) and drawn[0][2] == drawn[1][2]
    assert all(torch.equal(value, drawn[1][0][name]) for name, value in drawn[0][0].items())


def test_adapters_that_were_added_later_are_never_saved_as_another_model(tiny_clip, tmp_path):
    model = build("clip_at", {}, tiny_clip)
    config = LoraConfig(r=2, target_modules=LORA["target_modules"])
    with pytest.raises(ValueError, match="add_adapter would write checkpoints that load as another model"):
        model.add_adapter(config)
    get_peft_model(model, config)
    for full in (False, True):
        with pytest.raises(ValueError, match="has adapters that PEFT added later, and a checkpoint cannot hold them"):
            model.save_pretrained(tmp_path / "model", full=full)
    assert not (tmp_path / "model").exists()


WITHOUT_PEFT = """
import sys
sys.modules["peft"] = None  # as if it were not installed
import modeling_splip
from transformers import AutoModel
AutoModel.from_pretrained(sys.argv[1])
try:
    AutoModel.from_pretrained(sys.argv[2])
except ImportError as error:
    print(error)
"""


def test_only_a_model_with_peft_needs_peft(tiny_clip, tmp_path):
    for name, settings in (("plain", {}), ("lora", {"peft": LORA})):
        build("clip_at", settings, tiny_clip).save_pretrained(tmp_path / name)
    assert json.loads((tmp_path / "lora" / "config.json").read_text())["peft"] == LORA
    command = [sys.executable, "-c", WITHOUT_PEFT, str(tmp_path / "plain"), str(tmp_path / "lora")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "This model has PEFT adapters, and peft is not installed: pip install peft."


def test_the_recipe_trains_lora(tiny_clip, prepared, tmp_path):
    run = tmp_path / "run"
    words = ["--recipe", "splip_mini_lora", "--dataset", str(prepared), "--base", tiny_clip, "--output", str(run)]
    words += ["--batch_size", "12", "--validation_classes", "2", "--max_steps", "2", "--tracker", "none"]
    result = launch.run([sys.executable, str(launch.ROOT / "train_accelerate.py"), *words])
    assert result.returncode == 0, result.stderr[-2000:]
    stored = load_file(run / "model" / "model.safetensors")
    lora = [tensor for name, tensor in stored.items() if "lora_B" in name]
    assert len(lora) == 8 and all(tensor.abs().max() > 0 for tensor in lora)
    assert not any("adapter" in name for name in stored)
    assert AutoModel.from_pretrained(run / "model").config.peft["r"] == 8
