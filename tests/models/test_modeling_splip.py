"""SpLIP: the packed model equals the plain one of `plain_splip.py`, and each silent error breaks that."""

import pytest
import torch
from conftest import CLASSES, byte_tokenizer, save_clip, tiny_config
from plain_splip import build, differences
from torch.nn import functional as F
from transformers import CLIPModel

from modeling_splip import class_prompts, modeling_splip
from modeling_splip.configuration_retriever import MODALITIES
from modeling_splip.modeling_splip import SplipModel

TIGHT = {"embeds": 1e-10, "class_embeds": 1e-10, "means": 1e-10, "gradients": 1e-10}
SINGLE = {"embeds": 1e-5, "class_embeds": 1e-5, "means": 1e-5, "gradients": 1e-5}
NO_PROMPTS = {"use_b_t": False, "use_b_v": False, "use_b_vt": False}
PACK = modeling_splip.constant_prompts


def assert_equal_to_plain(model, pixels, modality, bounds=TIGHT):
    for name, difference in differences(model, pixels, modality).items():
        assert difference < bounds[name], f"{name} differs by {difference}"


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("conditioning", ["image", "domain"])
@pytest.mark.parametrize(("dtype", "bounds"), [(torch.float64, TIGHT), (torch.float32, SINGLE)], ids=["fp64", "fp32"])
def test_equals_plain(tiny_clip, pixels, dtype, bounds, conditioning, attention, modality):
    model = build(tiny_clip, conditioning=conditioning, attn_implementation=attention).to(dtype)
    assert model.config._attn_implementation == attention
    assert_equal_to_plain(model, pixels.to(dtype), modality, bounds)


@pytest.mark.parametrize(
    "settings",
    [
        *({"prompt_depth": depth} for depth in (1, 2, 3, 4)),
        {"use_b_t": False},
        {"use_b_v": False},
        {"use_b_vt": False},
        {"use_b_v": False, "use_b_vt": False},
        NO_PROMPTS,
        {"layer_norms": "vision"},
        {"layer_norms": "text"},
        {"layer_norms": "none"},
        {"share_layer_norms": False},
        {"m": 1, "n": 3, "bottleneck": 5},
        {"template_sos": False},
        {"b_v_input": "template"},
        {"b_v_input": "template", "template_sos": False},
        {"w_mean": "classes"},
    ],
    ids=str,
)
@pytest.mark.parametrize("conditioning", ["image", "domain"])
def test_every_row_of_the_module_ablation_equals_plain(tiny_clip, pixels, settings, conditioning):
    model = build(tiny_clip, conditioning=conditioning, **settings).double()
    assert_equal_to_plain(model, pixels.double(), "photo")


@pytest.mark.parametrize("modality", MODALITIES)
def test_all_patches_one_behind_the_other_equal_plain(tiny_clip, pixels, modality):
    """As a public re-implementation reads them; sketches have the longer template here."""
    settings = {"b_t_input": "patches", "b_v_input": "template", "w_mean": "classes"}
    model = build(tiny_clip, **settings).double()
    assert model.b_t.layers[0].in_features == 16 * 32 and model.b_v.together == 10
    assert_equal_to_plain(model, pixels.double(), modality)
    with pytest.raises(ValueError, match=r"reads 16 patches an image, got 25: use images of the base CLIP's size"):
        model(torch.randn(1, 3, 40, 40).double(), modality, interpolate_pos_encoding=True)


def test_a_setting_that_came_later_leaves_the_fingerprint(tiny_clip):
    """Its default is what the model computed before, and any other value is another model."""
    model = build(tiny_clip)
    settings = model.config.fingerprinted()
    assert not {"template_sos", "b_v_input", "b_t_input", "w_mean", "peft"} & settings.keys()
    fingerprint = model.model_fingerprint()
    model.config.w_mean = "classes"
    assert model.model_fingerprint() != fingerprint


