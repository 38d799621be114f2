"""Training: the same whatever the layout, exact after any interruption, and one sentence for whatever is wrong."""

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from launch import ENVIRONMENT, ROOT, accelerate, run, torchrun
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import CLIPModel

from modeling_splip.loading import load_retriever
from modeling_splip.training import train as train_accelerate
from modeling_splip.training.arguments import TrainingArguments
from modeling_splip.training.state import checkpoint_folders, is_whole, output_claimed, writing

DRIVER = str(ROOT / "tests" / "driver.py")
SCRIPT = str(ROOT / "train_accelerate.py")
# 4 classes x 13 sketches, 2 held back: 4 steps an epoch.
BASICS = ["--batch_size", "12", "--validation_classes", "2", "--learning_rate", "1e-3"]
TWENTY = ["--epochs", "5", "--evaluate_every", "5", "--learning_rate", "1e-4"]  # steps, of every layout
COSINE = ["--schedule", "cosine", "--warmup_steps", "3", "--mapper_learning_rate", "5e-4", "--clip_norm", "1"]


@pytest.fixture(scope="module")
def words(prepared, tiny_clip) -> list[str]:
    return ["--dataset", str(prepared), "--base", tiny_clip, *BASICS]


@pytest.fixture
def train(words):
    """Train in this process; returns the record."""

    def call(output: Path, *more: str) -> dict:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        train_accelerate.STOP.clear()
        return train_accelerate.main([*words, "--output", str(output), *more])

    yield call
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    train_accelerate.STOP.clear()


@pytest.fixture(scope="module")
def uninterrupted(words, tmp_path_factory) -> tuple[Path, dict]:
    """A run of 8 steps in two epochs, with a checkpoint after each step."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    return output, train_accelerate.main([*words, "--output", str(output), *COSINE, *STEPS])


STEPS = ["--epochs", "2", "--checkpoint_every", "1"]


def checkpoints(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


def weights(output: Path, step: int = 8) -> dict[str, torch.Tensor]:
    """The weights of model and solver in a checkpoint."""
    return load_file(output / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def same_state(one: Path, other: Path, step: int = 8) -> bool:
    """Whether two checkpoints hold the same bits: weights, Adam's state, the schedule's."""
    folders = [output / "checkpoints" / f"step-{step:08d}" for output in (one, other)]
    equal = all(torch.equal(weights(one, step)[name], tensor) for name, tensor in weights(other, step).items())
    optimizers = [torch.load(folder / "optimizer.bin")["state"] for folder in folders]
    for index, state in optimizers[0].items():
        equal &= all(torch.equal(value, optimizers[1][index][name]) for name, value in state.items())
    schedules = [json.loads((folder / "loop.json").read_text())["schedule"] for folder in folders]
    return equal and schedules[0] == schedules[1]


LEVELS = {
    "category": [],
    "fine_grained": ["--level", "fine_grained", "--pairs_per_class", "3"],
}


@pytest.mark.parametrize("conditioning", ["image", "domain"])
@pytest.mark.parametrize("level", LEVELS)
def test_both_levels_and_conditionings(train, tiny_clip, tmp_path, level, conditioning):
    settings = [*LEVELS[level], "--model.conditioning", conditioning, "--max_steps", "2", "--checkpoint_every", "1"]
    record = train(tmp_path / "run", *settings)
    first, last = weights(tmp_path / "run", 1), weights(tmp_path / "run", 2)
    base = CLIPModel.from_pretrained(tiny_clip).state_dict()
    model, _ = load_retriever(str(tmp_path / "run" / "model"))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert record["trainable_parameters"] == model.num_parameters(only_trainable=True)
    for name, tensor in last.items():
        name = name.removeprefix("model.")
        if name.startswith("clip."):
            assert torch.equal(tensor, base[name.removeprefix("clip.")]), name
        elif name in trained or name.startswith("solver."):
            assert not torch.equal(tensor, first[f"model.{name}" if name in trained else name]), name
    if conditioning == "domain":
        assert torch.equal(first["model.domain_mean"], last["model.domain_mean"]) and model.domain_mean.any()
    assert record["finished"] and record["steps"] == 2 and record["classes"]["trained"] == model.config.class_names
    held_back = set(record["classes"]["validation"])
    assert len(held_back) == 2 and not held_back & set(model.config.class_names)
    losses = {"triplet", "class", "cjs", "loss"} | ({"between"} if level == "fine_grained" else set())
    assert set(record["history"][-1]) == {"step", "epoch", "validation"} | losses
    assert record["losses"] == {"permutations": 100, "smallest_distance": 6}
    assert record["best_validation"] == record["history"][-1]["validation"]
    assert record == json.loads((tmp_path / "run" / "run.json").read_text())
    written = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert written == ["checkpoints", "model", "retrieval.png", "run.json"]


def test_the_domain_mean_is_that_of_the_training_images(train, polygons, tiny_clip, tmp_path):
    record = train(tmp_path / "run", "--model.conditioning", "domain", "--max_steps", "1")
    model, processor = load_retriever(str(tmp_path / "run" / "model"))
    for index, modality in enumerate(("sketch", "photo")):
        rows = polygons.train.select(polygons.rows("train", modality, record["classes"]["trained"]))
        pixels = processor(images=rows["image"][:], modality=modality)["pixel_values"]
        expected = model.mean_patch(pixels).mean(dim=0)
        torch.testing.assert_close(model.domain_mean[index], expected, atol=1e-6, rtol=0)


def test_losses_fall(train, tmp_path):
    record = train(tmp_path / "run", "--epochs", "6", "--evaluate_every", "6", "--batch_size", "26")
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]
    assert ["validation" in entry for entry in record["history"]] == [False] * 5 + [True]


def close(one: Path, other: Path) -> None:
    """Compare two runs' weights. Adam's first steps are of the learning rate's size, 1e-4 here: 2e-3 in 20 steps."""
    ours, theirs = weights(one, 20), weights(other, 20)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if name.endswith("in_proj_bias"):
            # Attention does not depend on the key's bias: its gradient is 0 but for rounding, which Adam blows up.
            tensor, theirs[name] = (
                query_key_value.unflatten(0, (3, -1))[[0, 2]] for query_key_value in (tensor, theirs[name])
            )
        torch.testing.assert_close(theirs[name], tensor, atol=2e-6, rtol=1e-4)


