"""Processes of one run: whether they work on the CPU, and how workers of a data loader outlive SIGTERM."""

import signal

import torch
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Return whether to pass `cpu=True` to Accelerate.

    Without a GPU it groups processes into one gloo run only then; launchers do not set this, so each process would
    train alone.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def ignore_sigterm(worker: int = 0) -> None:
    """Make a worker of a data loader ignore SIGTERM, which clusters send to all processes; the main process ends it.

    Args:
        worker: the worker's number, as a loader's `worker_init_fn` gets it; not used.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
