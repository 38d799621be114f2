"""What lies in a run's folder, written whole or not at all: checkpoints of the whole training state, the best model."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from ..common.files import remove, write_json, written_whole
from ..data.dataset import SbirDataset
from ..modeling_retriever import Retriever
from ..processing_splip import SplipProcessor
from .arguments import TrainingArguments

KEPT_CHECKPOINTS = 2
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


def save_checkpoint(output: Path, progress: Progress, identity: dict[str, Any], accelerator: Accelerator) -> None:
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
            write_json(partial / "loop.json", {"progress": asdict(progress), "identity": identity, "files": files})
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
    except (OSError, ValueError, KeyError):
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


def resume(checkpoint: Path, identity: dict[str, Any], accelerator: Accelerator) -> Progress:
    """Load a checkpoint into what the accelerator has prepared, and return the state of the loop.

    Raises:
        ValueError: if the checkpoint is of a run with other settings or data.
    """
    loop = json.loads((checkpoint / "loop.json").read_text("utf-8"))
    changed = [name for name, value in identity.items() if loop["identity"].get(name) != value]
    if changed:
        was, now = loop["identity"][changed[0]], identity[changed[0]]
        raise ValueError(
            f"'{checkpoint}' is of a run with {changed[0]} {was}, not {now}: resume it with the same settings."
        )
    accelerator.load_state(str(checkpoint))
    accelerator.print(f"Resuming from {checkpoint.name}.")
    return Progress(**loop["progress"])
