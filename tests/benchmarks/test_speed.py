"""The speed benchmark times what it says: padded text equals packed text, and its tables hold the result."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import speed_cases
from benchmarks.speed_table import speed
from benchmarks.timing import Timer
from modeling_splip.class_prompts import pack_class_prompts

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setitem(speed_cases.SHAPES, "tiny", (32, 3, 4, 56, 24, 2, 16))
    monkeypatch.setattr(speed_cases, "CLASSES", 9)
    return "tiny"


@pytest.mark.parametrize("length", [None, 77])
def test_padded_text_gives_the_same_training_step(tiny_shape, length):
    torch.manual_seed(0)
    steps = []
    for padded in (False, True):
        model = speed_cases.build(tiny_shape, "image", "cpu", classes=9, padded=padded, length=length)
        torch.manual_seed(1)
        step = speed_cases.TrainingStep(model, 2, torch.float32)
        steps.append([step() for _ in range(2)])
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def test_the_104_classes_have_names_as_long_as_sketchys():
    lengths = [len(ids) - 1 for ids in speed_cases.class_tokens(104)]
    assert sorted(lengths) == [1] * 87 + [2] * 13 + [3, 3, 4, 5]


def test_the_104_classes_are_as_many_tokens_as_the_docs_say():
    """Four prompts stand behind SOS: 8 tokens, once in each of two groups."""
    classes = speed_cases.class_tokens(104)
    packed = pack_class_prompts([1, 2, 3, 4], classes, 4, torch.device("cpu"))
    assert packed.token_ids.shape == (2, 124) and max(8 + len(ids) for ids in classes) == 14


def test_cases_take_turns():
    order = []
    cases = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = Timer("cpu", 1).interleave("", cases, 3)
    assert order == list("abc" + "abc" + "bca" + "cab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_the_committed_result():
    report = json.loads((BENCHMARKS / "results" / "speed.json").read_text("utf-8"))
    tables = speed(report)
    assert len(report["bars"]) > 5
    for row in report["bars"]:
        assert row["what"] in tables
    assert report["vision"]["folded_differs_by"] < 1e-4 and report["text"]["means_differ_by"] < 1e-4
    assert "/" not in json.dumps(report["machine"]).replace("N/A", "")
    document = (BENCHMARKS.parent / "docs" / "model.md").read_text("utf-8")
    assert tables in document, "docs/model.md does not hold this result's tables: run python -m benchmarks.render"
