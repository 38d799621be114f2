"""What a training will take: measured on the parts that the training itself would use."""

import itertools
from types import SimpleNamespace

import pytest

from modeling_splip.data.dataset import open_dataset
from modeling_splip.training import plan as training_plan
from modeling_splip.training.arguments import TrainingArguments, parse_arguments
from modeling_splip.training.setup import build_training


@pytest.fixture
def arguments(prepared, tiny_clip):
    """Return a function that parses flags for the small dataset and the tiny CLIP."""

    def parse(*more: str) -> TrainingArguments:
        words = ["--dataset", str(prepared), "--base", tiny_clip, "--batch_size", "24", "--validation_classes", "2"]
        return parse_arguments([*words, *more])

    return parse


@pytest.mark.parametrize("method", ["splip", "clip_at"])
def test_the_memory_is_that_of_the_whole_micro_batch(method, arguments, prepared):
    """What is kept of few sketches, extrapolated, is what is kept of all of them."""
    args = arguments("--recipe", f"{method}_mini")
    small = training_plan.plan_training(args, open_dataset(prepared))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_plan, "MEASURED_SKETCHES", {"cpu": 12, "cuda": 12})
        large = training_plan.plan_training(args, open_dataset(prepared))
    assert small.memory == pytest.approx(large.memory, rel=0.02) and large.measured == 12
    args.accumulation = 3
    parts = training_plan.plan_training(args, open_dataset(prepared))
    assert parts.memory < small.memory and parts.steps == small.steps


def test_the_time_of_a_step_grows_with_its_sketches(arguments, prepared, monkeypatch):
    """A clock on which everything takes a second: 4 sketches are measured, 24 are in a step."""
    clock = SimpleNamespace(perf_counter=itertools.count(0.0).__next__)
    monkeypatch.setattr(training_plan, "time", clock)
    monkeypatch.setattr(training_plan, "MEASURED_SKETCHES", {"cpu": 4, "cuda": 4})
    plan = training_plan.plan_training(arguments("--recipe", "clip_at_mini"), open_dataset(prepared))
    assert (plan.measured, plan.step_seconds, plan.loading_seconds) == (4, 6.0, 6.0)


@pytest.mark.parametrize(("workers", "seconds"), [(0, 80.0), (1, 60.0), (2, 30.0), (4, 20.0)])
def test_workers_prepare_images_while_the_device_computes(workers, seconds):
    counts = {"classes": 4, "validation_classes": 2, "epoch_steps": 5, "steps": 10, "trained": 1, "parameters": 2}
    plan = training_plan.TrainingPlan(
        **counts, memory=1, step_seconds=2.0, loading_seconds=6.0, device="cpu", measured=4
    )
    assert plan.seconds(workers) == seconds


def test_the_plan_is_that_of_the_training(arguments, prepared):
    words = ["--level", "fine_grained", "--pairs_per_class", "3", "--model.conditioning", "domain", "--epochs", "7"]
    args, dataset = arguments(*words), open_dataset(prepared)
    plan, training = training_plan.plan_training(args, dataset), build_training(args, dataset)
    trained = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    assert plan.trained == sum(parameter.numel() for parameter in trained)
    assert (plan.epoch_steps, plan.steps) == (training.batches.steps, 7 * training.batches.steps)
    assert (plan.classes, plan.validation_classes, plan.measured) == (4, 2, 6)  # whole groups of three pairs
    with pytest.raises(ValueError, match="warmup_steps 9 leave nothing of 9 steps: lower them"):
        training_plan.plan_training(arguments("--warmup_steps", "9", "--max_steps", "9"), dataset)
