"""What the processes of one run must be told: their device, how many load data, to ignore a signal, how to part."""

import os
import signal

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Return whether to pass `cpu=True` to Accelerate.

    Without a GPU it groups processes into one gloo run only then. Launchers do not set this, so each process would
    train alone.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def leave_group() -> None:
    """Wait for the other processes of this run, and leave their group; nothing for a process alone.

    A command calls it where its processes have nothing left to tell each other. One that ends inside the group closes
    connections that another still listens to, and that one may then end by SIGABRT with all its work done.
    """
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


# A worker prepares about 200 images a second, and 16 of them what a large GPU trains on.
MOST_WORKERS = 16


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int, processes: int = 1) -> int:
    """Return how many processes should prepare images for each process that computes.

    Args:
        asked: what was asked for; -1 for none where the CPU itself computes, and otherwise a share of the cores.
        processes: how many compute on this machine.
    """
    if asked >= 0:
        return asked
    return 0 if on_cpu() else max(1, min(MOST_WORKERS, cores() // processes - 1))


def ignore_sigterm(worker: int = 0) -> None:
    """Ignore SIGTERM in a data loader's worker: the whole process group gets it, and the main process ends workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
