"""What the processes of one run must be told: which device they use together, and to ignore a signal."""

import signal

import torch
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Return whether to pass `cpu=True` to Accelerate.

    Without a GPU it groups processes into one gloo run only then. Launchers do not set this, so each process would
    train alone.
    """
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()


def ignore_sigterm(worker: int = 0) -> None:
    """Ignore SIGTERM in a data loader's worker: the whole process group gets it, and the main process ends workers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
