"""CLIP driven layer by layer: equal to the stock model in every shape and precision, and clear about bad input."""

import pytest
import torch
from plain_splip import PlainSplip, build
from published_shapes import SHAPES, published
from torch.nn import functional as F
from transformers import CLIPModel

from modeling_splip.class_prompts import prompt_key_values
from modeling_splip.clip_backbone import embed_patches, run_vision, vision_norms
from modeling_splip.modeling_splip import SplipModel


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_with_one_layer(name):
    config = published(name, layers=1, vocabulary=20)
    model = SplipModel(config).eval()
    size = SHAPES[name][6]
    pixels = torch.randn(2, 3, size, size)
    output = model(pixels, "photo")
    assert output.embeds.shape == (2, SHAPES[name][-1]) and output.class_embeds.shape == (2, 3, SHAPES[name][-1])
    torch.testing.assert_close(model.encode(pixels[:1], "photo")[0], output.embeds[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_in_full_without_memory(name):
    """All layers on the meta device, up to the head (autocast, which the head leaves, knows no such device)."""
    config = published(name)
    d_v, l_v, _, patch, d_t, _, size, _ = SHAPES[name]
    with torch.device("meta"):
        model = SplipModel(config)
        embeddings = embed_patches(model.clip, torch.empty(2, 3, size, size))
        means, _ = model._text_pass(model._text_prompts(embeddings, "sketch"), "sketch")
        norms = model.layer_norms("sketch")
        visual = prompt_key_values(model.clip, norms, model._visual_prompts(means, "sketch"))
        output = run_vision(model.clip, embeddings, norms, visual)
    assert means.shape == (12, 2, d_t)
    assert [tuple(pair.shape) for pair in visual] == [(2, 6, 2, d_v)] * l_v
    assert [tuple(layer.shape) for layer in output.layers] == [(2, 1 + (size // patch) ** 2, d_v)] * l_v
    layer_norms = 2 * d_v * (2 * l_v + 2) + 2 * d_t * (2 * 12 + 1)
    mappers = (d_v + 1) * d_t + (d_t + 1) * d_t + (d_t + 1) * 4 * d_t  # B_t
    mappers += (d_t + 1) * d_v + (d_t + 1) * 256 + 257 * 2 * d_v  # B_v, B_vt
    assert model.num_parameters(only_trainable=True) == layer_norms + mappers


def test_width_of_b32_equals_stock_layers():
    """Two layers of the true widths, 8 and 12 heads, against stock layers with the prompts inserted."""
    torch.manual_seed(0)
    model = SplipModel(published("B/32", layers=2, vocabulary=600))
    model.start_from_clip()
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        plain = PlainSplip(model, "sdpa")
        plain.swap_norms("photo")
        visual = model.encode(pixels, "photo")
        embeddings = plain.clip.vision_model.embeddings(pixels)
        means, _ = model._text_pass(model._text_prompts(embeddings, "photo"), "photo")
        # The template's tokens come from the config here: there is no tokenizer of that vocabulary.
        plain.tokenizer = lambda text: {"input_ids": [*model.config.prefix_token_ids["photo"], 599]}
        expected = plain.vision(embeddings, means, "photo")
    torch.testing.assert_close(visual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_vision_layers_equal_the_stock_tower(tiny_clip, pixels, attention):
    clip = CLIPModel.from_pretrained(tiny_clip, attn_implementation=attention)
    stock = clip.vision_model(pixels, output_hidden_states=True, output_attentions=attention == "eager")
    embeddings = embed_patches(clip, pixels)
    own = run_vision(clip, embeddings, vision_norms(clip), attention=attention, output_attentions=attention == "eager")
    for layer, expected in zip(own.layers, stock.hidden_states[1:], strict=True):
        torch.testing.assert_close(layer, expected, atol=1e-5, rtol=1e-5)
    for weights, expected in zip(own.attentions, stock.attentions or (), strict=True):
        torch.testing.assert_close(weights, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(48, 48), (16, 40), (32, 32)], ids=str)
def test_other_image_sizes(tiny_clip, size):
    model = SplipModel.from_clip(tiny_clip, use_b_t=False, use_b_v=False, use_b_vt=False)
    pixels = torch.randn(2, 3, *size)
    plain = CLIPModel.from_pretrained(tiny_clip).get_image_features(pixels, interpolate_pos_encoding=True)
    own = model(pixels, "photo", interpolate_pos_encoding=True).embeds
    torch.testing.assert_close(own, F.normalize(plain.pooler_output, dim=-1), atol=1e-6, rtol=0)
    assert build(tiny_clip)(pixels, "sketch", interpolate_pos_encoding=True).embeds.shape == (2, 16)


def training_gradients(model, pixels):
    model.zero_grad()
    output = model(pixels, "sketch")
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(part.shape, generator=generator) for part in (output.embeds, output.class_embeds)]
    ((output.embeds * draws[0]).sum() + (output.class_embeds * draws[1]).sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("conditioning", ["image", "domain"])
def test_checkpointing_gives_the_same_gradients(tiny_clip, pixels, conditioning):
    model = build(tiny_clip, conditioning=conditioning).train()
    expected = training_gradients(model, pixels)
    model.gradient_checkpointing_enable()
    layers = [*model.clip.vision_model.encoder.layers, *model.clip.text_model.encoder.layers]
    calls = []
    for layer in layers:
        inner = layer._gradient_checkpointing_func
        layer._gradient_checkpointing_func = lambda *args, inner=inner: (calls.append(1), inner(*args))[1]
    found = training_gradients(model, pixels)
    assert len(calls) == len(layers) == 7
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    model.gradient_checkpointing_disable()
    assert training_gradients(model, pixels).keys() == expected.keys() and len(calls) == 7


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("conditioning", ["image", "domain"])
def test_bfloat16_with_the_head_in_float32(tiny_clip, pixels, conditioning, attention):
    model = build(tiny_clip, conditioning=conditioning, attn_implementation=attention)
    expected = model(pixels, "photo")
    with torch.autocast("cpu", torch.bfloat16):
        cast = model(pixels, "photo")
    half = model.to(torch.bfloat16)(pixels.bfloat16(), "photo")
    for found in (cast, half):
        for name in ("embeds", "class_embeds"):
            value, exact = getattr(found, name), getattr(expected, name)
            assert value.dtype == torch.float32
            # Unit norm to float32's precision: the norm was not taken in bfloat16.
            torch.testing.assert_close(value.norm(dim=-1), torch.ones(value.shape[:-1]), atol=1e-6, rtol=0)
            assert F.cosine_similarity(value, exact, dim=-1).min() > 0.999
    assert model.encode(pixels.bfloat16(), "photo").dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, 1, 32, 32), r"pixel_values must be \(batch, 3, height, width\), got \(2, 1, 32, 32\)"),
        ((3, 32, 32), r"pixel_values must be \(batch, 3, height, width\), got \(3, 32, 32\)"),
        (
            (2, 3, 64, 32),
            "pixel_values are 64 x 32, but this CLIP takes image_size=32: .*interpolate_pos_encoding=True",
        ),
    ],
    ids=["one channel", "no batch", "size"],
)
def test_bad_images(tiny_clip, shape, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        build(tiny_clip).encode(torch.zeros(shape), "photo")
    assert "\n" not in str(error.value)


def test_image_size_that_is_no_multiple_of_the_patch(tiny_clip):
    with pytest.raises(ValueError, match=r"30 x 32.*multiples of patch_size=8"):
        build(tiny_clip)(torch.zeros(1, 3, 30, 32), "photo", interpolate_pos_encoding=True)
