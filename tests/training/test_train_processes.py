"""Several processes from the configuration files, where the losses need whole class groups."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from launch import ROOT, run
from safetensors.torch import load_file

from modeling_splip.training import train as train_accelerate

CONFIGS = ROOT / "configs"
# Hard negatives and the divergence between classes are of a micro-batch: 12 sketches, four groups of three.
GROUPS = ["--recipe", "clip_at_mini_fg", "--batch_size", "24", "--pairs_per_class", "3", "--validation_classes", "2"]
GROUPS += ["--max_steps", "4", "--learning_rate", "1e-4", "--tracker", "none", "--checkpoint_every", "1"]


@pytest.fixture
def words(prepared, tiny_clip) -> list[str]:
    return ["--dataset", str(prepared), "--base", tiny_clip, *GROUPS]


def train(words: list[str]) -> dict:
    for state in (AcceleratorState, GradientState):
        state._reset_state(**({"reset_partial_state": True} if state is AcceleratorState else {}))
    return train_accelerate.main(words)


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "checkpoints" / "step-00000004" / "model.safetensors")


def test_class_groups_train_alike_where_the_micro_batch_is_the_same(words, tmp_path):
    one = train([*words, "--output", str(tmp_path / "one"), "--accumulation", "2"])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp_cpu.yaml")]
    command += ["--main_process_port", "0", str(ROOT / "train_accelerate.py")]
    result = run([*command, *words, "--output", str(tmp_path / "two")], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    two = json.loads((tmp_path / "two" / "run.json").read_text())
    assert (one["processes"], two["processes"]) == (1, 2)
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert {"triplet", "divergence", "shuffle"} <= set(ours) and ours == pytest.approx(theirs, abs=1e-4)
    theirs = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(theirs[name], tensor, atol=2e-6, rtol=1e-4)
    # In one micro-batch of 24 the same pairs have other negatives: the losses are others, as the docs say.
    whole = train([*words, "--output", str(tmp_path / "whole")])
    assert whole["history"][0]["triplet"] != pytest.approx(one["history"][0]["triplet"], abs=1e-3)


@pytest.mark.parametrize("path", [CONFIGS / "ddp.yaml", CONFIGS / "ddp_cpu.yaml"], ids=lambda path: path.name)
def test_the_launcher_takes_the_files(path):
    args = launch_command_parser().parse_args(["--config_file", str(path), "train_accelerate.py", "--seed", "1"])
    args, *_ = _validate_launch_command(args)
    written = yaml.safe_load(path.read_text())
    assert args.multi_gpu and args.num_processes == written["num_processes"] and args.num_machines == 1
    assert args.use_cpu == ("cpu" in path.stem) and args.mixed_precision == "no"
    assert args.training_script_args == ["--seed", "1"]


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_sharding_engines_are_refused(words, tmp_path, monkeypatch, engine):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ValueError, match=f"{engine} is not supported: .* use configs/ddp.yaml"):
        train([*words, "--output", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == []
