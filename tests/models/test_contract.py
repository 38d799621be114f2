"""What every method promises, over all of them: a new one joins with its row in the registry."""

import threading

import pytest
import torch
from conftest import CLASSES
from method_models import CASES, MODALITIES, OFF, batch_of, build
from torch.nn import functional as F
from transformers import CLIPModel

from modeling_splip.training.methods import METHODS
from modeling_splip.training.objective import LEVELS

METHOD = pytest.mark.parametrize(("name", "settings"), CASES)


def test_every_method_is_in_the_matrix():
    assert {name for name, _ in CASES} == set(METHODS) == set(OFF)


@METHOD
def test_output(tiny_clip, pixels, name, settings):
    model = build(name, settings, tiny_clip)
    output = model(pixel_values=pixels, modality="photo", output_hidden_states=True, output_attentions=True)
    assert output.embeds.shape == (3, 16) and output.tokens.shape == (3, 17, 32)
    torch.testing.assert_close(output.embeds.norm(dim=-1), torch.ones(3))
    assert output.class_embeds.shape in ((3, len(CLASSES), 16), (1, len(CLASSES), 16))
    assert [tuple(state.shape) for state in output.hidden_states] == [(3, 17, 32)] * 5
    assert torch.equal(output.hidden_states[-1], output.tokens)
    for weights in output.attentions:
        assert weights.shape[:3] == (3, 4, 17) and weights.shape[3] >= 17
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 17))
    embeds, tokens = model(pixels, "photo", return_dict=False, return_class_embeds=False)
    torch.testing.assert_close(embeds, output.embeds, atol=1e-6, rtol=0)
    assert tokens.shape == output.tokens.shape


@METHOD
def test_no_images_have_no_embeddings(tiny_clip, pixels, name, settings):
    assert build(name, settings, tiny_clip).encode(pixels[:0], "photo").shape == (0, 16)


@pytest.mark.parametrize("name", OFF)
def test_all_off_is_plain_clip(tiny_clip, pixels, name):
    model = METHODS[name].model.from_clip(tiny_clip, **OFF[name])
    plain = CLIPModel.from_pretrained(tiny_clip).get_image_features(pixels).pooler_output
    for modality in MODALITIES:
        torch.testing.assert_close(model.encode(pixels, modality), F.normalize(plain, dim=-1), atol=1e-6, rtol=0)


@METHOD
def test_modalities_and_images_differ(tiny_clip, pixels, name, settings):
    model = build(name, settings, tiny_clip)
    sketch, photo = (model.encode(pixels, modality) for modality in MODALITIES)
    assert (sketch - photo).abs().max() > 1e-3 and (sketch[0] - sketch[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"modality must be 'sketch' or 'photo'.*got 'drawing'"):
        model.encode(pixels, "drawing")


@METHOD
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_do_not_depend_on_their_batch(tiny_clip, pixels, name, settings, attention):
    model = build(name, settings | {"attn_implementation": attention}, tiny_clip)
    together = model(pixels, "photo")
    for row in range(len(pixels)):
        alone = model(pixels[row : row + 1], "photo")
        torch.testing.assert_close(alone.embeds[0], together.embeds[row], atol=1e-6, rtol=0)
        own = row if len(together.class_embeds) > 1 else 0
        torch.testing.assert_close(alone.class_embeds[0], together.class_embeds[own], atol=1e-6, rtol=0)


@METHOD
def test_two_threads_on_two_modalities(tiny_clip, pixels, name, settings):
    model = build(name, settings, tiny_clip)
    alone = {modality: model.encode(pixels, modality) for modality in MODALITIES}
    found: dict[str, list[torch.Tensor]] = {modality: [] for modality in MODALITIES}

    def work(modality):
        for _ in range(20):
            found[modality].append(model.encode(pixels, modality))

    threads = [threading.Thread(target=work, args=(modality,)) for modality in MODALITIES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for modality in MODALITIES:
        assert len(found[modality]) == 20
        for embeds in found[modality]:
            torch.testing.assert_close(embeds, alone[modality], atol=1e-6, rtol=0)


@METHOD
def test_encoding_twice_gives_the_same_bits(tiny_clip, pixels, name, settings):
    model = build(name, settings, tiny_clip)
    first = model.encode(pixels, "sketch")
    assert torch.equal(model.train().encode(pixels, "sketch"), first)
    assert torch.equal(build(name, settings, tiny_clip).encode(pixels, "sketch"), first)


@METHOD
@pytest.mark.parametrize("level", LEVELS)
def test_gradients_only_where_intended(tiny_clip, name, settings, level):
    model = build(name, settings, tiny_clip)
    objective = METHODS[name].objective(model, level=level).train()
    losses = objective(batch_of(level))
    assert all(value.shape == () and value.isfinite() for value in losses.values()) and "loss" in losses
    losses["loss"].backward()
    for parameter_name, parameter in objective.named_parameters():
        if parameter_name.startswith("model.clip."):
            assert not parameter.requires_grad and parameter.grad is None, parameter_name
        else:
            assert parameter.requires_grad and parameter.grad.abs().max() > 0, parameter_name


@METHOD
@pytest.mark.parametrize("level", LEVELS)
def test_a_few_steps_lower_the_loss(tiny_clip, name, settings, level):
    """On one batch, and CLIP stays as it was."""
    model = build(name, settings, tiny_clip)
    objective = METHODS[name].objective(model, level=level).train()
    before = {key: tensor.clone() for key, tensor in model.clip.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for _ in range(15):
        loss = objective(batch_of(level))["loss"]
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.6 * values[0]
    for key, tensor in model.clip.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@METHOD
def test_what_cannot_be_built_is_refused(tiny_clip, name, settings):
    method = METHODS[name]
    with pytest.raises(ValueError, match="but the text tower takes 48: shorten the class name"):
        method.model.from_clip(tiny_clip, ["cup", "a" * 60], **settings)
    with pytest.raises(ValueError, match=r"has no field 'layer_norm' \(nearest: 'layer_norms'\)"):
        method.model.from_clip(tiny_clip, CLASSES, layer_norm="none")
    weight = next(field for field in ("alpha", "alignment") if hasattr(method.objective.settings_class, field))
    with pytest.raises(ValueError, match=f"{weight} must be at least 0, got -1"):
        method.objective.settings_class(**{weight: -1.0})
