"""Class prompts: what the packed sequence holds, which word sees which, and names that cannot be used."""

import pytest
import torch
from conftest import CLASSES, byte_tokenizer

from modeling_splip import class_prompts
from modeling_splip.class_prompts import pack_class_prompts
from modeling_splip.configuration_retriever import tokenize_class_prompts
from modeling_splip.modeling_splip import SplipModel

TEMPLATE = "{modality} of a {class_name}"
CPU = torch.device("cpu")
# Two prompts after SOS = 1, template words 2 and 3; class A is "10 EOS", class B is "20 21 EOS", EOS = 9.
PACKED = pack_class_prompts([1, 2, 3], [[10, 9], [20, 21, 9]], 2, CPU)


def test_packed_sequence_by_hand():
    """The longer class comes first: both stand in one group."""
    assert PACKED.token_ids.tolist() == [[1, 1, 1, 2, 3, 20, 21, 9, 10, 9]]
    assert PACKED.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 5, 6]]
    assert PACKED.eos.tolist() == [9, 7]


def test_mask_by_hand():
    visible = [
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 1, 0],
        [1, 1, 1, 1, 1, 0, 0, 0, 1, 1],
    ]
    assert torch.equal(PACKED.mask == 0, torch.tensor([[visible]]).bool())
    assert PACKED.mask.dtype == torch.float32 and (PACKED.mask[PACKED.mask != 0] == float("-inf")).all()


def test_rows_of_the_mask_are_aligned():
    """The fused attention of GPUs would copy another mask in every layer."""
    assert PACKED.mask.shape == (1, 1, 10, 10) and PACKED.mask.stride() == (160, 160, 16, 1)


def test_groups_hold_the_prefix_and_whole_classes_and_are_filled_up(monkeypatch):
    """The longest class first, each into the shortest group: 20; 9 + 2; 3 + 2 + 2 + 2 tokens, three groups of 20."""
    monkeypatch.setattr(class_prompts, "GROUP_TOKENS", 16)
    lengths = [2, 3, 2, 9, 2, 20, 2]
    classes = [[10 * c + k for k in range(length)] for c, length in enumerate(lengths)]
    packed = pack_class_prompts([1, 2, 3], classes, 2, CPU)
    assert packed.token_ids[:, :5].tolist() == [[1, 1, 1, 2, 3]] * 3
    held = packed.token_ids[:, 5:].tolist()
    assert held[0] == classes[5]
    assert held[1] == classes[3] + classes[6] + [1] * 9
    assert held[2] == classes[1] + classes[0] + classes[2] + classes[4] + [1] * 11
    assert packed.token_ids.flatten()[packed.eos].tolist() == [ids[-1] for ids in classes]
    weights = packed.weights.reshape(3, 25)
    assert (weights[1:, :5] == 0).all() and weights[0, 0] == 7 * weights[0, 5]
    counted = weights[:, 5:] > 0
    assert counted.sum(dim=1).tolist() == [20, 11, 9]
    # No word sees the fillings, which stand behind all words of their group.
    visible = packed.mask[:, 0, 5:] == 0  # (3, 20, 25)
    assert not (visible & counted[:, :, None] & ~torch.cat([torch.ones(3, 5).bool(), counted], 1)[:, None]).any()


def test_weights_by_hand():
    """SOS and the two template words count for both classes, the two prompts for none: 3 x 2 + 2 + 3 = 11 tokens."""
    expected = torch.tensor([2, 0, 0, 2, 2, 1, 1, 1, 1, 1], dtype=torch.float64) / 11
    torch.testing.assert_close(PACKED.weights, expected, atol=1e-15, rtol=0)


def test_without_prompts():
    packed = pack_class_prompts([1, 2], [[10, 9]], 0, CPU)
    assert packed.token_ids.tolist() == [[1, 2, 10, 9]] and packed.positions.tolist() == [[0, 1, 2, 3]]
    torch.testing.assert_close(packed.weights, torch.full((4,), 0.25, dtype=torch.float64))


def test_a_known_layout_gives_tensors_of_its_own():
    """What one caller does to them, another must not see."""
    first, again = (pack_class_prompts([1, 2], [[10, 9]], 0, CPU) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        expected = other.clone()
        one.zero_()
        assert torch.equal(other, expected)


def test_prefix_and_class_words_make_the_sentence():
    tokenizer = byte_tokenizer()
    prefixes, suffixes = tokenize_class_prompts(tokenizer, TEMPLATE, CLASSES)
    for modality, prefix in prefixes.items():
        for name, suffix in zip(CLASSES, suffixes, strict=True):
            assert prefix + suffix == tokenizer(f"{modality} of a {name}")["input_ids"]


def test_words_after_the_class_name():
    tokenizer = byte_tokenizer()
    prefixes, suffixes = tokenize_class_prompts(tokenizer, "a {modality} of a {class_name} on white", ["old cup"])
    assert prefixes["photo"] + suffixes[0] == tokenizer("a photo of a old cup on white")["input_ids"]


@pytest.mark.parametrize(
    ("names", "template", "sentence"),
    [
        ([], TEMPLATE, "class_names is empty.* pass at least one name"),
        ("cup", TEMPLATE, "class_names must be a list of names, got the text 'cup'"),
        (["cup", 3], TEMPLATE, "class_names must hold texts, got 3"),
        (["cup"], "{modality} of {colour} {class_name}", "template may hold {class_name} and {modality} only"),
        (["cup", " "], TEMPLATE, "class_names holds an empty name: every seen class needs a readable one"),
        (["cup", "ant", "cup"], TEMPLATE, "class_names holds 'cup' more than once: names must be unique"),
        (["ant", "a" * 60], TEMPLATE, "class 'a{60}' has 75 tokens with m=4, but the text tower takes 48: shorten"),
        (["cup"], "photo of a {class_name}", r"template must hold \{modality\} and after it \{class_name\}"),
        (["cup"], "{modality} of something", r"template must hold \{modality\} and after it \{class_name\}"),
    ],
    ids=[
        "empty list",
        "text",
        "number",
        "unknown field",
        "empty name",
        "duplicated",
        "too long",
        "no modality",
        "no class name",
    ],
)
def test_bad_class_lists(tiny_clip, names, template, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        SplipModel.from_clip(tiny_clip, names, template=template)
    assert "\n" not in str(error.value)
