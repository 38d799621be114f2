"""The objective of the alignment network against losses added up image by image, and what reads what."""

import copy
import json

import pytest
import torch
from conftest import CLASSES, byte_tokenizer
from method_models import batch_of, build
from torch.nn import functional as F

from modeling_splip import CrossAlignModel
from modeling_splip.data.descriptions import load_descriptions
from modeling_splip.training.objective_cross_align import CrossAlignObjective, CrossAlignSettings


@pytest.fixture
def objective(tiny_clip) -> CrossAlignObjective:
    return CrossAlignObjective(build("cross_align", {}, tiny_clip)).eval()


def distance(a, b):
    return 1 - float(F.cosine_similarity(a, b, dim=0))


def read_by_hand(objective, sentence: str, tokens: torch.Tensor) -> torch.Tensor:
    """What a sentence, passed through the stock text tower alone, finds in one image's tokens."""
    clip = objective.model.clip
    ids = byte_tokenizer()([sentence], truncation=True, max_length=48, return_tensors="pt")
    states = clip.text_model(**ids).last_hidden_state[0]
    words = F.normalize(clip.text_projection(states), dim=-1)  # (J, D)
    return F.normalize(objective.cross_attention(words[None], tokens[None])[0].mean(dim=0), dim=-1)


@torch.no_grad()
def test_losses_one_by_one(objective):
    batch, model, settings = batch_of("category"), objective.model, objective.settings
    sentences = load_descriptions()
    triplet, alignment, match, other = [], [], [], []
    for i, label in enumerate(batch["label"]):
        images = {"s": ("sketch", "sketch"), "p": ("positive", "photo"), "n": ("negative", "photo")}
        seen = {name: model(batch[key][i][None], modality) for name, (key, modality) in images.items()}
        f = {name: output.embeds[0] for name, output in seen.items()}
        z = {name: model.shared_tokens(seen[name].tokens, images[name][1])[0] for name in seen}
        triplet.append(max(0.0, distance(f["s"], f["p"]) - distance(f["s"], f["n"]) + 0.3))
        own = sentences[CLASSES[label]]
        read = {name: read_by_hand(objective, own[batch["draw"][i] % len(own)], tokens) for name, tokens in z.items()}
        alignment.append(max(0.0, distance(read["s"], read["p"]) - distance(read["s"], read["n"]) + 0.3))
        scores = [model.relation_network(z["s"][None, 1:], z[name][None, 1:]) for name in ("p", "n")]
        match.append((1 - float(scores[0])) ** 2)
        other.append(float(scores[1]) ** 2)
    expected = {"triplet": sum(triplet) / 4, "alignment": sum(alignment) / 4, "relation": sum(match + other) / 8}
    expected["loss"] = expected["triplet"] + settings.alignment * expected["alignment"] + 2 * expected["relation"]
    found = objective(batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-3) and value > 0, name


def test_the_text_passes_nothing_of_itself_on(objective):
    """An image without content gives what is read from it no trace of the words."""
    label = torch.arange(len(CLASSES))
    blank = [torch.ones(len(CLASSES), 17, 16)]
    (read,) = objective.read(label, torch.zeros_like(label), blank)
    torch.testing.assert_close(read, read[:1].expand_as(read))


def test_only_descriptions_of_the_seen_classes_are_read(tiny_clip, tmp_path):
    prompts = {"shape": "What shape is a {class}?"}
    classes = {name: {"shape": f"A {name} looks like nothing else in the whole world."} for name in ["cup", "ant"]}
    file = tmp_path / "words.json"
    file.write_text(
        json.dumps({"schema": "splip-descriptions-1", "source": "test", "prompts": prompts, "classes": classes})
    )
    model = CrossAlignModel.from_clip(tiny_clip, ["cup"])
    objective = CrossAlignObjective(model, CrossAlignSettings(descriptions=str(file)))
    assert len(objective.words) == 1 and objective.counts.tolist() == [1]
    with pytest.raises(ValueError, match=r"No description in .*'zebra'"):
        CrossAlignObjective(CrossAlignModel.from_clip(tiny_clip, ["zebra"]), CrossAlignSettings(descriptions=str(file)))


def test_training_state_is_not_exported(objective):
    names = {name for name in objective.state_dict() if not name.startswith("model.")}
    assert names and all(name.startswith("cross_attention.") for name in names)
    assert not any("cross_attention" in name for name in objective.model.state_dict())


def test_relation_refuses_another_number_of_tokens(objective):
    with pytest.raises(ValueError, match="compares 16 tokens an image, got 9 and 16: use images of the size"):
        objective.model.relation(torch.ones(2, 9, 16), torch.ones(2, 16, 16))


@torch.no_grad()
@pytest.mark.parametrize("modality", ["sketch", "photo"])
def test_shared_tokens_are_made_as_the_embedding_is(objective, pixels, modality):
    """With the LayerNorms of their own modality: CLS among them is f."""
    output = objective.model(pixels, modality)
    torch.testing.assert_close(objective.model.shared_tokens(output.tokens, modality)[:, 0], output.embeds)


@torch.no_grad()
def test_relation_scores_are_never_of_half_precision(objective, pixels):
    model = copy.deepcopy(objective.model)
    tokens = [model.encode_tokens(pixels, modality) for modality in ("sketch", "photo")]
    expected = model.relation(*(each.float() for each in tokens))
    with torch.autocast("cpu", torch.bfloat16):
        for each in (model.relation(*tokens), model.to(torch.bfloat16).relation(*tokens)):
            assert each.dtype == torch.float32
            torch.testing.assert_close(each, expected, atol=1e-2, rtol=0)


@torch.no_grad()
def test_what_is_compared_stays_in_float32_under_autocast(objective):
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(batch_of("category"))
    assert {loss.dtype for loss in found.values()} == {torch.float32}


@torch.no_grad()
def test_a_cast_objective_still_computes(objective):
    low = copy.deepcopy(objective).to(torch.bfloat16)
    batch = {name: x.bfloat16() if x.is_floating_point() else x for name, x in batch_of("category").items()}
    assert float(low(batch)["loss"]) == pytest.approx(float(objective(batch_of("category"))["loss"]), rel=0.1)


def test_a_model_that_names_no_base_has_no_tokenizer(tiny_clip):
    model = build("cross_align", {}, tiny_clip)
    model.config.base_model = None
    with pytest.raises(ValueError, match=r"set config\.base_model to that CLIP"):
        CrossAlignObjective(model)
