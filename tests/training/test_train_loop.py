"""What the loop does beside going through the batches: rates, clipping, schedules, what is kept and what is shown."""

import random
import re
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from conftest import save_clip, tiny_config
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from modeling_splip.training import setup
from modeling_splip.training import train as train_accelerate
from modeling_splip.training.arguments import TrainingArguments
from modeling_splip.training.methods import METHODS
from modeling_splip.training.sampling import TrainingItems
from modeling_splip.training.tracking import SentLosses

BASICS = ["--batch_size", "12", "--validation_classes", "2", "--tracker", "none"]


@pytest.fixture
def train(prepared, tiny_clip, tmp_path):
    """Train in this process; returns the record."""

    def call(*more: str, output: str = "run") -> dict:
        reset()
        where = ["--dataset", str(prepared), "--base", tiny_clip, "--output", str(tmp_path / output)]
        return train_accelerate.main([*where, *BASICS, *more])

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    yield call
    reset()


def test_swapped_sketches_and_photos_are_doubted_when_training_starts(train, swapped, capsys):
    train("--max_steps", "1", "--validation_classes", "0")
    assert "photos swapped?" not in capsys.readouterr().out
    train("--max_steps", "1", "--validation_classes", "0", "--dataset", str(swapped), output="other")
    assert (
        len(re.findall(r"^Dataset 'raw\d*': .* are its sketches and photos swapped\?$", capsys.readouterr().out, re.M))
        == 1
    )


def weights(folder, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.mark.parametrize("method", ["splip", "clip_at", "cross_align"])
def test_layer_norms_and_the_other_new_parts_have_rates_of_their_own(method, tiny_clip):
    row = METHODS[method]
    objective = row.objective(row.model.from_clip(tiny_clip, ["ant", "cup"]))
    args = TrainingArguments(method=method, learning_rate=1e-5, mapper_learning_rate=1e-3)
    groups = setup.parameter_groups(objective, args)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}
    assert len(rates) == len(trained) == sum(len(group["params"]) for group in groups)
    for name, parameter in trained.items():
        mapper = name.startswith("model.") and "adapter" not in name
        assert rates[id(parameter)] == (1e-3 if mapper else 1e-5), name
    assert set(rates.values()) == {1e-5, 1e-3}
    args.mapper_learning_rate = 0.0
    assert {group["lr"] for group in setup.parameter_groups(objective, args)} == {1e-5}


def test_clipping_bounds_the_gradient_of_the_whole_step(train, monkeypatch):
    norms = []
    original = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train("--max_steps", "2", "--clip_norm", "0.01", "--accumulation", "2", output="clipped")
    clipped, norms[:] = list(norms), []
    train("--max_steps", "2", output="free")
    assert clipped == pytest.approx([0.01, 0.01], rel=1e-3) and min(norms) > 0.02


def test_constant_after_warmup(train, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = ["--warmup_steps", "2", "--max_steps", "5", "--learning_rate", "1e-4", "--tracker", "tensorboard"]
    words += ["--mapper_learning_rate", "2e-4"]
    train("--schedule", "constant", *words)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "logs" / "splip"))
    events.Reload()
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert rates == pytest.approx([0, 5e-5, 1e-4, 1e-4, 1e-4])  # those that each step was made with
    mappers = [event.value for event in events.Scalars("mapper_learning_rate")]
    assert mappers == pytest.approx([0, 1e-4, 2e-4, 2e-4, 2e-4])
    pictures = events.Images("validation")
    assert [event.step for event in pictures] == [4, 5] and pictures[0].width > 100


def test_the_best_model_is_kept(train, tmp_path, monkeypatch):
    scores = iter([0.2, 0.5, 0.4])
    original = train_accelerate.validate

    def validate(*args):
        original(*args)
        return next(scores)

    monkeypatch.setattr(train_accelerate, "validate", validate)
    record = train("--epochs", "3", "--checkpoint_every", "4")
    assert [entry["validation"] for entry in record["history"]] == [0.2, 0.5, 0.4] and record["best_validation"] == 0.5
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    best, last = weights(tmp_path / "run", 8), weights(tmp_path / "run", 12)
    assert all(torch.equal(best[f"model.{name}"], tensor) for name, tensor in saved.items())
    assert any(not torch.equal(last[f"model.{name}"], tensor) for name, tensor in saved.items())


