"""The folded encoder: the same embeddings, from a vision tower and constants alone."""

import json

import pytest
import torch
from plain_splip import build
from published_shapes import published
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

from benchmarks.launches import Launches
from modeling_splip.configuration_retriever import MODALITIES
from modeling_splip.configuration_splip import SplipEncoderConfig
from modeling_splip.modeling_splip_encoder import SplipEncoder

SETTINGS = [
    {},
    {"share_layer_norms": False},
    {"layer_norms": "none"},
    {"prompt_depth": 2},
    {"use_b_v": False},
    {"use_b_t": False},
    {"use_b_v": False, "use_b_vt": False},
    {"use_b_vt": False, "conditioning": "image"},
]


def domain(tiny_clip, **settings):
    return build(tiny_clip, **{"conditioning": "domain"} | settings).eval()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("modality", MODALITIES)
def test_same_embeddings(tiny_clip, pixels, settings, modality):
    model = domain(tiny_clip, **settings)
    folded = model.fold()
    expected, found = model.encode(pixels, modality), folded.encode(pixels, modality)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert found.dtype == torch.float32 and not any(p.requires_grad for p in folded.parameters())


def test_same_hidden_states_and_attentions(tiny_clip, pixels):
    model = domain(tiny_clip)
    asked = {"output_hidden_states": True, "output_attentions": True, "return_class_embeds": False}
    expected, found = model(pixels, "photo", **asked), model.fold()(pixels, "photo", **asked)
    for name in ("hidden_states", "attentions"):
        for one, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert found.class_embeds is None


@pytest.mark.parametrize("settings", SETTINGS[:4], ids=str)
def test_saved_bit_for_bit(tiny_clip, pixels, tmp_path, settings):
    folded = domain(tiny_clip, **settings).fold()
    folded.save_pretrained(tmp_path)
    loaded = SplipEncoder.from_pretrained(tmp_path)
    expected = folded.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    for modality in MODALITIES:
        assert torch.equal(loaded.encode(pixels, modality), folded.encode(pixels, modality))
    assert loaded.fingerprint() == folded.fingerprint()


def test_no_text_tower_and_no_tokenizer(tiny_clip, tmp_path):
    model = domain(tiny_clip)
    folded = model.fold()
    folded.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert {name.partition(".")[0] for name in names} == {
        "vision_model",
        "visual_projection",
        "sketch_prompts",
        "photo_prompts",
    }
    data = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".py")
    assert data == ["config.json", "model.safetensors", "modules.json"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "splip_encoder"
    counts = [len(model.config.prefix_token_ids["sketch"]) + model.config.n] * 4
    assert folded.config.prompt_counts["sketch"] == counts


def stored_bytes(model) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@pytest.mark.parametrize("shared", [True, False], ids=["shared LayerNorms", "one set for each modality"])
def test_at_most_one_mib_over_the_vision_tower_of_b32(shared):
    clip = published("B/32").clip_config
    counts = {modality: [4 + 2] * 12 for modality in MODALITIES}
    with torch.device("meta"):
        folded = SplipEncoder(SplipEncoderConfig(clip_config=clip, prompt_counts=counts, share_layer_norms=shared))
        tower = CLIPVisionModelWithProjection(clip.vision_config)
    extra = stored_bytes(folded) - stored_bytes(tower)
    prompts = 2 * 12 * 6 * 2 * 768 * 4  # modalities, layers, tokens, keys and values, width, bytes
    assert extra == prompts + (0 if shared else 26 * 2 * 768 * 4) < 2**20


def test_fold_leaves_the_model_as_it_was(tiny_clip, pixels):
    model = domain(tiny_clip)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = model.fold()
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_fold_keeps_the_precision(tiny_clip, pixels):
    folded = domain(tiny_clip).to(torch.bfloat16).fold()
    assert {tensor.dtype for tensor in folded.state_dict().values()} == {torch.bfloat16}
    assert folded.encode(pixels.bfloat16(), "sketch").dtype == torch.float32


def test_same_fingerprint(tiny_clip):
    model = domain(tiny_clip)
    assert model.fold().fingerprint() == model.fingerprint()


def test_image_conditioning_cannot_be_folded(tiny_clip):
    with pytest.raises(
        ValueError, match="needs conditioning='domain': with 'image' every image has prompts of its own"
    ):
        build(tiny_clip).fold()


def test_bad_input(tiny_clip, pixels):
    folded = domain(tiny_clip).fold()
    with pytest.raises(ValueError, match="modality must be 'sketch' or 'photo'"):
        folded.encode(pixels, "text")
    with pytest.raises(ValueError, match="image_size=32"):
        folded.encode(torch.zeros(1, 3, 64, 64), "photo")


def test_without_gradients_keys_and_values_are_not_copied(tiny_clip, pixels):
    """They are projected to where they stand behind the prompts', with the same values to the last bit."""
    encoder = build(tiny_clip, conditioning="domain").fold()
    expected = encoder(pixels, "sketch")
    with torch.no_grad(), Launches() as launches:
        found = encoder(pixels, "sketch")
    assert torch.equal(found.embeds, expected.embeds) and torch.equal(found.tokens, expected.tokens)
    layers = len(encoder.vision_model.encoder.layers)
    assert launches.kernels["copy_"] == layers and launches.kernels["cat"] == 1  # the prompts; [CLS, patches]


@pytest.mark.parametrize("which", ["hook", "pre-hook", "forward", "subclass", "no bias", "autocast"])
def test_layers_that_do_more_are_called(tiny_clip, pixels, which):
    """What an adapter or a hook adds to the key projection counts, with and without gradients."""

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    encoder = build(tiny_clip, conditioning="domain").fold()
    before = encoder.encode(pixels, "sketch")
    linear = encoder.vision_model.encoder.layers[1].self_attn.k_proj
    if which == "hook":
        linear.register_forward_hook(lambda module, args, output: 2 * output)
    elif which == "pre-hook":
        linear.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    elif which == "forward":
        linear.forward = lambda x: 2 * F.linear(x, linear.weight, linear.bias)
    elif which == "subclass":
        linear.__class__ = Doubled
    elif which == "no bias":
        linear.bias = None
    with torch.autocast("cpu", torch.bfloat16, enabled=which == "autocast"):
        expected = encoder(pixels, "sketch").embeds
        found = encoder.encode(pixels, "sketch")
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert (found - before).abs().max() > 1e-5