@pytest.mark.parametrize("tokens", [1, 30, 1000])
def test_equals_plain_however_the_classes_are_grouped(tiny_clip, pixels, monkeypatch, tokens):
    monkeypatch.setattr(class_prompts, "GROUP_TOKENS", tokens)
    groups = []

    def packed_anew(*arguments):
        packed = class_prompts.pack_class_prompts(*arguments)
        groups.append(len(packed.token_ids))
        return packed

    monkeypatch.setattr(modeling_splip, "constant_prompts", packed_anew)
    assert_equal_to_plain(build(tiny_clip).double(), pixels.double(), "sketch")
    assert groups and all((count > 1) == (tokens < 1000) for count in groups)


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
def test_equals_plain_for_any_ratio_of_layers(tmp_path, pixels, layers):
    """Vision layer l reads text layer ceil(l L_t / L_v); L_t is 3."""
    model = build(save_clip(tiny_config(num_hidden_layers=layers), tmp_path)).double()
    assert_equal_to_plain(model, pixels.double(), "sketch")


def mask_changed(change):
    """Return a fault that changes the mask."""
    return lambda packed: packed._replace(mask=change(packed.mask))


bool_mask = mask_changed(lambda mask: mask == 0)
no_mask = mask_changed(torch.zeros_like)
causal_without_blocks = mask_changed(lambda mask: torch.full_like(mask, float("-inf")).triu(1))


def positions_run_on(packed):
    return packed._replace(positions=torch.arange(packed.positions.numel()).clamp(max=47).view_as(packed.positions))


def prefix_counted_once(packed):
    counts = (packed.weights > 0).double()
    return packed._replace(weights=counts / counts.sum())


def prompts_counted(packed):
    weights = packed.weights.clone()
    weights[1:5] = weights[0]
    return packed._replace(weights=weights / weights.sum())


@pytest.mark.parametrize(
    "fault",
    [bool_mask, no_mask, causal_without_blocks, positions_run_on, prefix_counted_once, prompts_counted],
    ids=["bool mask", "no mask", "causal without blocks", "positions run on", "prefix counted once", "prompts counted"],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_silent_errors_are_seen(tiny_clip, pixels, monkeypatch, fault, attention):
    model = build(tiny_clip, attn_implementation=attention)
    monkeypatch.setattr(modeling_splip, "constant_prompts", lambda *args: fault(PACK(*args)))
    found = differences(model, pixels, "sketch")
    assert found["embeds"] > 100 * SINGLE["embeds"] and found["means"] > 100 * SINGLE["means"]
    if fault not in (prefix_counted_once, prompts_counted):
        assert found["class_embeds"] > 100 * SINGLE["class_embeds"]


def test_trained_layer_norms_matter(tiny_clip, pixels):
    """Otherwise the comparisons above would not see a model that ignores them."""
    for part in ("vision_adapters", "text_adapter"):
        model = build(tiny_clip)
        before = model.encode(pixels, "photo")
        with torch.no_grad():
            for parameter in getattr(model, part).parameters():
                parameter.mul_(1.5)
        assert (model.encode(pixels, "photo") - before).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [NO_PROMPTS, NO_PROMPTS | {"layer_norms": "none"}], ids=["untrained", "without"])
