"""Train a retrieval model with Accelerate: `accelerate launch train_accelerate.py --recipe splip_mini --dataset D`.

Reads from top to bottom: arguments, data, model, loop. Checkpoints are chosen on seen classes held back from training,
never on the unseen ones. The run's folder holds `model/` (the best model with its processor), `checkpoints/`,
`run.json` (arguments, versions, history) and `logs/`.
"""

import json
import os
import platform
import shutil
import sys
import time
from collections import deque
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_splip.arguments import TrainingArguments, parse_arguments
from modeling_splip.data import SbirDataset, open_dataset
from modeling_splip.evaluate_command import write_json
from modeling_splip.evaluation import Embedder, measure
from modeling_splip.modeling_retriever import MODALITIES, Retriever
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.registry import METHODS
from modeling_splip.sampling import EpochBatches, TrainingItems, collate

KEPT_CHECKPOINTS = 2


def main(argv: list[str] | None = None) -> dict:
    """Train and return the run record."""
    args = parse_arguments(argv, __doc__)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.accumulation,
        log_with=None if args.tracker == "none" else args.tracker,
        project_config=ProjectConfiguration(args.output, logging_dir=str(Path(args.output) / "logs")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    micro_batches = accelerator.num_processes * args.accumulation
    if args.batch_size % micro_batches:
        raise ValueError(
            f"batch_size {args.batch_size} is not a multiple of {accelerator.num_processes} processes x {args.accumulation} "
            "accumulation steps: change one of them."
        )
    output = prepare_output(args, accelerator)
    set_seed(args.seed)

    # Data: the seen classes, some held back for validation.
    dataset = open_dataset(args.dataset)
    classes, held_back = dataset.hold_back(args.validation_classes, args.seed)
    processor = SplipProcessor.from_clip(args.base)
    settings = args.settings()
    items = TrainingItems(dataset, classes, processor, settings.level, args.seed)
    batches = EpochBatches(items, args.batch_size // micro_batches, micro_batches, args.pairs_per_class)
    loader = DataLoader(items, batch_sampler=batches, collate_fn=collate, num_workers=args.workers)

    # Model, objective, optimiser.
    method = METHODS[args.method]
    model = method.model.from_clip(args.base, classes, **args.model)
    set_domain_means(model, items, accelerator)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = method.objective(model, settings)
    optimizer = torch.optim.Adam(parameter_groups(objective, args))
    total_steps = args.epochs * batches.steps
    total_steps = min(total_steps, args.max_steps) if args.max_steps else total_steps
    scheduler = transformers.get_scheduler(args.schedule, optimizer, args.warmup_steps, total_steps)
    # Accelerate steps a prepared scheduler once for each process; ours counts optimiser steps, so it stays as it is.
    objective, optimizer, loader = accelerator.prepare(objective, optimizer, loader)
    accelerator.register_for_checkpointing(scheduler)
    if args.tracker != "none":
        accelerator.init_trackers("splip")

    # State of the loop, in checkpoints beside the weights.
    step, best, history = 0, -1.0, []
    if args.resume:
        step, best, history = resume(output, accelerator)
    if accelerator.is_main_process:
        model.print_trainable_parameters()
    bar = tqdm(
        total=total_steps, initial=step, desc=args.method, unit="step", disable=not accelerator.is_local_main_process
    )
    started = time.time()
    recent: deque = deque(maxlen=20)

    while step < total_steps:
        epoch = step // batches.steps
        batches.epoch, batches.start = epoch, step % batches.steps
        objective.train()
        for batch in loader:
            with accelerator.accumulate(objective):
                losses = objective(batch)
                check_finite(losses, step)
                accelerator.backward(losses["loss"])
                if args.clip_norm and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(objective.parameters(), args.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            scheduler.step()
            step += 1
            values = {name: float(value.detach()) for name, value in losses.items()}
            recent.append((time.time(), args.batch_size))
            bar.update()
            bar.set_postfix({**{name: f"{value:.3f}" for name, value in values.items()}, "triplets/s": rate(recent)})
            accelerator.log({f"train/{name}": value for name, value in values.items()}, step=step)
            ends = step == total_steps or step % batches.steps == 0
            if ends and held_back and ((epoch + 1) % args.evaluate_every == 0 or step == total_steps):
                score = validate(model, processor, dataset, held_back, settings.level, accelerator)
                history.append({"step": step, "epoch": epoch + 1, "validation": score} | values)
                accelerator.log({"validation": score}, step=step)
                if score > best:
                    best = score
                    save_model(model, processor, output, accelerator)
                objective.train()
            elif ends:
                history.append({"step": step, "epoch": epoch + 1} | values)
            if ends or (args.checkpoint_every and step % args.checkpoint_every == 0):
                save_checkpoint(output, step, best, history, accelerator)
            if step == total_steps:
                break
    bar.close()
    accelerator.wait_for_everyone()

    if not held_back:
        save_model(model, processor, output, accelerator)
    record = {
        "arguments": args.to_dict(),
        "dataset": {"name": dataset.name, "version": dataset.version},
        "classes": {"trained": classes, "validation": held_back},
        "trainable_parameters": model.num_parameters(only_trainable=True),
        "processes": accelerator.num_processes,
        "steps": step,
        "seconds": round(time.time() - started, 1),
        "best_validation": best if held_back else None,
        "history": history,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    if accelerator.is_main_process:
        write_json(output / "run.json", record)
    accelerator.end_training()
    return record


def prepare_output(args: TrainingArguments, accelerator: Accelerator) -> Path:
    """Create the run's folder; refuse one that cannot be written, or that holds a run unless it is to be resumed."""
    output = Path(args.output)
    try:
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to '{output}' ({error.strerror}): choose another --output.") from error
    if not os.access(output, os.W_OK):
        raise OSError(f"Cannot write to '{output}': choose another --output.")
    accelerator.wait_for_everyone()
    if not args.resume and (any((output / "checkpoints").iterdir()) or (output / "model").exists()):
        raise ValueError(f"'{output}' already holds a run: pass --resume to continue it, or another --output.")
    accelerator.wait_for_everyone()
    return output


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
    """Return the trainable parameters, the prompt mappers with a learning rate of their own where one is set."""
    named = [(name, parameter) for name, parameter in objective.named_parameters() if parameter.requires_grad]
    mappers = [parameter for name, parameter in named if name.startswith("model.b_")]
    others = [parameter for name, parameter in named if not name.startswith("model.b_")]
    groups = [
        {"params": others, "lr": args.learning_rate},
        {"params": mappers, "lr": args.mapper_learning_rate or args.learning_rate},
    ]
    return [group for group in groups if group["params"]]


def check_finite(losses: dict[str, torch.Tensor], step: int) -> None:
    """Stop before a step that would destroy the weights."""
    for name, value in losses.items():
        if not torch.isfinite(value):
            raise ValueError(
                f"Loss '{name}' is {float(value)} at step {step + 1}: training stops, the last checkpoint is whole; lower "
                "learning_rate or set mixed_precision to no."
            )


def validate(
    model: Retriever,
    processor: SplipProcessor,
    dataset: SbirDataset,
    classes: list[str],
    level: str,
    accelerator: Accelerator,
) -> float:
    """Return mAP@all on held-back seen classes, or Acc@1 within the class at fine-grained level."""
    model.eval()
    protocol, metric = ("zs", "map_all") if level == "category" else ("fg-class", "acc_1")
    embedder = Embedder(model, processor, dataset, accelerator)
    return measure(embedder, dataset.validation_view(classes, protocol))["metrics"][metric]


def save_model(model: Retriever, processor: SplipProcessor, output: Path, accelerator: Accelerator) -> None:
    """Write the model with its processor to `model/`, aside first."""
    if accelerator.is_main_process:
        aside, final = output / "model.partial", output / "model"
        shutil.rmtree(aside, ignore_errors=True)
        model.save_pretrained(aside)
        processor.save_pretrained(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    accelerator.wait_for_everyone()


def save_checkpoint(output: Path, step: int, best: float, history: list, accelerator: Accelerator) -> None:
    """Write the whole training state to `checkpoints/step-N`, aside first, and drop all but the newest ones."""
    final = output / "checkpoints" / f"step-{step:08d}"
    aside = final.with_suffix(".partial")
    if final.exists():
        return
    accelerator.save_state(str(aside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(aside / "loop.json", {"step": step, "best": best, "history": history})
        aside.rename(final)
        for old in whole_checkpoints(output)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def whole_checkpoints(output: Path) -> list[Path]:
    """Return the finished checkpoints, oldest first; one that was being written has another name."""
    return sorted(path.parent for path in (output / "checkpoints").glob("step-????????/loop.json"))


def resume(output: Path, accelerator: Accelerator) -> tuple[int, float, list]:
    """Load the newest whole checkpoint; returns the step, the best validation score and the history."""
    checkpoints = whole_checkpoints(output)
    if not checkpoints:
        raise FileNotFoundError(f"'{output}' holds no whole checkpoint to resume from: start without --resume.")
    accelerator.load_state(str(checkpoints[-1]))
    loop = json.loads((checkpoints[-1] / "loop.json").read_text("utf-8"))
    accelerator.print(f"Resuming from {checkpoints[-1].name}.")
    return loop["step"], loop["best"], loop["history"]


def rate(recent: deque) -> str:
    """Return the triplets a second over the last steps."""
    if len(recent) < 2 or recent[-1][0] == recent[0][0]:
        return "-"
    return f"{sum(count for _, count in list(recent)[1:]) / (recent[-1][0] - recent[0][0]):.0f}"


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"train_accelerate: {' '.join(str(error).split())}")