def test_the_bar_shows_losses_and_the_rate(train, capsys):
    train("--max_steps", "3")
    printed = capsys.readouterr().err
    for name in ("triplet=", "class=", "cjs=", "loss=", "images/s=", "3/3"):
        assert name in printed


def test_augmented_runs_are_resumed_as_if_nothing_had_been(train, tmp_path):
    changes = ["--augment.flip", "0.5", "--augment.crop", "0.2", "--augment.rotation", "10", "--augment.dropout", "0.1"]
    words = [*changes, "--checkpoint_every", "1", "--evaluate_every", "9"]
    train(*words, "--max_steps", "3", output="whole")
    train(*words, "--max_steps", "1", output="parts")
    with pytest.raises(ValueError, match=r"is of a run with augment \{.*\}, not \{\}"):
        train("--max_steps", "3", "--resume", output="parts")
    train(*words, "--max_steps", "3", "--workers", "1", "--resume", output="parts")
    whole, parts = weights(tmp_path / "whole", 3), weights(tmp_path / "parts", 3)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], tensor) for name, tensor in parts.items())
    plain = train("--max_steps", "3", output="plain")
    assert plain["arguments"]["augment"] == {}
    assert any(not torch.equal(whole[name], tensor) for name, tensor in weights(tmp_path / "plain", 3).items())


def test_epochs_that_end_before_max_steps_are_told(train, capsys):
    assert train("--epochs", "1", "--max_steps", "9", "--validation_classes", "0")["finished"]
    printed = capsys.readouterr().out
    assert "The training has 6 steps, to the end of epoch 1: raise epochs to reach max_steps 9." in printed
    train("--epochs", "1", "--max_steps", "3", "--validation_classes", "0", output="short")
    assert "raise epochs" not in capsys.readouterr().out


def test_the_history_holds_the_means_of_each_epochs_losses(train, tmp_path, monkeypatch):
    """4 steps an epoch; the run is interrupted in the second one and goes on."""
    losses = []

    class Recorded(SentLosses):
        def read(self):
            values = super().read()
            losses.append(values["loss"])
            return values

    monkeypatch.setattr(train_accelerate, "SentLosses", Recorded)
    monkeypatch.setattr(train_accelerate, "stop_asked", lambda accelerator: len(losses) == 6)
    assert not train("--epochs", "3")["finished"]
    history = train("--epochs", "3", "--resume")["history"]
    assert [entry["step"] for entry in history] == [4, 8, 12] and len(losses) == 12
    for entry, start in zip(history, (0, 4, 8), strict=True):
        assert entry["loss"] == pytest.approx(np.mean(losses[start : start + 4]), rel=1e-6)


def test_workers_live_through_all_epochs(train, tmp_path, monkeypatch):
    """What they have decoded stays with them, and a signal meets no worker that is just starting."""

    def started(worker: int) -> None:
        with open(tmp_path / "started", "a") as file:
            file.write(f"{worker}\n")

    monkeypatch.setattr(setup, "ignore_sigterm", started)
    train("--epochs", "3", "--workers", "1", "--validation_classes", "0")
    assert (tmp_path / "started").read_text() == "0\n"