@pytest.fixture(scope="module")
def slow(words) -> list[str]:
    return [*words, *TWENTY]


@pytest.fixture(scope="module")
def one_process(slow, tmp_path_factory) -> tuple[Path, dict]:
    output = tmp_path_factory.mktemp("one") / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return output, train_accelerate.main([*slow, "--output", str(output)])


def same_losses(one: dict, other: dict) -> bool:
    pairs = zip(one["history"], other["history"], strict=True)
    return all(first == pytest.approx(second, abs=1e-4) for first, second in pairs)


LAYOUTS = [["--accumulation", "2"], ["--accumulation", "3", "--workers", "1"], ["--gradient_checkpointing"]]


@pytest.mark.parametrize("more", LAYOUTS)
def test_accumulation_workers_and_checkpointing_change_nothing(train, one_process, tmp_path, more):
    record = train(tmp_path / "run", *TWENTY, *more)
    close(one_process[0], tmp_path / "run")
    assert same_losses(record, one_process[1])


def test_two_processes_are_one(slow, one_process, tmp_path):
    output = tmp_path / "run"
    result = run([*accelerate(2), DRIVER, "report_ranks", "20", *slow, "--output", str(output)], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    record = json.loads((output / "run.json").read_text())
    assert record["processes"] == 2 and record["steps"] == 20
    # Every process holds the same weights to the bit: gradients were summed over both.
    assert (output / "rank0").read_text() == (output / "rank1").read_text()
    close(one_process[0], output)
    assert same_losses(record, one_process[1])
    # What is exported is what one process exports.
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (one_process[0], output))
    assert ours.keys() == theirs.keys()
    names = [sorted(file.name for file in (path / "model").iterdir()) for path in (one_process[0], output)]
    assert names[0] == names[1]
    assert result.stdout.count("trainable params") == 1


