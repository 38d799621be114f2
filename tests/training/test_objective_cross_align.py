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


def words_by_hand(objective, sentence: str) -> torch.Tensor:
    """The words of a sentence that passes the stock text tower alone, (J, D)."""
    clip = objective.model.clip
    ids = byte_tokenizer()([sentence], truncation=True, max_length=48, return_tensors="pt")
    return F.normalize(clip.text_projection(clip.text_model(**ids).last_hidden_state[0]), dim=-1)


@pytest.fixture(scope="module")
def short_texts(tmp_path_factory) -> str:
    """A file with sentences of different lengths: the packaged ones all fill the tiny tower's context."""
    file = tmp_path_factory.mktemp("words") / "words.json"
    prompts = {"shape": "What shape is a {class}?", "colour": "What colour is a {class}?"}
    answers = [("long", "white"), ("round", "of any colour"), ("striped", "white"), ("small", "red"), ("flat", "grey")]
    classes = {
        name: {"shape": f"A {name} is {shape}.", "colour": f"The {name} is {colour}."}
        for name, (shape, colour) in zip(CLASSES, answers, strict=True)
    }
    content = {"schema": "splip-descriptions-1", "source": "test", "prompts": prompts, "classes": classes}
    file.write_text(json.dumps(content))
    return str(file)


def text_by_hand(objective, label: int, draw: int) -> torch.Tensor:
    """The text of a class, (J, D)."""
    sentences = load_descriptions(objective.settings.descriptions)[CLASSES[label]]
    words = [words_by_hand(objective, sentence) for sentence in sentences]
    form = objective.settings.text
    if form == "one":
        return words[draw % len(words)]
    return torch.cat(words if form == "all" else [own[-1:] for own in words])


