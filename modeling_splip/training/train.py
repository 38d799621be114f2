"""Train a retrieval model with Accelerate: `splip train --recipe splip_mini --dataset D`.

Reads from top to bottom: parse, set up, loop, record. Checkpoints are chosen on seen classes held back from training,
never on the unseen ones. The run's folder holds `model/` (the best model with its processor), `checkpoints/`,
`run.json` (arguments, versions, history) and `retrieval.png`. docs/training.md tells the rest.
"""

import platform
import shlex
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed

from ..common.files import write_json
from ..common.processes import leave_group, on_cpu, worker_count
from ..common.text import one_line
from ..data.dataset import open_dataset
from ..data.protocols import PROTOCOLS, VALIDATION, validation_view
from ..evaluation.embedder import Embedder
from ..evaluation.evaluate import embed_view, measure
from ..evaluation.view_pictures import retrieval_picture
from ..loading import drawn_world_note
from .arguments import TrainingArguments, parse_arguments
from .guards import check_engine, check_finite, check_layout, check_weights
from .setup import Training, build_training, set_image_means
from .state import (
    Progress,
    check_output,
    newest_checkpoint,
    output_claimed,
    resume,
    run_identity,
    save_checkpoint,
    save_model,
    writing,
)
from .tracking import Monitor, SentLosses

STOP = threading.Event()  # set by SIGTERM, which clusters send some time before they take a machine away


@dataclass
class Run:
    """A training that runs: what it consists of, how far it is, and where it is shown and written."""

    args: TrainingArguments
    accelerator: Accelerator
    training: Training
    identity: dict[str, Any]
    progress: Progress
    monitor: Monitor
    started: float  # when it would have started, had it never been interrupted

    @property
    def output(self) -> Path:
        """The run's folder."""
        return Path(self.args.output)