def test_torchrun_and_accumulation_on_two_processes(slow, one_process, tmp_path):
    output = tmp_path / "run"
    command = [*torchrun(2), SCRIPT, *slow, "--output", str(output), "--accumulation", "2", "--gradient_checkpointing"]
    result = run(command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((output / "run.json").read_text())["processes"] == 2
    close(one_process[0], output)


def test_accelerate_launch_with_one_process(slow, one_process, tmp_path):
    output = tmp_path / "run"
    result = run([*accelerate(1), SCRIPT, *slow, "--output", str(output)], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((output / "run.json").read_text())["processes"] == 1
    assert same_state(output, one_process[0], 20)


def test_a_killed_run_goes_on_as_if_nothing_had_been(train, words, uninterrupted, tmp_path):
    output = tmp_path / "run"
    arguments = [*words, *COSINE, *STEPS, "--output", str(output)]
    result = run([sys.executable, DRIVER, "kill_in_step", "4", *arguments], cwd=tmp_path)
    assert result.returncode == -signal.SIGKILL and checkpoints(output) == ["step-00000002", "step-00000003"]
    result = run([sys.executable, DRIVER, "kill_in_checkpoint", "6", *arguments, "--resume"], cwd=tmp_path)
    assert result.returncode == -signal.SIGKILL and "Resuming from step-00000003." in result.stdout
    assert checkpoints(output) == ["step-00000004", "step-00000005", "step-00000006.partial"]
    record = train(output, *COSINE, *STEPS, "--resume")
    assert same_state(output, uninterrupted[0])
    for key in ("history", "best_validation", "steps", "classes"):
        assert record[key] == uninterrupted[1][key]
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (output, uninterrupted[0]))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert checkpoints(output) == ["step-00000007", "step-00000008"]


def test_sigterm_saves_and_exits_with_0(words, tmp_path):
    output = tmp_path / "run"
    command = [
        sys.executable,
        SCRIPT,
        *words,
        "--output",
        str(output),
        "--epochs",
        "100000",
        "--evaluate_every",
        "100000",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, **pipes) as process:
        try:
            while not (output / "checkpoints").is_dir() and process.poll() is None:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            printed = process.communicate(timeout=120)[0].decode()
        finally:
            process.kill()
    assert process.returncode == 0, printed
    newest = checkpoint_folders(output)[-1]
    assert is_whole(newest)
    step = json.loads((newest / "loop.json").read_text())["progress"]["step"]
    assert f"Asked to stop: step {step} is saved; --resume continues." in printed
    record = json.loads((output / "run.json").read_text())
    assert record["steps"] == step and not record["finished"]


def test_sigterm_to_the_whole_group_spares_the_workers(words, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, SCRIPT, *words, "--output", str(output), "--epochs", "100000", "--workers", "2"]
    command += ["--evaluate_every", "100000"]  # an epoch has 4 steps: the signal often comes between two of them
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, start_new_session=True, **pipes) as process:
        try:
            while not checkpoint_folders(output) and process.poll() is None:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGTERM)
            printed, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0 and b"Asked to stop" in printed, errors[-3000:]


def test_a_stop_in_a_validation_ends_with_it_and_it_is_made_again(train, uninterrupted, tmp_path, monkeypatch):
    original = train_accelerate.validate

    def stop(*arguments):
        train_accelerate.STOP.set()
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_accelerate, "validate", stop)
        record = train(tmp_path / "run", *COSINE, "--epochs", "2")
    assert record["steps"] == 4 and not record["finished"] and checkpoints(tmp_path / "run") == ["step-00000004"]
    record = train(tmp_path / "run", *COSINE, "--epochs", "2", "--resume")
    assert record["finished"] and same_state(tmp_path / "run", uninterrupted[0])
    assert record["history"] == uninterrupted[1]["history"]


