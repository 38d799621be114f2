"""What people expect of any transformers model, over all model classes.

test_checkpoints.py and test_contract.py hold saving and loading, dtypes, batch invariance and determinism.
"""

import copy
import json
import pickle
import shutil

import pytest
import torch
from accelerate import Accelerator
from conftest import CLASSES
from method_models import CASES, MODALITIES, build
from transformers import AutoConfig, AutoModel

import modeling_splip
from modeling_splip.clip_backbone import embed_patches, run_vision
from modeling_splip.configuration_retriever import RetrievalConfig, RetrieverConfig
from modeling_splip.training.methods import METHODS

MODELS = [*CASES, ("splip_encoder", {"conditioning": "domain", "share_layer_norms": False})]
LORA = {"peft_type": "LORA", "r": 2, "target_modules": r".*vision_model.*layers\.[23]\.\w+\.(q_proj|fc1)"}
NEEDS_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
MODEL = pytest.mark.parametrize(("name", "settings"), MODELS)
TRAINED = pytest.mark.parametrize(("name", "settings"), CASES)


def make(name: str, settings: dict, base: str):
    return build("splip", settings, base).fold() if name == "splip_encoder" else build(name, settings, base)


def test_every_model_class_is_here():
    assert {name for name, _ in MODELS} == set(modeling_splip.MODELS) == {*METHODS, "splip_encoder"}


def fields_of(config) -> dict:
    """A configuration's content, without what says when, where and with what code it was saved."""
    saving = ("transformers_version", "auto_map", "_name_or_path")
    return {name: value for name, value in config.to_dict().items() if name not in saving}


@MODEL
def test_configurations_come_back(tiny_clip, tmp_path, name, settings):
    config = make(name, settings, tiny_clip).config
    kind = type(config)
    config.save_pretrained(tmp_path)
    again = [kind.from_dict(config.to_dict()), kind(**json.loads(config.to_json_string())), copy.deepcopy(config)]
    again += [kind.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)]
    for each in again:
        assert type(each) is kind and fields_of(each) == fields_of(config)
    changed = kind.from_dict(config.to_dict(), base_model="other", output_hidden_states=True)
    assert (changed.base_model, changed.output_hidden_states) == ("other", True) and config.base_model != "other"
    assert json.loads(config.to_json_string(use_diff=True))["model_type"] == name


@pytest.mark.parametrize("name", modeling_splip.MODELS)
def test_defaults_are_a_configuration(name):
    kind = getattr(modeling_splip, modeling_splip.MODELS[name][1])
    assert issubclass(kind, RetrieverConfig if name in METHODS else RetrievalConfig)
    assert kind.from_dict(kind().to_dict()).to_dict() == kind().to_dict()
    defaults = kind.defaults()
    assert "class_names" in defaults and "return_dict" not in defaults
    assert all(value is None or getattr(kind(), name) == value for name, value in defaults.items())


# Where little trains, a layer may read nothing that needs a gradient, though later ones do.
LITTLE = [
    ("splip", {"layer_norms": "none"}),
    ("splip", {"layer_norms": "text", "use_b_t": False, "prompt_depth": 1}),
    ("clip_at", {"prompts": 0}),
    ("clip_at", {"layer_norms": "none", "peft": LORA}),
]


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize(("name", "settings"), [*CASES, *LITTLE])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_clip, pixels, name, settings, reentrant):
    if "peft" in settings:
        pytest.importorskip("peft")
    model = build(name, settings, tiny_clip).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            chosen = {} if reentrant is None else {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
            model.gradient_checkpointing_enable(**chosen)
            assert model.is_gradient_checkpointing
        model.zero_grad()
        output = model(pixels, "sketch")
        (output.embeds[:, :3].sum() + output.class_embeds[..., 0].sum()).backward()
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-6, rtol=1e-5)
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-4
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@MODEL
def test_attention_implementations_agree(tiny_clip, pixels, tmp_path, name, settings):
    model = make(name, settings, tiny_clip)
    model.save_pretrained(tmp_path)
    found = {}
    for attention in ("sdpa", "eager"):
        loaded = AutoModel.from_pretrained(tmp_path, attn_implementation=attention)
        assert loaded.config._attn_implementation == attention
        found[attention] = [loaded.encode(pixels, modality) for modality in MODALITIES]
    torch.testing.assert_close(found["sdpa"], found["eager"], atol=1e-6, rtol=0)
    switched = AutoModel.from_pretrained(tmp_path)
    switched.set_attn_implementation("eager")
    assert torch.equal(switched.encode(pixels, "sketch"), found["eager"][0])