def run_to_the_end(program: str, argv: list[str] | None = None) -> int:
    """Train as a program of its own, which SIGTERM stops after a step; return its exit status, 0 or 2.

    Args:
        program: its name, for help and errors.
        argv: the command line's words; None for those of this process.
    """
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    try:
        main(argv, program)
    except (ValueError, OSError) as error:
        print(f"{program}: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def main(argv: list[str] | None = None, program: str | None = None) -> dict[str, Any]:
    """Train and return the run record."""
    args = parse_arguments(argv, __doc__, program)
    check_engine()
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.accumulation,
        log_with=None if args.tracker == "none" else args.tracker,
        project_config=ProjectConfiguration(args.output, logging_dir=str(Path(args.output) / "logs")),
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    check_layout(args, accelerator)
    check_output(args)
    set_seed(args.seed)
    run = set_up(args, accelerator)
    with output_claimed(args, accelerator):
        return carry_out(run)


def carry_out(run: Run) -> dict[str, Any]:
    """Train to the end, or until the run is asked to stop; write and return the run record."""
    accelerator = run.accelerator
    interrupted = False
    while not interrupted:
        if run.progress.validation_due:
            keep_the_best(run)
            interrupted = stop_asked(accelerator)
        elif finished(run):
            break
        else:
            interrupted = train_epoch(run)
    run.monitor.close()
    if interrupted:
        accelerator.print(f"Asked to stop: step {run.progress.step} is saved; --resume continues.")
    elif not run.training.held_back:
        check_weights(run.training.objective, run.progress.step)
        save_model(run.training.model, run.training.processor, run.output, accelerator)

    record = run_record(run, interrupted)
    if accelerator.is_main_process:
        write_json(run.output / "run.json", record)
    # DDP must end before the processes part: its end could otherwise wait for theirs for ever.
    training = run.training
    training.objective, training.optimizer, training.loader = accelerator.free_memory(
        training.objective, training.optimizer, training.loader
    )
    leave_group()
    accelerator.end_training()
    if not interrupted:
        accelerator.print(next_step(run))
    return record


def next_step(run: Run) -> str:
    """Return where the model lies, and the command that measures it."""
    model, protocol = str(run.output / "model"), VALIDATION[run.args.level]
    words = ["splip", "evaluate", "--model", model, "--dataset", run.args.dataset, "--protocol", protocol]
    return f"The model is in {model}. Measure it on the unseen classes:\n  {shlex.join(words)}"


def set_up(args: TrainingArguments, accelerator: Accelerator) -> Run:
    """Build the training and prepare it for this machine; a run that is resumed gets its last state."""
    dataset = open_dataset(args.dataset)
    with accelerator.local_main_process_first() if args.predecode else nullcontext():
        training = build_training(args, dataset, accelerator.num_processes)
    checkpoint = newest_checkpoint(Path(args.output), accelerator) if args.resume else None
    if checkpoint is None:
        set_image_means(training, accelerator)
    if args.compile != "no":
        training.objective.compile(mode=args.compile, dynamic=False)  # in place: the names of its tensors stay
    prepared = accelerator.prepare(training.objective, training.optimizer, training.loader)
    training.objective, training.optimizer, training.loader = prepared
    # Accelerate steps a prepared scheduler once for each process; ours counts optimiser steps, so it stays as it is.
    identity = run_identity(args, dataset)
    progress = resume(checkpoint, identity, training.scheduler, accelerator) if checkpoint else Progress()
    if accelerator.is_main_process:
        training.model.print_trainable_parameters()
    if args.max_steps > training.total_steps:
        accelerator.print(
            f"The training has {training.total_steps} steps, to the end of epoch {args.epochs}: raise epochs to "
            f"reach max_steps {args.max_steps}."
        )
    for note in filter(None, (drawn_world_note(training.model, dataset.drawn), dataset.doubt("train"))):
        accelerator.print(note)
    monitor = Monitor(accelerator, args.method, progress.step, training.total_steps)
    return Run(args, accelerator, training, identity, progress, monitor, time.time() - progress.seconds)


def train_epoch(run: Run) -> bool:
    """Train to the end of the epoch, from wherever the run is in it; return whether the run was asked to stop."""
    args, accelerator, training, progress = run.args, run.accelerator, run.training, run.progress
    objective, optimizer, batches = training.objective, training.optimizer, training.batches
    batches.epoch, batches.start = divmod(progress.step, batches.steps)
    objective.train()
    micro_losses: list[dict[str, float]] = []  # of one optimiser step
    images = 0
    for batch in training.loader:
        with accelerator.accumulate(objective):
            losses = objective(batch)
            sent = SentLosses(losses, accelerator)
            accelerator.backward(losses["loss"])
            values = sent.read()  # the device works on the backward pass meanwhile
            check_finite(values, progress.step)
            if args.clip_norm and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(objective.parameters(), args.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        micro_losses.append(values)
        images += accelerator.num_processes * sum(len(value) for value in batch.values() if value.ndim == 4)
        if not accelerator.sync_gradients:
            continue
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        training.scheduler.step()
        means = {name: sum(each[name] for each in micro_losses) / len(micro_losses) for name in values}
        interrupted = stop_asked(accelerator)
        progress.count(means)
        run.monitor.step(progress.step, means, rates, images)
        micro_losses, images = [], 0
        last = progress.step == training.total_steps
        ends = last or progress.step % batches.steps == 0
        if ends:
            epoch = batches.epoch + 1
            progress.record(epoch)
            progress.validation_due = bool(training.held_back) and (epoch % args.evaluate_every == 0 or last)
        if ends or interrupted or (args.checkpoint_every and progress.step % args.checkpoint_every == 0):
            check_weights(objective, progress.step)
            progress.seconds = round(time.time() - run.started, 1)
            save_checkpoint(run.output, progress, run.identity, training.scheduler, accelerator)
        if interrupted or last:
            return interrupted
    return False


def stop_asked(accelerator: Accelerator) -> bool:
    """Return whether any process was asked to stop."""
    if accelerator.num_processes == 1:  # nothing to ask the device, which would have to finish its work first
        return STOP.is_set()
    told = torch.tensor(float(STOP.is_set()), device=accelerator.device)
    return bool(accelerator.reduce(told, "sum") > 0)


def keep_the_best(run: Run) -> None:
    """Validate, and save the model if it is better than all before."""
    progress, training = run.progress, run.training
    score = validate(run)
    progress.history[-1]["validation"] = score
    progress.stale += 1
    if score > progress.best:
        progress.best, progress.stale = score, 0
        save_model(training.model, training.processor, run.output, run.accelerator)
    progress.validation_due = False


def validate(run: Run) -> float:
    """Return mAP@all on held-back classes, or Acc@1 within the class at fine-grained level; draw `retrieval.png`."""
    training, picture = run.training, run.output / "retrieval.png"
    workers = worker_count(run.args.workers, run.accelerator.num_processes)
    embedder = Embedder(training.model.eval(), training.processor, training.dataset, run.accelerator, workers=workers)
    view = validation_view(training.dataset, training.held_back, run.args.level)
    score = measure(embed_view(embedder, view))["metrics"][PROTOCOLS[view.protocol].metric]
    if run.accelerator.is_main_process:
        with writing(picture):
            retrieval_picture(embedder, view, picture)
    run.monitor.validation(run.progress.step, score, picture)
    return score


def finished(run: Run) -> bool:
    """Return whether all steps are done, or validation has not become better for too long."""
    return run.progress.step >= run.training.total_steps or 0 < run.args.patience <= run.progress.stale


def run_record(run: Run, interrupted: bool) -> dict[str, Any]:
    """Return what `run.json` says of the run."""
    training, progress = run.training, run.progress
    return {
        "arguments": run.args.to_dict(),
        "dataset": {"name": training.dataset.name, "version": training.dataset.version},
        "classes": {"trained": training.classes, "validation": training.held_back},
        "trainable_parameters": training.model.num_parameters(only_trainable=True),
        "losses": run.accelerator.unwrap_model(training.objective).facts(),
        "processes": run.accelerator.num_processes,
        "finished": not interrupted,
        "steps": progress.step,
        "seconds": progress.seconds,
        "best_validation": progress.best if training.held_back else None,
        "history": progress.history,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
