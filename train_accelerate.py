"""Train a retrieval model with Accelerate: `accelerate launch train_accelerate.py --recipe splip_mini --dataset D`.

Reads from top to bottom: arguments, data, model, loop. Checkpoints are chosen on seen classes held back from training,
never on the unseen ones. The run's folder holds `model/` (the best model with its processor), `checkpoints/`,
`run.json` (arguments, versions, history), `retrieval.png` and `logs/`. docs/training.md tells the rest.
"""

import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
import transformers
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration, set_seed
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_splip.common.files import write_json
from modeling_splip.common.processes import ignore_sigterm, on_cpu
from modeling_splip.configuration_retriever import MODALITIES
from modeling_splip.data.dataset import open_dataset
from modeling_splip.data.protocols import PROTOCOLS, validation_view
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.evaluate import embed_view, measure
from modeling_splip.evaluation.view_pictures import retrieval_picture
from modeling_splip.modeling_retriever import Retriever
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training.arguments import TrainingArguments, parse_arguments
from modeling_splip.training.augmentation import Augmentation
from modeling_splip.training.methods import METHODS
from modeling_splip.training.sampling import EpochBatches, TrainingItems, collate
from modeling_splip.training.state import (
    Progress,
    check_output,
    newest_checkpoint,
    resume,
    run_identity,
    save_checkpoint,
    save_model,
    writing,
)

SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}  # the library's "constant" has no warmup
# Trackers that take lists of pictures, with what each must be told; the others get the numbers alone.
PICTURES = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}, "swanlab": {}}
STOP = threading.Event()  # set by SIGTERM, which clusters send some time before they take a machine away


