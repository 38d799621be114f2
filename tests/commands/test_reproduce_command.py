"""Published experiments: every recipe trains, a plan says what it takes, and one runs from its archive to its table."""

import json
import sys
from pathlib import Path

import archives
import pytest
from accelerate.state import AcceleratorState, GradientState
from conftest import SEEN
from huggingface_hub import ModelCard
from launch import ENVIRONMENT
from safetensors.torch import load_file

from modeling_splip.commands import main as cli
from modeling_splip.commands import reproduce as reproduce_command
from modeling_splip.training import train as train_accelerate
from modeling_splip.training.arguments import load_recipe, recipe_names

SMALL = [
    "batch_size=16",
    "validation_classes=2",
    "max_steps=2",
    "epochs=1",
    "warmup_steps=0",
    "workers=0",
    "tracker=none",
]


def describe(file: Path) -> Path:
    """Write descriptions of the classes of `prepared`, most of which the packaged ones lack."""
    prompts = {"shape": "What shape has the {class}?", "parts": "What are the parts of the {class}?"}
    classes = {name: {"shape": f"The {name} is round.", "parts": f"A {name} has corners."} for name in SEEN}
    content = {"schema": "splip-descriptions-1", "source": "test", "prompts": prompts, "classes": classes}
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_on_tiny_shapes(name, prepared, tiny_clip, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    more = ["--pairs_per_class", "2"] if name.endswith("_fg") else []
    if load_recipe(name)["method"] == "cross_align":
        more += ["--loss.descriptions", str(describe(tmp_path / "words.json"))]
    changes = [word for change in SMALL for word in f"--{change}".split("=")]
    where = ["--dataset", str(prepared), "--base", tiny_clip, "--output", str(tmp_path / "run")]
    record = train_accelerate.main(["--recipe", name, *where, *changes, *more])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert record["finished"] and record["steps"] == 2
    for key, value in load_recipe(name).items():
        if key in ("method", "level", "learning_rate", "mixed_precision", "gradient_checkpointing", "model", "loss"):
            assert record["arguments"][key] == (value | record["arguments"][key] if key == "loss" else value)
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert saved and all(tensor.isfinite().all() for tensor in saved.values())


def test_the_experiments_are_those_of_the_benchmarks():
    names = reproduce_command.experiments()
    ours = ("small_splip", "splip_open23")
    comparison = {name for name in recipe_names() if "_mini" in name or "_sketchy21" in name}
    assert set(names) == set(recipe_names()) - comparison - set(ours)
    assert {reproduce_command.benchmark(name) for name in names} == {"sketchy1", "sketchy2", "tuberlin", "quickdraw"}
    assert {load_recipe(name)["method"] for name in names} == {"splip", "clip_at", "cross_align"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    return archives.write(archives.sketchy_sake(), tmp_path_factory.mktemp("sketchy") / "sketchy.zip")


@pytest.fixture
def words(archive, tiny_clip, tmp_path) -> list[str]:
    changes = [*SMALL, "mixed_precision=no", f"base={tiny_clip}"]
    changes += [f"dataset={tmp_path / 'data'}", f"output={tmp_path / 'run'}"]
    return ["reproduce", "clip_at_sketchy2", "--data-dir", str(archive), "--set", *changes]


@pytest.fixture
def splip(tmp_path, monkeypatch, capfd):
    """Run `splip`, and its steps in processes of their own; returns the status and what was printed."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        capfd.readouterr()
        status = cli.main([*arguments])
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return call


def test_from_the_archive_to_the_table(words, splip, tmp_path):
    status, planned = splip(*words, "--dry-run")
    assert status == 0 and list(tmp_path.iterdir()) == []
    assert "not prepared" in planned and "\nprepare: " in planned
    assert planned.endswith(f"\ncard: {tmp_path / 'run' / 'README.md'}\n")
    status, printed = splip(*words)
    assert status == 0, printed[-3000:]
    records = json.loads((tmp_path / "run" / "report" / "records.json").read_text())
    assert [record["protocol"] for record in records] == ["zs", "gzs-distractors"]
    assert {record["dataset"] for record in records} == {"sketchy2"} and records[0]["n_classes"] == 21
    assert "Published numbers beside ours: sketchy2, zs" in printed and "CLIP-AT (CVPR 2023)" in printed
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert f"\ncard: {tmp_path / 'run' / 'README.md'}" in printed and "# clip_at_sketchy2\n" in card.text
    results = card.data.eval_results
    found = {each.dataset_config.split(",")[0]: each.metric_value for each in results if each.metric_type == "map_all"}
    assert found == {record["protocol"]: record["metrics"]["map_all"] for record in records}
    assert "Trained on 102 classes" in card.text
    # Once more: nothing is prepared or trained again, and the result is the same.
    trained = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (trained["steps"], len(trained["classes"]["trained"])) == (2, 102)
    status, printed = splip(*words)
    assert status == 0 and "\nprepare: " not in printed and "Resuming from step-00000002" in printed
    assert json.loads((tmp_path / "run" / "report" / "records.json").read_text()) == records
    # The plan, now that the data are there.
    _, planned = splip(*words, "--dry-run")
    assert "classes: 102 trained, 2 held back for validation" in planned and "steps: 2 of 16 sketches" in planned
    assert f"parameters: {trained['trainable_parameters']:,} trained of" in planned
    assert "memory: " in planned and " hours on this machine's " in planned and "--resume" in planned


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["splip_mini"], "There is no experiment 'splip_mini'; did you mean 'splip_"),
        (["clip_at_sketchy", "--dry-run"], "There is no experiment 'clip_at_sketchy'; did you mean 'clip_at_sketchy"),
        (["clip_at_sketchy2"], "'data/sketchy2' is no prepared dataset: pass --data-dir with the benchmark's archive"),
        (["clip_at_sketchy2", "--set", "epochs"], "--set takes NAME=VALUE, got 'epochs'"),
        (["clip_at_sketchy2", "--set", "epoch=3"], "Unknown argument --epoch=3; did you mean 'epochs'?"),
        (["clip_at_sketchy2", "--dry-run", "--set", "dataset={prepared}"], "holds 'polygons', but clip_at_sketchy2 is"),
        (["clip_at_sketchy2", "--set", "dataset={prepared}"], "holds 'polygons', but clip_at_sketchy2 is"),
    ],
)
def test_refused_in_one_sentence(more, sentence, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *[word.format(prepared=prepared) for word in more]]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed.splitlines()[-1] and "Traceback" not in printed and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_an_archive_that_is_not_there_is_told_at_once(more, tmp_path, capsys):
    words = [
        "reproduce",
        "clip_at_sketchy2",
        "--data-dir",
        str(tmp_path / "no.zip"),
        "--set",
        f"dataset={tmp_path / 'd'}",
    ]
    assert cli.main([*words, *more]) == 2
    assert f"There is no archive '{tmp_path / 'no.zip'}': pass --data-dir" in capsys.readouterr().err


def test_a_step_that_fails_ends_the_command(words, splip, tmp_path):
    words[words.index("--data-dir") + 1] = str(tmp_path / "torn.zip")
    (tmp_path / "torn.zip").write_bytes(b"PK")
    status, printed = splip(*words)
    assert status == 2 and not (tmp_path / "run").exists()
    assert "'prepare' of clip_at_sketchy2 ended with status 2" in printed.splitlines()[-1]


def test_a_training_that_was_told_to_stop_is_not_evaluated(words, splip, tmp_path):
    stopped = "import sys; from modeling_splip.training import train as t; t.STOP.set(); t.main(sys.argv[4:])"
    (tmp_path / "stopped.py").write_text(stopped)
    status, printed = splip(*words, "--launch", f"{sys.executable} {tmp_path / 'stopped.py'}")
    assert status == 2 and not (tmp_path / "run" / "report").exists()
    assert "The training of clip_at_sketchy2 was asked to stop after 1 steps" in printed.splitlines()[-1]
    status, printed = splip(*words)
    assert status == 0 and "Resuming from step-00000001" in printed
