"""Runs this project's commands in processes of their own, as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
if torch.accelerator.is_available():
    ENVIRONMENT["ACCELERATE_USE_CPU"] = "true"
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
ACCELERATE += ["--dynamo_backend", "no", "--main_process_port", "0"]


def accelerate(processes: int) -> list[str]:
    """Return the words before a script: `accelerate launch` with that many processes on the CPU (gloo)."""
    return [*ACCELERATE, "--num_processes", str(processes), *(["--multi_gpu"] if processes > 1 else ["--cpu"])]


def torchrun(processes: int) -> list[str]:
    """Return the words before a script: `torchrun` with that many processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def run(command: list[str], timeout: float = 300, env: dict[str, str] = ENVIRONMENT, **options):
    """Run a command to its end; return the `subprocess.CompletedProcess`, which holds what it printed."""
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, **options)