@MODEL
def test_hidden_states_and_attentions_on_request(tiny_clip, pixels, name, settings):
    model = make(name, settings, tiny_clip)
    plain = model(pixels, "photo")
    assert plain.hidden_states is None and plain.attentions is None
    output = model(pixels, "photo", output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(3, 17, 32)] * 5
    assert len(output.attentions) == 4
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 17))
    torch.testing.assert_close(output.embeds, plain.embeds, atol=1e-6, rtol=0)
    # As in transformers, the first state is what the first layer reads.
    tower = model if hasattr(model, "vision_model") else model.clip
    first = model.layer_norms("photo")[0](embed_patches(tower, pixels))
    torch.testing.assert_close(output.hidden_states[0], first)


@torch.no_grad()
def test_prompts_come_first_in_clip_ats_attentions(tiny_clip, pixels):
    """The tower itself has them behind the patches."""
    model = build("clip_at", {}, tiny_clip)
    x = model._with_prompts(embed_patches(model.clip, pixels), "photo")
    seen = run_vision(model.clip, x, model.layer_norms("photo"), output_attentions=True).attentions[0][:, :, :17]
    found = model(pixels, "photo", output_attentions=True).attentions[0]
    assert torch.equal(found[..., :3], seen[..., 17:]) and torch.equal(found[..., 3:], seen[..., :17])


@MODEL
def test_other_image_sizes_by_interpolated_positions(tiny_clip, pixels, name, settings):
    model = make(name, settings, tiny_clip)
    same = model(pixels, "sketch", interpolate_pos_encoding=True).embeds
    torch.testing.assert_close(same, model(pixels, "sketch").embeds, atol=1e-6, rtol=0)
    wide = torch.randn(2, 3, 48, 64)
    assert model(wide, "sketch", interpolate_pos_encoding=True).tokens.shape == (2, 1 + 6 * 8, 32)
    with pytest.raises(ValueError, match=r"pixel_values are 48 x 64, .*pass interpolate_pos_encoding=True"):
        model(wide, "sketch")
    with pytest.raises(ValueError, match=r"multiples of patch_size=8"):
        model(torch.randn(2, 3, 44, 64), "sketch", interpolate_pos_encoding=True)


@MODEL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_casts(tiny_clip, pixels, name, settings, dtype):
    model = make(name, settings, tiny_clip)
    expected = model.encode(pixels, "sketch")
    cast = copy.deepcopy(model).to(dtype)
    assert cast.dtype == dtype and model.dtype == torch.float32
    embeds = cast.encode(pixels.to(dtype), "sketch")
    assert embeds.dtype == torch.float32
    assert (embeds * expected).sum(-1).min() > (0.97 if dtype is torch.bfloat16 else 0.999)


@MODEL
def test_counts_of_parameters(tiny_clip, capsys, name, settings):
    model = make(name, settings, tiny_clip)
    trains = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert model.num_parameters(only_trainable=True) == trains
    assert model.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    if name == "splip_encoder":
        assert trains == 0
    else:
        model.print_trainable_parameters()
        total = model.num_parameters()
        share = f"trainable params: {trains:,d} || all params: {total:,d} || trainable%: {100 * trains / total:.4f}\n"
        assert capsys.readouterr().out == share


@TRAINED
def test_saved_from_a_prepared_objective(tiny_clip, pixels, tmp_path, name, settings):
    model = build(name, settings, tiny_clip)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(METHODS[name].objective(model))
    own = accelerator.unwrap_model(prepared).model
    own.save_pretrained(tmp_path, save_function=accelerator.save, state_dict=accelerator.get_state_dict(own))
    assert torch.equal(AutoModel.from_pretrained(tmp_path).encode(pixels, "photo"), model.encode(pixels, "photo"))


@MODEL
def test_devices_by_name_and_by_map(tiny_clip, pixels, tmp_path, name, settings):
    model = make(name, settings, tiny_clip)
    model.save_pretrained(tmp_path)
    for device_map in ("auto", "cpu", {"": "cpu"}):
        loaded = AutoModel.from_pretrained(tmp_path, device_map=device_map).to("cpu")
        assert torch.equal(loaded.encode(pixels, "sketch"), model.encode(pixels, "sketch"))


@MODEL
def test_copies_stand_alone(tiny_clip, pixels, name, settings):
    """By deepcopy, by its state, and through another process's memory."""
    model = make(name, settings, tiny_clip)
    expected = model.encode(pixels, "sketch")
    twin = copy.deepcopy(model)
    assert torch.equal(twin.encode(pixels, "sketch"), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model.encode(pixels, "sketch"), expected)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.encode(pixels, "sketch"), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model)).encode(pixels, "sketch"), expected)


# Every test of the inductor waits for a C++ compiler, so one model does.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=NEEDS_COMPILER)])
def test_compiled(tiny_clip, pixels, backend):
    model = build("splip", {"conditioning": "domain"}, tiny_clip)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for modality in MODALITIES if backend == "aot_eager" else ("sketch",):
            embeds = compiled(pixel_values=pixels, modality=modality, return_class_embeds=False).embeds
            torch.testing.assert_close(embeds, model.encode(pixels, modality), atol=1e-6, rtol=0)