def test_weights_that_are_no_longer_finite_are_never_written(train, tmp_path, monkeypatch):
    original = torch.optim.Adam.step

    def destroy(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.state[self.param_groups[0]["params"][0]]["step"] == 2:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(torch.optim.Adam, "step", destroy)
    with pytest.raises(ValueError, match="is no longer finite after step 2: training stops"):
        train(tmp_path / "run", "--checkpoint_every", "1")
    assert checkpoints(tmp_path / "run") == ["step-00000001"]


def test_all_processes_stop_where_one_is_told(slow, tmp_path):
    output = tmp_path / "run"
    result = run([*accelerate(2), DRIVER, "stop_last_process", "3", *slow, "--output", str(output)], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Asked to stop: step 3 is saved" in result.stdout and checkpoints(output) == ["step-00000003"]
    assert is_whole(output / "checkpoints" / "step-00000003")


def test_stopped_in_an_epoch_and_resumed(train, uninterrupted, tmp_path, monkeypatch):
    original = train_accelerate.check_finite

    def stop_in_step_6(losses, step):
        original(losses, step)
        if step == 5:
            train_accelerate.STOP.set()

    with monkeypatch.context() as patch:
        patch.setattr(train_accelerate, "check_finite", stop_in_step_6)
        record = train(tmp_path / "run", *COSINE, "--epochs", "2")
    assert record["steps"] == 6 and not record["finished"] and checkpoints(tmp_path / "run")[-1] == "step-00000006"
    record = train(tmp_path / "run", *COSINE, "--epochs", "2", "--resume")
    assert record["finished"] and same_state(tmp_path / "run", uninterrupted[0])
    assert record["history"] == uninterrupted[1]["history"]
    # A run that is done stays as it is.
    assert train(tmp_path / "run", *COSINE, "--epochs", "2", "--resume")["history"] == record["history"]


def copy_run(uninterrupted: tuple[Path, dict], tmp_path: Path) -> Path:
    return shutil.copytree(uninterrupted[0], tmp_path / "run")


@pytest.mark.parametrize("damage", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "loop.json"])
def test_a_torn_checkpoint_is_named_and_the_one_before_it_is_used(train, uninterrupted, tmp_path, capsys, damage):
    output = copy_run(uninterrupted, tmp_path)
    file = output / "checkpoints" / "step-00000008" / damage
    if damage == "random_states_0.pkl":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] if damage != "loop.json" else b'{"progress": ')
    train(output, *COSINE, *STEPS, "--resume")
    printed = capsys.readouterr().out
    assert "Checkpoint step-00000008 is torn: trying the one before it." in printed
    assert "Resuming from step-00000007." in printed
    assert same_state(output, uninterrupted[0])


