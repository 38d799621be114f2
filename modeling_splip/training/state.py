"""What lies in a run's folder, written whole or not at all: checkpoints of the whole training state, the best model."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, load
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LRScheduler

from ..common.files import remove, write_json, written_whole
from ..common.text import printable
from ..data.dataset import SbirDataset
from ..modeling_retriever import Retriever
from ..processing_splip import SplipProcessor
from .arguments import TrainingArguments

KEPT_CHECKPOINTS = 2
# All that a checkpoint may hold. Accelerate would run the code in a file custom_checkpoint_0.pkl.
CHECKPOINT_FILE = re.compile(r"loop\.json|model\.safetensors|optimizer\.bin|scaler\.pt|random_states_\d+\.pkl")
# What must stay when a run is resumed: whatever decides the order of the batches, what is trained, and Adam's state.
RESUMED = (
    "method", "level", "base", "model", "loss", "augment", "batch_size", "pairs_per_class", "validation_classes",
    "seed", "learning_rate", "mapper_learning_rate", "schedule", "warmup_steps", "clip_norm", "mixed_precision",
    "invert_sketches",
)  # fmt: skip


@dataclass
class Progress:
    """State of the loop; every checkpoint holds it beside the weights.

    Attributes:
        step: optimiser steps done.
        best: best validation score so far.
        stale: validations since the best one.
        history: a record of every epoch: step, epoch, the means of its losses and, where there was one, the validation.
        sums: the sum of each loss over the steps since the last record.
        seconds: time of training, that before all interruptions included.
        validation_due: whether the epoch that has ended must still be validated. The checkpoint is written before the
            validation, so that an interrupted validation loses nothing.
    """

    step: int = 0
    best: float = -1.0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    validation_due: bool = False

    def count(self, losses: dict[str, float]) -> None:
        """Count a step and its losses."""
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def record(self, epoch: int) -> None:
        """Add a record of the steps since the last one."""
        steps = self.step - (int(self.history[-1]["step"]) if self.history else 0)
        means = {name: total / steps for name, total in self.sums.items()}
        self.history.append({"step": self.step, "epoch": epoch} | means)
        self.sums = {}


def check_output(args: TrainingArguments) -> None:
    """Refuse a folder that cannot be written, holds a run that is not to be resumed, or none that is.

    Raises:
        OSError, ValueError: in one sentence.
    """
    output = Path(args.output)
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OSError(f"Cannot write to '{output}': choose another --output.")
    holds_run = any(checkpoint_folders(output)) or (output / "model").exists()
    if holds_run and not args.resume:
        raise ValueError(f"'{output}' already holds a run: pass --resume to continue it, or another --output.")
    if args.resume and not output.exists():
        raise FileNotFoundError(f"There is no run at '{output}' to resume: start without --resume.")


@contextmanager
def output_claimed(args: TrainingArguments, accelerator: Accelerator) -> Iterator[None]:
    """Keep other trainings out of the run's folder. The main process holds the lock, and all are told if it fails.

    Raises:
        OSError, ValueError: if another training writes there, or did so since `check_output`.
    """
    refused: list[Exception | None] = [None]
    lock = filelock.FileLock(Path(args.output) / ".lock", timeout=0)
    if accelerator.is_main_process:
        try:
            Path(args.output).mkdir(parents=True, exist_ok=True)
            if Path(lock.lock_file).is_symlink():
                raise OSError(f"'{lock.lock_file}' is a link, which no training follows: remove it.")
            lock.acquire()
            check_output(args)
        except filelock.Timeout:
            refused = [OSError(f"Another training writes to '{args.output}': wait for it, or choose another --output.")]
        except (OSError, ValueError) as error:
            refused = [error]
    try:
        (error,) = broadcast_object_list(refused)
        if error is not None:
            raise error
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no open file
                Path(lock.lock_file).unlink()
        lock.release()


def run_identity(args: TrainingArguments, dataset: SbirDataset) -> dict[str, Any]:
    """Return the settings and the data version that must stay when a run is resumed."""
    return {name: getattr(args, name) for name in RESUMED} | {"dataset": [dataset.name, dataset.version]}


def save_model(model: Retriever, processor: SplipProcessor, output: Path, accelerator: Accelerator) -> None:
    """Write the model with its processor to `model/`, in the main process; the others wait.

    Raises:
        OSError: if that fails; the model that was there stays.
    """
    final = output / "model"
    if accelerator.is_main_process:
        with writing(final), written_whole(final) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
    accelerator.wait_for_everyone()


def save_checkpoint(
    output: Path, progress: Progress, identity: dict[str, Any], scheduler: LRScheduler, accelerator: Accelerator
) -> None:
    """Write the whole training state to `checkpoints/step-N`, and remove all but the newest checkpoints.

    All processes write into one folder, which gets its name when all are done.

    Raises:
        OSError: if that fails; the checkpoints that were there stay.
    """
    final = output / "checkpoints" / f"step-{progress.step:08d}"
    partial = final.with_suffix(".partial")
    if accelerator.is_main_process:
        remove(partial)
    accelerator.wait_for_everyone()
    with writing(final):
        accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        with writing(final):
            files = {path.name: path.stat().st_size for path in partial.iterdir()}
            loop = {"progress": asdict(progress), "schedule": scheduler.state_dict()}
            write_json(partial / "loop.json", loop | {"identity": identity, "files": files})
        remove(final)
        partial.rename(final)
        for old in checkpoint_folders(output)[:-KEPT_CHECKPOINTS]:
            remove(old)
    accelerator.wait_for_everyone()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever a full or broken disk raises into one OSError with one sentence.

    Python, `torch.save` and safetensors each raise an error of their own.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f"Cannot write '{path}' ({error}): training stops, the last checkpoint is whole; make room and continue "
            "with --resume."
        ) from error


def checkpoint_folders(output: Path) -> list[Path]:
    """Return the checkpoints, oldest first. One that was only half written has another name and is not among them."""
    return sorted((output / "checkpoints").glob("step-????????"))


def is_whole(checkpoint: Path) -> bool:
    """Return whether all files of a checkpoint are there, each in its full length."""
    try:
        files = json.loads((checkpoint / "loop.json").read_text("utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def newest_checkpoint(output: Path, accelerator: Accelerator) -> Path | None:
    """Return the newest whole checkpoint, or None if the run has not written one yet.

    Raises:
        FileNotFoundError: if there is a model, but no whole checkpoint.
    """
    for checkpoint in reversed(checkpoint_folders(output)):
        if is_whole(checkpoint):
            return checkpoint
        accelerator.print(f"Checkpoint {checkpoint.name} is torn: trying the one before it.")
    if (output / "model").exists():
        raise FileNotFoundError(f"'{output}' holds a model but no whole checkpoint to resume: choose another --output.")
    accelerator.print(f"'{output}' holds no whole checkpoint yet: starting from the beginning.")
    return None


def resume(checkpoint: Path, identity: dict[str, Any], scheduler: LRScheduler, accelerator: Accelerator) -> Progress:
    """Load a checkpoint into what the accelerator has prepared and into the schedule; return the state of the loop.

    A checkpoint may come from elsewhere: its files are read as data, and none that holds code is run.

    Raises:
        ValueError: if the checkpoint is of a run with other settings or data, or holds anything else than data.
    """
    foreign = sorted(path.name for path in checkpoint.iterdir() if not CHECKPOINT_FILE.fullmatch(path.name))
    if foreign:
        raise ValueError(
            f"'{checkpoint}' holds a file that no checkpoint of this version has ({printable(foreign[0])}): start a "
            "new run."
        )
    try:
        loop = json.loads((checkpoint / "loop.json").read_text("utf-8"))
        saved = dict(loop["identity"])
        schedule = {name: loop["schedule"][name] for name in scheduler.state_dict()}
        progress = Progress(**loop["progress"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{checkpoint}/loop.json' is damaged ({error!r}): start a new run.") from error
    if isinstance(saved.get("invert_sketches"), bool):
        saved["invert_sketches"] = "auto"  # from before there was a choice of three
    changed = [name for name, value in identity.items() if saved.get(name) != value]
    if changed:
        was, now = saved.get(changed[0]), identity[changed[0]]
        raise ValueError(
            f"'{checkpoint}' is of a run with {changed[0]} {was}, not {now}: resume it with the same settings."
        )
    try:
        # Accelerate goes on without a word where it cannot read the random states, so they are read here first.
        states = checkpoint / f"random_states_{accelerator.process_index}.pkl"
        if states.exists():  # not where there were fewer processes
            load(states, weights_only=True)
        accelerator.load_state(str(checkpoint), load_kwargs={"weights_only": True})
        scheduler.load_state_dict(schedule)
    except Exception as error:  # torch, safetensors and pickle each raise their own
        raise ValueError(
            f"'{checkpoint}' is damaged or holds more than data ({type(error).__name__}): start a new run."
        ) from error
    accelerator.print(f"Resuming from {checkpoint.name}.")
    return progress