@MODEL
def test_the_configuration_says_what_comes_back(tiny_clip, pixels, tmp_path, name, settings):
    make(name, settings, tiny_clip).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    plain = model(pixels, "sketch")
    model.config.output_hidden_states = model.config.output_attentions = True
    output = model(pixels, "sketch")
    assert len(output.hidden_states) == 5 and len(output.attentions) == 4
    assert model(pixels, "sketch", output_hidden_states=False, output_attentions=False).keys() == plain.keys()
    model.config.output_hidden_states = model.config.output_attentions = model.config.return_dict = False
    found = model(pixels, "sketch")
    assert isinstance(found, tuple) and torch.equal(found[0], plain.embeds)
    assert torch.equal(model(pixels, "sketch", return_dict=True).embeds, plain.embeds)
    assert torch.equal(model.encode(pixels, "sketch"), plain.embeds)


@TRAINED
def test_the_attention_implementation_reaches_the_clip_inside(tiny_clip, tmp_path, name, settings):
    built = METHODS[name].model.from_clip(tiny_clip, CLASSES, attn_implementation="eager", **settings)
    built.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).attention == "sdpa"  # it is a choice of loading, not of the model
    for model in (built, AutoModel.from_pretrained(tmp_path, attn_implementation="eager")):
        assert model.attention == "eager"
        inner = (model.config.clip_config, model.config.clip_config.text_config, model.clip.vision_model.config)
        assert [config._attn_implementation for config in inner] == ["eager"] * 3


@MODEL
def test_from_a_state_without_a_folder(tiny_clip, pixels, name, settings):
    """transformers makes every parameter anew, and all of them would train."""
    model = make(name, settings, tiny_clip)
    trains = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    loaded, report = type(model).from_pretrained(None, config=model.config, state_dict=state, output_loading_info=True)
    assert {key for key, parameter in loaded.named_parameters() if parameter.requires_grad} == trains
    assert not report["missing_keys"]
    again = type(model).from_pretrained(None, config=model.config, state_dict=state)
    for each in (loaded, again):
        assert torch.equal(each.encode(pixels, "photo"), model.encode(pixels, "photo"))


@MODEL
def test_loading_takes_fields_of_the_configuration(tiny_clip, pixels, tmp_path, name, settings):
    model = make(name, settings, tiny_clip)
    model.save_pretrained(tmp_path)
    for kind in (type(model), AutoModel):
        loaded = kind.from_pretrained(tmp_path, output_hidden_states=True, output_attentions=True, dtype="float32")
        output = loaded(pixels, "photo")
        assert len(output.hidden_states) == 5 and len(output.attentions) == 4
        torch.testing.assert_close(output.embeds, model(pixels, "photo").embeds, atol=1e-6, rtol=0)
        assert isinstance(kind.from_pretrained(tmp_path, return_dict=False)(pixels, "photo"), tuple)
        with pytest.raises(ValueError, match=r"^class_names says what the weights are, .*\.$"):
            kind.from_pretrained(tmp_path, class_names=["kite", "owl", "star", "bell", "fish"])
        with pytest.raises(ValueError, match=r"^\w+fingerprint says what the weights are"):
            kind.from_pretrained(tmp_path, **{model.fingerprint_field: "0" * 16})
        with pytest.raises(TypeError, match="output_hiden_states"):
            kind.from_pretrained(tmp_path, output_hiden_states=True)


def test_fields_given_to_loading_are_checked_and_count(tiny_clip, pixels, tmp_path):
    model = build("splip", {}, tiny_clip)
    model.save_pretrained(tmp_path)
    for kind in (type(model), AutoModel):
        shallow = kind.from_pretrained(tmp_path, prompt_depth=1)
        assert not torch.allclose(shallow.encode(pixels, "photo"), model.encode(pixels, "photo"), atol=1e-3)
        assert shallow.fingerprint() != model.fingerprint()
        with pytest.raises(ValueError, match=r"^prompt_depth must be at least 1"):
            kind.from_pretrained(tmp_path, prompt_depth=0)
        with pytest.raises(
            ValueError, match=r"b_t\.layers\.4\.bias of shape \(96,\), but a SplipModel .* has \(144,\)"
        ):
            kind.from_pretrained(tmp_path, m=6)
        with pytest.raises(ValueError, match=r"holds besides 2 tensors of a SplipModel, such as b_v"):
            kind.from_pretrained(tmp_path, use_b_v=False)


