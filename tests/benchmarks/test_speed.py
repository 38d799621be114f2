"""The speed benchmark times what it says: padded text equals packed text, and its tables hold the result."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import speed_cases
from benchmarks.packing import packing
from benchmarks.speed import merge
from benchmarks.speed_device import PARTS, STEPS
from benchmarks.speed_table import device, speed
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


def test_the_script_for_gpus_runs_every_part_within_eight_minutes():
    script = (BENCHMARKS / "gpu.sh").read_text("utf-8")
    named = re.findall(r"--parts ((?:\w+ ?)+)", script)
    assert {part for names in named for part in names.split()} == set(PARTS)
    assert set(re.findall(r'--cases "([^"]+)"', script)) <= set(STEPS)
    assert "total=460 slower=1" in script, "the last parts get the time that is left"


def test_parts_become_one_result(tmp_path):
    """Each is measured by a process of its own; one that was cut off is simply not there."""
    machine, settings = (
        {"device": "cuda", "gpu": "A card"},
        {"shape": "B/32", "classes": 104, "dtype": "bf16", "clock": "s"},
    )
    about = {"machine": machine | {"torch": "2", "threads": 1}, "settings": settings, "bars": []}
    row = {"triplets": 16, "seconds": 0.05, "images_a_second": 1300.0, "peak_gb": 6.0}
    rates = {
        "plain CLIP": {"images_a_second": 30000.0, "of_plain": 1.0},
        "folded": {"images_a_second": 29000.0, "of_plain": 1.034},
    }
    way = {"milliseconds": 4.0, "peak_gb": 1.0, "differs_by": 0.0}
    fed = {"images_a_second": {"pipeline alone": 3000.0, "step alone": 1500.0, "both together": 1400.0}}
    parts = {
        "a": about | {"ceiling": {"measured_tflops": 600.0, "datasheet_tflops": 989.0}},
        "b": about | {"encoding": {"gflop_an_image": 8.8, "batches": {"256": rates}}},
        "c": about | {"compiled_steps": {"image, 16, CUDA graphs": row}},
        "d": about | {"compiled_steps": {"image, 192, compiled": row | {"triplets": 192, "images_a_second": 4000.0}}},
        "e": about | {"packing": {"backward": True, "32": {"grouped": way, "flex": {"failed": "Error"}}}},
        "f": {"settings": {}, "measured": {"splip": {"predecoded": fed | {"together_by_step_alone": 1.071}}}},
    }
    for name, part in parts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    (tmp_path / "out").mkdir()
    report = merge(tmp_path, tmp_path / "out" / "speed_cuda.json")
    assert json.loads((tmp_path / "out" / "speed_cuda.json").read_text()) == report
    assert set(report["compiled_steps"]) == {"image, 16, CUDA graphs", "image, 192, compiled"}
    met = {row["what"]: row["met"] for row in report["bars"]}
    assert met == {
        "folded, batch 256, of plain CLIP: at most": False,
        "image conditioning, 16 triplets, images/s: at least": True,
        "image conditioning, 192 triplets, images/s: at least": False,
        "training from files, predecoded, of the step's own rate: at least": True,
    }
    table = device(report)
    for text in (
        "| 256 | folded | 29,000 | 1.03 | 43 %, 26 % |",
        "| 32 | flex | - | - | - |",
        "3,000 | 1,500 | 1,400 | 1.071",
    ):
        assert text in table
    with pytest.raises(SystemExit, match="no part in"):
        merge(tmp_path / "out" / "nothing", tmp_path / "other.json")


def test_every_way_to_pack_a_text_pass_gives_its_means(tiny_shape):
    kept = []
    args = SimpleNamespace(shape=tiny_shape, device="cpu", slow_repeats=1, packed_images=(2,), keep=kept.append)
    report = packing(args, Timer("cpu", 1))
    assert kept == [report] and set(report["2"]) == {"grouped", "single", "flex"}
    assert all(row["differs_by"] < 1e-4 for row in report["2"].values()), report