def main(argv: list[str] | None = None) -> dict:
    """Train and return the run record."""
    args = parse_arguments(argv, __doc__)
    check_engine()
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.accumulation,
        log_with=None if args.tracker == "none" else args.tracker,
        project_config=ProjectConfiguration(args.output, logging_dir=str(Path(args.output) / "logs")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    micro_batches = check_layout(args, accelerator)
    output = check_output(args)
    set_seed(args.seed)

    # Data: the seen classes, some held back for validation.
    dataset = open_dataset(args.dataset)
    classes, held_back = dataset.hold_back(args.validation_classes, args.seed)
    processor = SplipProcessor.from_clip(args.base, invert_sketches=args.invert_sketches)
    settings = args.settings()
    items = TrainingItems(dataset, classes, processor, settings.level, args.seed, Augmentation(**args.augment))
    batches = EpochBatches(items, args.batch_size // micro_batches, micro_batches, args.pairs_per_class)
    # A loader draws a number whenever it starts, in a resumed epoch once more: from a generator of its own.
    own = torch.Generator().manual_seed(args.seed)
    # Workers live as long as the run: they keep what they have decoded, and no signal meets them while they start anew.
    workers = {"num_workers": args.workers, "persistent_workers": args.workers > 0, "worker_init_fn": ignore_sigterm}
    loader = DataLoader(items, batch_sampler=batches, collate_fn=collate, generator=own, **workers)

    # Model, objective, optimiser.
    method = METHODS[args.method]
    model = method.model.from_clip(args.base, classes, **args.model)
    checkpoint = newest_checkpoint(output, accelerator) if args.resume else None
    if checkpoint is None:
        set_domain_means(model, items, accelerator)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = method.objective(model, settings)
    optimizer = torch.optim.Adam(parameter_groups(objective, args))
    total_steps = args.epochs * batches.steps
    total_steps = min(total_steps, args.max_steps) if args.max_steps else total_steps
    check_warmup(args, total_steps)
    scheduler = transformers.get_scheduler(SCHEDULES[args.schedule], optimizer, args.warmup_steps, total_steps)
    # Accelerate steps a prepared scheduler once for each process; ours counts optimiser steps, so it stays as it is.
    objective, optimizer, loader = accelerator.prepare(objective, optimizer, loader)
    accelerator.register_for_checkpointing(scheduler)
    identity = run_identity(args, dataset)
    progress = resume(checkpoint, identity, accelerator) if checkpoint else Progress()
    if args.tracker != "none":
        accelerator.init_trackers("splip")
    if accelerator.is_main_process:
        model.print_trainable_parameters()
    silent = not accelerator.is_local_main_process
    bar = tqdm(total=total_steps, initial=progress.step, desc=args.method, unit="step", disable=silent)
    recent: deque = deque(maxlen=20)
    started = time.time() - progress.seconds
    interrupted = False

    while True:
        if progress.validation_due:
            embedder = Embedder(model.eval(), processor, dataset, accelerator, workers=args.workers)
            score = validate(embedder, held_back, settings.level, output, progress.step)
            progress.history[-1]["validation"] = score
            progress.stale += 1
            if score > progress.best:
                progress.best, progress.stale = score, 0
                save_model(model, processor, output, accelerator)
            progress.validation_due = False
            interrupted = stop_asked(accelerator)
        if interrupted or finished(progress, total_steps, args):
            break
        epoch = progress.step // batches.steps
        batches.epoch, batches.start = epoch, progress.step % batches.steps
        objective.train()
        micro_losses: list[dict[str, torch.Tensor]] = []
        images = 0  # in an optimiser step
        for batch in loader:
            with accelerator.accumulate(objective):
                losses = objective(batch)
                check_finite(losses, progress.step)
                accelerator.backward(losses["loss"])
                if args.clip_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(objective.parameters(), args.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
            micro_losses.append({name: value.detach() for name, value in losses.items()})
            images += accelerator.num_processes * sum(len(value) for value in batch.values() if value.ndim == 4)
            if not accelerator.sync_gradients:
                continue
            rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
            scheduler.step()
            values, interrupted = agree(micro_losses, accelerator)
            progress.count(values)
            micro_losses.clear()
            recent.append(time.time())
            bar.update()
            bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()} | rate(recent, images))
            images = 0
            accelerator.log({f"train/{name}": value for name, value in values.items()}, step=progress.step)
            accelerator.log(rates, step=progress.step)
            last = progress.step == total_steps
            ends = last or progress.step % batches.steps == 0
            if ends:
                progress.record(epoch + 1)
                progress.validation_due = bool(held_back) and ((epoch + 1) % args.evaluate_every == 0 or last)
            if ends or interrupted or (args.checkpoint_every and progress.step % args.checkpoint_every == 0):
                check_weights(objective, progress.step)
                progress.seconds = round(time.time() - started, 1)
                save_checkpoint(output, progress, identity, accelerator)
            if interrupted or last:
                break
        if interrupted:
            break
    bar.close()
    if interrupted:
        accelerator.print(f"Asked to stop: step {progress.step} is saved; --resume continues.")
    elif not held_back:
        check_weights(objective, progress.step)
        save_model(model, processor, output, accelerator)
    record = {
        "arguments": args.to_dict(),
        "dataset": {"name": dataset.name, "version": dataset.version},
        "classes": {"trained": classes, "validation": held_back},
        "trainable_parameters": model.num_parameters(only_trainable=True),
        "processes": accelerator.num_processes,
        "finished": not interrupted,
        "steps": progress.step,
        "seconds": progress.seconds,
        "best_validation": progress.best if held_back else None,
        "history": progress.history,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    if accelerator.is_main_process:
        write_json(output / "run.json", record)
    # DDP goes before the processes part: left for later, its end could wait for theirs for ever.
    objective, optimizer, loader = accelerator.free_memory(objective, optimizer, loader)
    accelerator.end_training()
    return record


def check_engine() -> None:
    """Refuse launchers that would shard the model: validation and `model/` read it whole."""
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
            raise ValueError(
                f"{engine} is not supported: what trains is small, and activations, which no sharding of weights "
                "shrinks, take the memory; use configs/ddp.yaml with --gradient_checkpointing."
            )


def check_layout(args: TrainingArguments, accelerator: Accelerator) -> int:
    """Return the number of micro-batches in an optimiser step; refuse what this machine cannot train."""
    if accelerator.gradient_accumulation_steps != args.accumulation:
        raise ValueError(
            f"The launcher's settings ask for {accelerator.gradient_accumulation_steps} accumulation steps, the "
            f"arguments for {args.accumulation}: set --accumulation alone."
        )
    if args.tracker != "none" and not accelerator.log_with:
        raise ValueError(f"Tracker '{args.tracker}' is not installed: install it, or pass --tracker none.")
    micro_batches = accelerator.num_processes * args.accumulation
    if args.batch_size % micro_batches:
        raise ValueError(
            f"batch_size {args.batch_size} is not a multiple of {accelerator.num_processes} processes x "
            f"{args.accumulation} accumulation steps: change one of them."
        )
    if args.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("mixed_precision fp16 needs a GPU: use bf16 or no.")
    return micro_batches


def check_warmup(args: TrainingArguments, total_steps: int) -> None:
    """Refuse a warmup that would never end."""
    if args.warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps {args.warmup_steps} leave nothing of {total_steps} steps: lower them.")


def finished(progress: Progress, total_steps: int, args: TrainingArguments) -> bool:
    """Return whether all steps are done, or validation has not become better for too long."""
    return progress.step >= total_steps or 0 < args.patience <= progress.stale


def agree(micro_losses: list[dict[str, torch.Tensor]], accelerator: Accelerator) -> tuple[dict[str, float], bool]:
    """Return the losses of a step, means over processes and micro-batches, and whether any process is to stop."""
    names = list(micro_losses[0])
    values = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in micro_losses]).mean(dim=0)
    means = accelerator.reduce(values, "mean").tolist()
    return dict(zip(names, means, strict=True)), stop_asked(accelerator)