@MODEL
def test_the_configuration_of_a_live_model_loads_any_form(tiny_clip, pixels, tmp_path, name, settings):
    """It does not know in which form a checkpoint was saved, nor whether its base CLIP was changed."""
    model = make(name, settings, tiny_clip)
    live = copy.deepcopy(model.config)
    model.save_pretrained(tmp_path / "default")
    with torch.no_grad():
        model.vision.vision_model.embeddings.class_embedding.add_(1.0)
    model.save_pretrained(tmp_path / "changed", **({} if name == "splip_encoder" else {"full": True}))
    for folder in ("default", "changed"):
        loaded = type(model).from_pretrained(tmp_path / folder, config=live)
        expected = AutoModel.from_pretrained(tmp_path / folder)
        assert torch.equal(loaded.encode(pixels, "photo"), expected.encode(pixels, "photo"))
        assert loaded.fingerprint() == expected.fingerprint()
    assert torch.equal(expected.encode(pixels, "photo"), model.encode(pixels, "photo"))


@MODEL
def test_a_state_instead_of_a_checkpoints_weights(tiny_clip, pixels, tmp_path, name, settings):
    model = make(name, settings, tiny_clip)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 if name == "splip_encoder" or parameter.requires_grad else 0)
    states = [model.state_dict()] if name == "splip_encoder" else [model.state_dict(), model.adapter_state()]
    for state in states:
        loaded = type(model).from_pretrained(tmp_path, state_dict=state)
        assert torch.equal(loaded.encode(pixels, "photo"), model.encode(pixels, "photo"))
        assert loaded.fingerprint() == model.fingerprint() != AutoModel.from_pretrained(tmp_path).fingerprint()
        assert all(own.data_ptr() != state[key].data_ptr() for key, own in loaded.state_dict().items() if key in state)
        del state[min(state)]
        with pytest.raises(ValueError, match=rf"lacks 1 tensors of a {type(model).__name__}"):
            type(model).from_pretrained(tmp_path, state_dict=state)


@MODEL
def test_a_state_is_loaded_in_one_dtype(tiny_clip, pixels, name, settings):
    model = make(name, settings, tiny_clip)
    half = {key: tensor.to(torch.bfloat16) for key, tensor in model.state_dict().items()}
    for state, dtype in ((half, None), (model.state_dict(), torch.bfloat16), (half, torch.float32)):
        chosen = {} if dtype is None else {"dtype": dtype}
        loaded = type(model).from_pretrained(None, config=model.config, state_dict=state, **chosen)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype or torch.bfloat16}
        torch.testing.assert_close(
            loaded.encode(pixels.to(loaded.dtype), "photo"), model.encode(pixels, "photo"), atol=0.05, rtol=0
        )


@TRAINED
def test_a_model_without_a_base_is_saved_whole(tiny_clip, pixels, tmp_path, name, settings):
    """One made of a configuration alone, as any model of transformers can be."""
    config = build(name, settings, tiny_clip).config
    config.base_model = None
    model = METHODS[name].model(config).eval()
    if model.stores_image_means:
        for modality in MODALITIES:
            model.set_domain_mean(modality, torch.ones(32))
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path).encode(pixels, "photo"), model.encode(pixels, "photo"))
    with pytest.raises(ValueError, match=r"does not name its base CLIP .* save it with full=True\.$"):
        model.save_pretrained(tmp_path, full=False)


@MODEL
def test_gradients_reach_the_states_that_come_back(tiny_clip, pixels, name, settings):
    """For maps of what an embedding depends on; CLIP-AT's states are cut out of those with the prompts."""
    model = make(name, settings, tiny_clip)
    output = model(pixels.requires_grad_(), "photo", output_hidden_states=True, output_attentions=True)
    seen = [*output.hidden_states[:-1], *output.attentions]
    for tensor in seen:
        tensor.retain_grad()
    output.embeds[:, 0].sum().backward()
    assert all((tensor.grad is None) == (name == "clip_at") for tensor in seen)


@MODEL
def test_every_part_starts_with_values_on_any_device(tiny_clip, name, settings):
    """transformers builds on the device "meta", where __init__ sets no values."""
    model = make(name, settings, tiny_clip)
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    empty.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.fill_(torch.nan)
    empty.init_weights()
    assert {key for key, value in empty.named_parameters() if value.isnan().any()} <= {"clip.logit_scale"}


@MODEL
def test_some_hidden_states_on_request(tiny_clip, pixels, name, settings):
    model = make(name, settings, tiny_clip)
    all_of_them = model(pixels, "photo", output_hidden_states=True).hidden_states
    found = model(pixels, "photo", output_hidden_states=[1, -1]).hidden_states
    assert [state is not None for state in found] == [False, True, False, False, True]
    assert torch.equal(found[1], all_of_them[1]) and torch.equal(found[4], all_of_them[4])
    with pytest.raises(ValueError, match=r"must hold indices of 5 states, got \[5\]\.$"):
        model(pixels, "photo", output_hidden_states=[5])