def attend(layer, readers: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Multi-head attention, head by head, and the feed-forward layer: (J, D) readers, (N, D) read."""
    attention, width = layer.attention, readers.shape[1]
    q, k, v = (
        F.linear(x, attention.in_proj_weight[i * width : (i + 1) * width], attention.in_proj_bias[i * width :][:width])
        for i, x in enumerate((readers, read, read))
    )
    size = width // attention.num_heads
    heads = [
        (q[:, h : h + size] @ k[:, h : h + size].T / size**0.5).softmax(dim=1) @ v[:, h : h + size]
        for h in range(0, width, size)
    ]
    found = attention.out_proj(torch.cat(heads, dim=1))
    return found + layer.feed_forward(layer.norm(found))


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


SETTINGS = [
    {},
    {"text": "one"},
    {"text": "sentences", "text_free": 0.0},
    {"exchange": "text"},
    {"exchange": "image", "text_free": 0.25},
    {"triplet": 0.0, "alignment": 0.5},
    {"relation": 0.0, "triplet": 2.0},
    {"alignment": 0.0},
    {"triplet": 0.0, "alignment": 0.0, "text_free": 1.0},
]


@pytest.mark.parametrize("given", SETTINGS, ids=str)
@torch.no_grad()
def test_losses_one_by_one(tiny_clip, short_texts, given):
    torch.manual_seed(1)
    settings = CrossAlignSettings(descriptions=short_texts, **given)
    objective = CrossAlignObjective(build("cross_align", {}, tiny_clip), settings).eval()
    if settings.alignment and settings.text != "sentences":
        assert not objective.is_word.all()  # there is padding to be left out
    batch, model = batch_of("category"), objective.model
    text_reads, images_read = settings.exchange in ("both", "text"), settings.exchange in ("both", "image")
    terms = {name: [] for name in ("triplet", "found", "moved", "free", "after")}
    for i, label in enumerate(batch["label"]):
        images = {"s": ("sketch", "sketch"), "p": ("positive", "photo"), "n": ("negative", "photo")}
        seen = {name: model(batch[key][i][None], modality) for name, (key, modality) in images.items()}
        f = {name: output.embeds[0] for name, output in seen.items()}
        z = {name: model.shared_tokens(seen[name].tokens, images[name][1])[0] for name in seen}
        words = text_by_hand(objective, label, batch["draw"][i])
        found, after = {}, {}
        for name, tokens in z.items():
            if hasattr(objective, "text_reading"):
                found[name] = unit(attend(objective.text_reading, words, tokens).mean(dim=0))
            if hasattr(objective, "image_reading"):
                reading = objective.image_reading
                after[name] = unit(tokens + reading.gate * unit(attend(reading.cross_attention, tokens, words)))

        def triplet(x):
            return max(0.0, distance(x["s"], x["p"]) - distance(x["s"], x["n"]) + 0.3)

        def relation(x):
            match, other = (float(model.relation_network(x["s"][None, 1:], x[o][None, 1:])) for o in ("p", "n"))
            return ((1 - match) ** 2 + other**2) / 2

        terms["triplet"].append(triplet(f))
        terms["free"].append(relation(z))
        if found:
            terms["found"].append(triplet(found))
        if after:
            terms["moved"].append(triplet({name: tokens[0] for name, tokens in after.items()}))
            terms["after"].append(relation(after))
    mean = {name: sum(values) / len(values) for name, values in terms.items() if values}
    # What no loss needs is not built.
    assert ("found" in mean) == (text_reads and settings.alignment > 0)
    assert ("after" in mean) == (images_read and (settings.alignment > 0 or settings.text_free < 1))
    share = settings.text_free if "after" in mean else 1.0
    exchanged = [mean[name] for name in ("found", "moved") if name in mean]
    expected = {
        "triplet": mean["triplet"],
        "alignment": sum(exchanged) / max(1, len(exchanged)),
        "relation": share * mean["free"] + (1 - share) * mean.get("after", 0.0),
    }
    expected = {name: value for name, value in expected.items() if getattr(settings, name)}
    expected["loss"] = sum(getattr(settings, name) * value for name, value in expected.items())
    losses = objective(batch)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-3) and value > 0, name


def test_the_text_passes_nothing_of_itself_on(objective):
    """An image without content gives what is read from it no trace of the words."""
    label = torch.arange(len(CLASSES))
    blank = [torch.ones(len(CLASSES), 17, 16)]
    (found,), (after,) = objective.exchange(label, torch.zeros_like(label), blank)
    torch.testing.assert_close(found, found[:1].expand_as(found))
    assert (after - after[:1]).abs().max() > 1e-3  # while the images do take the words in


@torch.no_grad()
def test_the_embeddings_are_free_of_text(objective):
    """Not even in training do they change with the text; what is exchanged does."""
    batch, model = batch_of("category"), objective.model
    before = model.encode(batch["sketch"], "sketch")
    first = objective(batch)
    objective.words.copy_(F.normalize(torch.randn_like(objective.words), dim=-1))
    second = objective(batch)
    assert torch.equal(model.encode(batch["sketch"], "sketch"), before)
    assert torch.equal(first["triplet"], second["triplet"])
    for name in ("alignment", "relation"):
        assert not torch.allclose(first[name], second[name], atol=1e-6), name


def test_questions_choose_the_sentences(tiny_clip):
    model = build("cross_align", {}, tiny_clip)
    sizes = {}
    for questions in ("", "parts", "shape, colour"):
        objective = CrossAlignObjective(model, CrossAlignSettings(text="one", questions=questions))
        sizes[questions] = objective.counts.tolist()
    assert sizes == {"": [5] * 5, "parts": [1] * 5, "shape, colour": [2] * 5}
    own = CrossAlignObjective(model, CrossAlignSettings(text="sentences", questions="colour"))
    last = words_by_hand(own, load_descriptions()["cup"][3])[-1]
    torch.testing.assert_close(own.words[CLASSES.index("cup"), 0], last)
    with pytest.raises(ValueError, match=r"has no question 'color'; did you mean 'colour'\?"):
        CrossAlignObjective(model, CrossAlignSettings(questions="color"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"exchange": "words"}, r"exchange must be one of \('both', 'text', 'image'\), got 'words'"),
        ({"text": "pooled"}, r"text must be one of \('all', 'one', 'sentences'\), got 'pooled'"),
        ({"text_free": 1.5}, "text_free is a share, from 0 to 1, got 1.5"),
        ({"triplet": -1.0}, "triplet must be at least 0, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        CrossAlignSettings(**given)


def test_a_width_that_the_heads_do_not_divide_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="heads must divide D=16, got 5"):
        CrossAlignObjective(build("cross_align", {}, tiny_clip), CrossAlignSettings(heads=5))


def test_only_descriptions_of_the_seen_classes_are_read(tiny_clip, tmp_path):
    prompts = {"shape": "What shape is a {class}?"}
    classes = {name: {"shape": f"A {name} looks like nothing else in the whole world."} for name in ["cup", "ant"]}
    file = tmp_path / "words.json"
    file.write_text(
        json.dumps({"schema": "splip-descriptions-1", "source": "test", "prompts": prompts, "classes": classes})
    )
    model = CrossAlignModel.from_clip(tiny_clip, ["cup"])
    objective = CrossAlignObjective(model, CrossAlignSettings(descriptions=str(file)))
    assert len(objective.words) == 1 and objective.is_word.all() and objective.counts.tolist() == [1]
    with pytest.raises(ValueError, match=r"No description in .*'zebra'"):
        CrossAlignObjective(CrossAlignModel.from_clip(tiny_clip, ["zebra"]), CrossAlignSettings(descriptions=str(file)))


def test_training_state_is_not_exported(objective):
    names = {name for name in objective.state_dict() if not name.startswith("model.")}
    assert names and all(name.startswith(("text_reading.", "image_reading.")) for name in names)
    assert not any("reading" in name for name in objective.model.state_dict())


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
