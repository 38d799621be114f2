"""Train like train_accelerate.py, but die, report or stop in a given step: `driver.py WHAT STEP arguments...`."""

import os
import signal
import sys
from pathlib import Path

from accelerate import PartialState

from modeling_splip.fingerprints import weights_fingerprint
from modeling_splip.training import state as training_state
from modeling_splip.training import train as script


def kill_in_step(step: int) -> None:
    """Die by kill -9 in a step, before it changes the weights."""

    def check(losses, done):
        if done == step - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    script.check_finite = check


def kill_in_checkpoint(step: int) -> None:
    """Die by kill -9 when all files of a checkpoint are written but the last."""
    original = training_state.write_json

    def write(path, value):
        if path.name == "loop.json" and value["progress"]["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, value)

    training_state.write_json = write


def report_ranks(step: int) -> None:
    """Write every process's hash of all weights at a step."""
    original = script.save_checkpoint

    def save(output, progress, identity, scheduler, accelerator):
        original(output, progress, identity, scheduler, accelerator)
        if progress.step == step:
            weights = accelerator.unwrap_model(accelerator._models[0]).state_dict()
            Path(output, f"rank{accelerator.process_index}").write_text(weights_fingerprint(weights))

    script.save_checkpoint = save


def stop_last_process(step: int) -> None:
    """Ask only the last process to stop, in a step."""
    original = script.check_finite

    def check(losses, done):
        original(losses, done)
        if done == step - 1 and PartialState().is_last_process:
            script.STOP.set()

    script.check_finite = check


WAYS = (kill_in_step, kill_in_checkpoint, report_ranks, stop_last_process)

if __name__ == "__main__":
    what, at, *arguments = sys.argv[1:]
    next(way for way in WAYS if way.__name__ == what)(int(at))
    script.main(arguments)