def test_every_epoch_draws_anew_and_a_resumed_one_goes_on(train, monkeypatch):
    """4 classes x 13 sketches, 12 in a step: 4 steps an epoch. Accelerate reads one batch ahead."""
    keys = []
    original = TrainingItems.__getitem__

    def record(self, key):
        keys.append((key.epoch, key.position))
        return original(self, key)

    monkeypatch.setattr(TrainingItems, "__getitem__", record)
    record = train("--max_steps", "6", "--evaluate_every", "9")
    assert keys[:72] == [(epoch, position) for epoch in (0, 1) for position in range(48)][:72]
    assert [(entry["epoch"], entry["step"]) for entry in record["history"]] == [(1, 4), (2, 6)]
    keys.clear()
    train("--max_steps", "9", "--evaluate_every", "9", "--resume")
    assert keys[:36] == [(1, position) for position in range(24, 48)] + [(2, position) for position in range(12)]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_any_loss_that_is_not_finite_stops_the_run(value):
    losses = {"triplet": 1.0, "class": float(value), "loss": float(value)}
    with pytest.raises(ValueError, match=f"^Loss 'class' is {value} at step 3: training stops"):
        train_accelerate.check_finite(losses, 2)
    train_accelerate.check_finite({"loss": 1.0}, 2)


def test_losses_are_sent_before_the_backward_pass_and_read_after_it(train, monkeypatch):
    """So a device always has work: read before, it would be idle until the backward pass is launched."""
    events, backward = [], Accelerator.backward

    class Watched(SentLosses):
        def __init__(self, *arguments):
            events.append("sent")
            super().__init__(*arguments)

        def read(self):
            events.append("read")
            return super().read()

    monkeypatch.setattr(train_accelerate, "SentLosses", Watched)
    monkeypatch.setattr(Accelerator, "backward", lambda *args: (events.append("backward"), backward(*args))[1])
    record = train("--max_steps", "2", "--validation_classes", "0")
    assert events == ["sent", "backward", "read"] * 2
    assert record["steps"] == 2


def test_losses_that_are_read_are_those_that_were_sent():
    losses = {"triplet": torch.tensor(0.25, requires_grad=True), "loss": torch.tensor(1.5, dtype=torch.float64)}
    assert SentLosses(losses, Accelerator(cpu=True)).read() == {"triplet": 0.25, "loss": 1.5}


def test_random_numbers_go_on_where_they_stopped(train, monkeypatch):
    """Nothing draws from them in a step yet; what some day does is resumed all the same, in the middle of an epoch."""
    drawn = {}

    def draw(losses, step):
        drawn[step] = (random.random(), np.random.random(), float(torch.rand(())))

    monkeypatch.setattr(train_accelerate, "check_finite", draw)
    words = ["--validation_classes", "0", "--checkpoint_every", "1"]
    train(*words, "--max_steps", "4", output="whole")
    whole = dict(drawn)
    train(*words, "--max_steps", "2", output="parts")
    drawn.clear()
    train(*words, "--max_steps", "4", "--resume", output="parts")
    assert drawn == {2: whole[2], 3: whole[3]}


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_has_the_losses_and_the_checkpoint_of_a_plain_one(train, tmp_path):
    """The method with the smallest step, and one layer, since the compiler takes a minute for each graph."""
    config = tiny_config(num_hidden_layers=1)
    counters.clear()
    words = ["--base", save_clip(config, tmp_path / "base"), "--max_steps", "2", "--validation_classes", "0"]
    words += ["--method", "clip_at"]
    plain = train(*words, output="plain")
    assert not counters["stats"]
    found = train(*words, "--compile", "default", output="compiled")
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
    losses = [{name: row[name] for name in row if name != "epoch"} for row in (*plain["history"], *found["history"])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and "loss" in losses[0]
    one, other = weights(tmp_path / "plain", 2), weights(tmp_path / "compiled", 2)
    assert one.keys() == other.keys()


def test_without_a_compiler_compiling_is_refused(train, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"compile needs a C\+\+ compiler, and none is installed: install g\+\+"):
        train("--compile", "default")


def test_the_end_names_the_model_and_the_next_command(train, prepared, tmp_path, capsys):
    train("--epochs", "1", "--max_steps", "1", "--warmup_steps", "0")
    model = tmp_path / "run" / "model"
    words = f"splip evaluate --model {model} --dataset {prepared} --protocol zs"
    assert capsys.readouterr().out.endswith(f"The model is in {model}. Measure it on the unseen classes:\n  {words}\n")