def stop_asked(accelerator: Accelerator) -> bool:
    """Return whether any process has been told to stop."""
    told = torch.tensor(float(STOP.is_set()), device=accelerator.device)
    return bool(accelerator.reduce(told, "sum") > 0)


@torch.no_grad()
def set_domain_means(model: Retriever, items: TrainingItems, accelerator: Accelerator) -> None:
    """For domain conditioning, store the mean of E_0 over the training images of each modality.

    The patch embeddings are frozen, so this is a constant of the data; each process computes its share.
    """
    if getattr(model.config, "conditioning", None) != "domain":
        return
    model.to(accelerator.device)
    for modality in MODALITIES:
        rows = items.images(modality)[accelerator.process_index :: accelerator.num_processes]
        total = torch.zeros(model.domain_mean.shape[1] + 1, device=accelerator.device, dtype=torch.float64)
        for row in tqdm(rows, desc=f"mean {modality}", leave=False, disable=not accelerator.is_local_main_process):
            total[:-1] += model.mean_patch(items.pixels(int(row))[None].to(accelerator.device))[0].double()
            total[-1] += 1
        total = accelerator.reduce(total, "sum")
        model.set_domain_mean(modality, (total[:-1] / total[-1]).to(model.dtype))


def parameter_groups(objective: torch.nn.Module, args: TrainingArguments) -> list[dict]:
    """Return the trainable parameters; those of the model that are no LayerNorms may have a rate of their own."""
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    mappers = [parameter for name, parameter in named if name.startswith("model.") and "adapter" not in name]
    others = [parameter for name, parameter in named if not name.startswith("model.") or "adapter" in name]
    if not named:
        raise ValueError("Nothing trains: every part of the model and the losses is switched off.")
    groups = [
        {"name": "learning_rate", "params": others, "lr": args.learning_rate},
        {"name": "mapper_learning_rate", "params": mappers, "lr": args.mapper_learning_rate or args.learning_rate},
    ]
    return [group for group in groups if group["params"]]


def check_finite(losses: dict[str, torch.Tensor], step: int) -> None:
    """Stop before a step that would destroy the weights."""
    for name, value in losses.items():
        value = value.detach()
        if not value.isfinite():
            raise ValueError(
                f"Loss '{name}' is {float(value)} at step {step + 1}: training stops, the last checkpoint is whole; "
                "lower learning_rate or set mixed_precision to no."
            )


def check_weights(objective: torch.nn.Module, step: int) -> None:
    """Stop before weights that a gradient without a finite value destroyed replace good ones on the disk."""
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ValueError(
                f"'{name}' is no longer finite after step {step}: training stops, the last checkpoint is whole; lower "
                "learning_rate, or set clip_norm."
            )


def validate(embedder: Embedder, classes: list[str], level: str, output: Path, step: int) -> float:
    """Return mAP@all on held-back seen classes, or Acc@1 within the class at fine-grained level; log a picture."""
    view = validation_view(embedder.dataset, classes, level)
    score = measure(embed_view(embedder, view))["metrics"][PROTOCOLS[view.protocol].metric]
    embedder.accelerator.log({"validation": score}, step=step)
    if embedder.accelerator.is_main_process:
        with writing(output / "retrieval.png"):
            retrieval_picture(embedder, view, output / "retrieval.png")
        picture = np.asarray(Image.open(output / "retrieval.png").convert("RGB"))
        for tracker in embedder.accelerator.trackers:
            if tracker.name in PICTURES:
                tracker.log_images({"validation": picture[None]}, step=step, **PICTURES[tracker.name])
    return score


def rate(recent: deque, images: int) -> dict[str, str]:
    """Return the images a second over the last steps, given those of a step, once there are two."""
    seconds = recent[-1] - recent[0]
    return {"images/s": f"{images * (len(recent) - 1) / seconds:.0f}"} if seconds else {}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"train_accelerate: {' '.join(str(error).split())}")
