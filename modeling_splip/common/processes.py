"""What processes of one run must be told: on which device they work together, and that workers outlive a signal."""

import signal

import torch
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Return whether Accelerate is to be told to use the CPU.

    Without an accelerator it makes several processes one run (by gloo) only where it is told; launchers do not say so
    to the processes that they start, and each would train and write on its own.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def ignore_sigterm(worker: int = 0) -> None:
    """Let a worker of a data loader outlive the SIGTERM of its whole process group: the main process ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