def test_no_whole_checkpoint(train, uninterrupted, tmp_path, capsys):
    output = copy_run(uninterrupted, tmp_path)
    for checkpoint in (output / "checkpoints").iterdir():
        (checkpoint / "loop.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds a model but no whole checkpoint to resume: choose another"):
        train(output, *COSINE, *STEPS, "--resume")
    # Killed before the first checkpoint was whole: nothing is lost by starting again.
    shutil.rmtree(output / "model")
    train(output, *COSINE, *STEPS, "--resume")
    assert "holds no whole checkpoint yet: starting from the beginning." in capsys.readouterr().out
    assert same_state(output, uninterrupted[0])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--learning_rate", "1e-2"],
            r"8' is of a run with learning_rate 0.001, not 0.01: resume it",
        ),
        (["--batch_size", "4"], r"is of a run with batch_size 12, not 4"),
        (["--level", "fine_grained"], r"is of a run with level category, not fine_grained"),
        (["--model.m", "2"], r"is of a run with model \{\}, not \{'m': 2\}"),
    ],
)
def test_a_run_is_resumed_with_its_own_settings(train, uninterrupted, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(copy_run(uninterrupted, tmp_path), *COSINE, *STEPS, "--resume", *more)


@pytest.mark.parametrize("before", [False, True])
def test_a_run_from_before_inversion_was_a_choice_of_three_is_resumed(train, uninterrupted, tmp_path, before):
    output = copy_run(uninterrupted, tmp_path)
    for loop in output.glob("checkpoints/*/loop.json"):
        saved = json.loads(loop.read_text())
        assert saved["identity"]["invert_sketches"] == "auto"
        saved["identity"]["invert_sketches"] = before
        loop.write_text(json.dumps(saved))
    assert train(output, *COSINE, *STEPS, "--resume")["finished"]
    with pytest.raises(ValueError, match="is of a run with invert_sketches auto, not true"):
        train(output, *COSINE, *STEPS, "--resume", "--invert_sketches", "true")


class Payload:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("file", ["custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "model.bin"])
def test_a_crafted_checkpoint_runs_no_code(train, uninterrupted, tmp_path, file):
    output, marker = copy_run(uninterrupted, tmp_path), tmp_path / "ran"
    checkpoint = output / "checkpoints" / "step-00000008"
    torch.save({"step": 8, "payload": Payload(marker)}, checkpoint / file)
    loop = json.loads((checkpoint / "loop.json").read_text())
    loop["files"][file] = (checkpoint / file).stat().st_size
    (checkpoint / "loop.json").write_text(json.dumps(loop))
    with pytest.raises(ValueError, match=r"(holds a file that no checkpoint|holds more than data) .*: start a new run"):
        train(output, *COSINE, "--epochs", "3", "--resume")
    assert not marker.exists()


@pytest.mark.parametrize(
    "change", [{"schedule": {}}, {"schedule": 5}, {"progress": {"steps": 1}}, {"identity": 7}, {"progress": []}]
)
def test_a_state_of_another_form_is_refused(train, uninterrupted, tmp_path, change):
    output = copy_run(uninterrupted, tmp_path)
    path = output / "checkpoints" / "step-00000008" / "loop.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"loop\.json' is damaged .*: start a new run"):
        train(output, *COSINE, "--epochs", "3", "--resume")


def test_a_second_training_on_one_output_is_refused(train, tmp_path, monkeypatch):
    validate, refusals = train_accelerate.validate, []

    def meanwhile(run):
        for more in ([], ["--resume"]):
            try:
                with output_claimed(TrainingArguments(output=str(run.output), resume=bool(more)), run.accelerator):
                    refusals.append("none")
            except (OSError, ValueError) as error:
                refusals.append(str(error))
        return validate(run)

    monkeypatch.setattr(train_accelerate, "validate", meanwhile)
    train(tmp_path / "run", "--max_steps", "1")
    sentence = f"Another training writes to '{tmp_path / 'run'}': wait for it, or choose another --output."
    assert refusals == [sentence] * 2
    assert train(tmp_path / "run", "--max_steps", "1", "--resume")["finished"]  # the lock is free again


def test_another_number_of_micro_batches_may_resume(train, uninterrupted, tmp_path):
    output = copy_run(uninterrupted, tmp_path)
    shutil.rmtree(output / "checkpoints" / "step-00000008")
    record = train(output, *COSINE, *STEPS, "--resume", "--accumulation", "3")
    assert record["steps"] == 8
    for name, tensor in weights(uninterrupted[0]).items():
        torch.testing.assert_close(weights(output)[name], tensor, atol=5e-5, rtol=1e-4)


def test_a_full_disk_leaves_the_last_checkpoint_whole(train, uninterrupted, tmp_path):
    output = copy_run(uninterrupted, tmp_path)
    shutil.rmtree(output / "checkpoints" / "step-00000008")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # files stop growing there, as on a full disk
    try:
        with pytest.raises(OSError, match=r"Cannot write '.*step-00000008' .*the last checkpoint is whole") as error:
            # No picture of a validation before the checkpoint.
            train(output, *COSINE, *STEPS, "--resume", "--epochs", "3", "--evaluate_every", "9")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    train(output, *COSINE, *STEPS, "--resume")
    assert same_state(output, uninterrupted[0])


@pytest.mark.parametrize(
    "raised", [OSError(28, "No space left"), RuntimeError("unexpected pos"), SafetensorError("io")]
)
def test_whatever_a_full_disk_raises_is_one_sentence(raised):
    """Python, torch.save and safetensors each have an error of their own for it."""
    with (
        pytest.raises(
            OSError, match=r"^Cannot write 'there' \(.*\): training stops, the last checkpoint is whole; make room"
        ),
        writing(Path("there")),
    ):
        raise raised


def test_the_nan_guard_names_the_loss_and_the_step(train, tmp_path):
    with pytest.raises(
        ValueError, match=r"Loss '(triplet|class|cjs)' is (nan|inf) at step [23]: training stops"
    ) as error:
        train(tmp_path / "run", *STEPS, "--learning_rate", "1e30")
    assert "\n" not in str(error.value)
    last = checkpoint_folders(tmp_path / "run")[-1]
    assert is_whole(last)


def test_early_stopping(train, tmp_path):
    # Weights that hardly move give one score for ever.
    more = ["--epochs", "9", "--patience", "2", "--learning_rate", "1e-12"]
    record = train(tmp_path / "run", *more)
    assert record["finished"] and len(record["history"]) == 3 and record["steps"] == 12
    assert train(tmp_path / "run", *more, "--resume")["steps"] == 12


def test_without_validation_the_last_model_is_saved(train, tmp_path):
    record = train(tmp_path / "run", "--validation_classes", "0", "--epochs", "1", "--batch_size", "26")
    assert record["best_validation"] is None and record["classes"]["validation"] == []
    assert len(record["classes"]["trained"]) == 6 and record["steps"] == 3
    last, saved = weights(tmp_path / "run", 3), load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert saved and all(torch.equal(last[f"model.{name}"], tensor) for name, tensor in saved.items())


def test_bf16_keeps_weights_and_losses_in_fp32(train, one_process, tmp_path):
    record = train(tmp_path / "run", *TWENTY, "--mixed_precision", "bf16")
    assert {tensor.dtype for tensor in weights(tmp_path / "run", 20).values()} == {torch.float32}
    for entry, exact in zip(record["history"], one_process[1]["history"], strict=True):
        assert entry["loss"] == pytest.approx(exact["loss"], rel=0.1) and entry["loss"] != exact["loss"]
        assert entry["loss"] == pytest.approx(entry["triplet"] + entry["class"] + 0.1 * entry["cjs"], abs=1e-5)


def test_tensorboard(train, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path / "run", *COSINE, "--epochs", "2", "--tracker", "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "logs" / "splip"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("validation")] == [4, 8]
    rates = [event.value for event in events.Scalars("learning_rate")]
    assert rates[0] == 0 and rates.index(max(rates)) == 3  # up over three steps of warmup, then down by a cosine
    assert 0 < rates[-1] < rates[-2]
    assert [event.step for event in events.Images("validation")] == [4, 8]


def test_trackio(train, tmp_path, monkeypatch):
    """A resumed run goes on under its name."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio")
    for more in (["--max_steps", "2"], ["--max_steps", "4", "--resume"]):
        train(tmp_path / "mine", *more, "--checkpoint_every", "1", "--tracker", "trackio")
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    assert [run.name for run in trackio.Api().runs("splip")] == ["mine"]
    rows = storage.get_logs("splip", "mine")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    assert any("validation" in row for row in rows)


def test_pictures_reach_wandb(train, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    train(tmp_path / "run", *COSINE, "--epochs", "2", "--tracker", "wandb")
    pictures = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))
    assert [name.split("_")[:2] for name in pictures] == [["validation", "4"], ["validation", "8"]]


@pytest.mark.filterwarnings("ignore:`log_with=aim`")
def test_a_tracker_that_is_not_installed_is_named(train, tmp_path):
    if importlib.util.find_spec("aim"):
        pytest.skip("it is installed here")
    with pytest.raises(ValueError, match="Tracker 'aim' is not installed: install it, or pass --tracker none"):
        train(tmp_path / "run", "--max_steps", "1", "--tracker", "aim")
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_asks_for_something_else_is_refused(train, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(ValueError, match="settings ask for 2 accumulation steps, the arguments for 1"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--dataset", "nowhere"], "There is no dataset at 'nowhere'"),
        (["--base", "/no/such/clip"], "Base CLIP '/no/such/clip' is no local folder and not on the Hub"),
        (["--output", "{file}/run"], "Cannot write to '.*file/run': choose another --output"),
        (["--resume"], "There is no run at '.*run' to resume: start without --resume"),
        (["--validation_classes", "6"], "validation_classes must be between 0 and 5, got 6"),
        (["--mixed_precision", "fp16"], "mixed_precision fp16 needs a GPU: use bf16 or no"),
        (["--warmup_steps", "9", "--max_steps", "9"], "warmup_steps 9 leave nothing of 9 steps: lower them"),
        (["--batch_size", "60"], "52 training sketches do not fill one global batch of 60"),
        (["--model.m", "60"], "tokens with m=60, but the text tower takes 48"),
        (["--model.layer_norms", "none", "--model.use_b_t", "no", "--model.use_b_v", "no", "--model.use_b_vt", "no",
          "--loss.beta", "0"], "Nothing trains: every part of the model and the losses is switched off"),
        (["--level", "fine_grained", "--pairs_per_class", "5"], "cannot hold whole groups of"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(train, tmp_path, more, sentence):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=sentence) as error:
        train(tmp_path / "run", *[word.format(file=tmp_path / "file") for word in more])
    assert len(" ".join(str(error.value).split())) == len(str(error.value))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_is_not_overwritten(train, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted[0].rglob("*")}
    with pytest.raises(ValueError, match="already holds a run: pass --resume to continue it, or another --output"):
        train(uninterrupted[0])
    assert {path: path.stat().st_mtime_ns for path in uninterrupted[0].rglob("*")} == before


def test_the_script_prints_one_sentence(tmp_path):
    result = run([sys.executable, SCRIPT, "--dataset", "nowhere"], cwd=tmp_path)
    assert result.returncode == 2 and os.listdir(tmp_path) == []
    assert result.stderr.strip().splitlines()[-1].startswith("train_accelerate: There is no dataset at 'nowhere': ")
    assert "Traceback" not in result.stderr