def test_all_off_is_plain_clip(tiny_clip, pixels, settings):
    model = SplipModel.from_clip(tiny_clip, **settings)
    plain = CLIPModel.from_pretrained(tiny_clip).get_image_features(pixels).pooler_output
    for modality in MODALITIES:
        torch.testing.assert_close(model.encode(pixels, modality), F.normalize(plain, dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("modality", MODALITIES)
def test_frozen_class_embeds_are_plain_clip(tiny_clip, modality):
    model = build(tiny_clip)
    texts = byte_tokenizer()([f"{modality} of a {name}" for name in CLASSES], padding=True, return_tensors="pt")
    plain = CLIPModel.from_pretrained(tiny_clip).get_text_features(**texts).pooler_output
    torch.testing.assert_close(model.frozen_class_embeds(modality), F.normalize(plain, dim=-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.encode_text(**texts), F.normalize(plain, dim=-1), atol=1e-6, rtol=0)


def test_class_embeds_of_domain_conditioning(tiny_clip, pixels):
    model = build(tiny_clip, conditioning="domain")
    output = model(pixels, "sketch")
    assert output.class_embeds.shape == (1, len(CLASSES), 16)
    torch.testing.assert_close(model.class_embeds("sketch"), output.class_embeds[0])
    with pytest.raises(ValueError, match="conditioning='image'"):
        build(tiny_clip).class_embeds("sketch")


def test_modalities_and_images_differ(tiny_clip, pixels):
    model = build(tiny_clip)
    assert (model.encode(pixels, "sketch") - model.encode(pixels, "photo")).abs().max() > 1e-3
    classes = model(pixels, "sketch").class_embeds
    assert (classes[0] - classes[1]).abs().max() > 1e-4


def test_output(tiny_clip, pixels):
    model = build(tiny_clip)
    output = model(pixels, "photo", output_hidden_states=True, output_attentions=True)
    assert output.embeds.shape == (3, 16) and output.class_embeds.shape == (3, len(CLASSES), 16)
    assert [tuple(state.shape) for state in output.hidden_states] == [(3, 17, 32)] * 5
    assert torch.equal(output.hidden_states[-1], output.tokens)
    # The template's tokens and two multimodal prompts stand before CLS and the 16 patches.
    prompts = len(model.config.prefix_token_ids["photo"]) + 2
    assert [tuple(weights.shape) for weights in output.attentions] == [(3, 4, 17, prompts + 17)] * 4
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 17))
    plain = model(pixels, "photo", return_dict=False, return_class_embeds=False)
    assert isinstance(plain, tuple) and [tuple(part.shape) for part in plain] == [(3, 16), (3, 17, 32)]
    torch.testing.assert_close(plain[0], output.embeds, atol=1e-6, rtol=0)


def test_domain_conditioning_wants_the_means(tiny_clip, pixels):
    model = SplipModel.from_clip(tiny_clip, CLASSES, conditioning="domain")
    model.set_domain_mean("sketch", model.mean_patch(pixels).mean(dim=0))
    model.encode(pixels, "sketch")
    with pytest.raises(ValueError, match=r"set_domain_mean\('photo', mean\)"):
        model.encode(pixels, "photo")
    model.set_domain_mean("sketch", torch.zeros(32))  # a mean that was seen once is looked at again when it changes
    with pytest.raises(ValueError, match=r"set_domain_mean\('sketch', mean\)"):
        model.encode(pixels, "sketch")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"conditioning": "both"}, r"conditioning must be one of .*'image', 'domain'.* got 'both'"),
        ({"layer_norms": "all"}, r"layer_norms must be one of .*'both', 'vision', 'text', 'none'.* got 'all'"),
        ({"m": 0}, "m must be at least 1, got 0"),
        ({"n": -1}, "n must be at least 1, got -1"),
        ({"b_t_input": "all"}, r"b_t_input must be one of \('mean', 'patches'\), got 'all'"),
        ({"w_mean": "words"}, r"w_mean must be one of \('tokens', 'classes'\), got 'words'"),
        ({"b_t_input": "patches", "conditioning": "domain"}, "reads single images: set conditioning='image'"),
        ({"template_sos": "no"}, "template_sos must be true or false, got 'no'"),
        ({"prompt_depth": 0}, "prompt_depth must be at least 1, or None for all layers, got 0"),
    ],
    ids=str,
)
def test_bad_settings(tiny_clip, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        SplipModel.from_clip(tiny_clip, CLASSES, **settings)


@pytest.mark.parametrize("call", ["encode", "set_domain_mean", "class_embeds"])
def test_bad_modality(tiny_clip, pixels, call):
    model = build(tiny_clip, conditioning="domain")
    arguments = {
        "encode": (pixels, "drawing"),
        "set_domain_mean": ("drawing", torch.ones(32)),
        "class_embeds": ("drawing",),
    }
    with pytest.raises(ValueError, match=r"modality must be 'sketch' or 'photo'.*got 'drawing'"):
        getattr(model, call)(*arguments[call])


def test_checkpoint_of_another_width(tiny_clip, tmp_path):
    model = build(tiny_clip)
    model.save_pretrained(tmp_path / "adapters")
    other = save_clip(tiny_config(hidden_size=48), tmp_path / "wide")
    with pytest.raises(
        ValueError, match=r"vision_config.hidden_size=48, but the checkpoint was trained on 32: pass base_model="
    ):
        SplipModel.from_pretrained(tmp_path / "adapters", base_model=other)


def test_a_domain_mean_that_does_not_fit_is_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"mean must be \(32,\), the vision width, got \(1,\)"):
        SplipModel.from_clip(tiny_clip, CLASSES, conditioning="domain").set_domain_mean("photo", torch.ones(1))
    with pytest.raises(ValueError, match="Only conditioning='domain' takes a mean, and this is 'image'"):
        SplipModel.from_clip(tiny_clip, CLASSES).set_domain_mean("photo", torch.ones(32))
