"""What a training run consists of, built in one place for the training itself and for the plan that measures it."""

from dataclasses import dataclass

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..clip_backbone import dimensions
from ..common.processes import ignore_sigterm, worker_count
from ..configuration_retriever import MODALITIES
from ..data.dataset import SbirDataset
from ..modeling_retriever import Retriever
from ..processing_splip import SplipProcessor
from .arguments import TrainingArguments
from .augmentation import Augmentation
from .methods import METHODS
from .objective import Objective
from .pixels import TrainingPixels
from .sampling import EpochBatches, TrainingItems, collate

# Our names of the schedules, and the library's; its own "constant" has no warmup.
SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}
MEAN_BATCH = 64  # images of which the patches' means are computed at a time


@dataclass
class Training:
    """What a training run consists of.

    Attributes:
        dataset: the prepared dataset.
        classes, held_back: names of the seen classes that are trained on, and of those kept for validation.
        processor: prepares the images.
        items: sketches with their photos.
        batches: the order of the items; `steps` counts the optimiser steps of an epoch.
        loader: yields one micro-batch after the other.
        model: the model, which `objective` trains.
        objective: turns a batch into losses.
        optimizer, scheduler: Adam, and the learning rates over the run.
        total_steps: optimiser steps of the run.
    """

    dataset: SbirDataset
    classes: list[str]
    held_back: list[str]
    processor: SplipProcessor
    items: TrainingItems
    batches: EpochBatches
    loader: DataLoader
    model: Retriever
    objective: Objective
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    total_steps: int


def build_training(args: TrainingArguments, dataset: SbirDataset, processes: int = 1) -> Training:
    """Return all parts of a training run, on the CPU and for `Accelerator.prepare`.

    The images' means that some models store are not in it: `set_image_means` computes them.

    Raises:
        OSError, ValueError: in one sentence, where the training could not start.
    """
    classes, held_back = dataset.hold_back(args.validation_classes, args.seed)
    processor = SplipProcessor.from_clip(args.base, invert_sketches=args.invert_sketches)
    workers = worker_count(args.workers, processes)
    store = max(workers, 1) if args.predecode else 0
    augmentation = Augmentation(**args.augment)
    items = TrainingItems(dataset, classes, processor, args.level, args.seed, augmentation, store)
    micro_batches = processes * args.accumulation
    batches = EpochBatches(items, args.batch_size // micro_batches, micro_batches, args.pairs_per_class)
    total_steps = args.epochs * batches.steps
    total_steps = min(total_steps, args.max_steps) if args.max_steps else total_steps
    if args.warmup_steps >= total_steps:
        raise ValueError(f"warmup_steps {args.warmup_steps} leave nothing of {total_steps} steps: lower them.")

    method = METHODS[args.method]
    model = method.model.from_clip(args.base, classes, **args.model)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = method.objective(model, args.settings(), args.level)
    objective.pixels = TrainingPixels(processor.image_processor, augmentation)
    check_class_groups(objective, batches)
    optimizer = torch.optim.Adam(parameter_groups(objective, args))
    return Training(
        dataset=dataset,
        classes=classes,
        held_back=held_back,
        processor=processor,
        items=items,
        batches=batches,
        loader=training_loader(items, batches, args.seed, workers),
        model=model,
        objective=objective,
        optimizer=optimizer,
        scheduler=transformers.get_scheduler(SCHEDULES[args.schedule], optimizer, args.warmup_steps, total_steps),
        total_steps=total_steps,
    )


def check_class_groups(objective: Objective, batches: EpochBatches) -> None:
    """Raise ValueError if a micro-batch of class groups holds too few for a loss that compares classes."""
    name, least = objective.compares_classes, 2 * batches.pairs_per_class
    if name and objective.level == "fine_grained" and batches.batch_size < least:
        raise ValueError(
            f"A micro-batch of {batches.batch_size} holds one group of pairs_per_class={batches.pairs_per_class}, and "
            f"loss.{name}, which compares classes, would always be 0: make batch_size at least "
            f"{least * batches.micro_batches}, lower pairs_per_class, or set loss.{name} to 0."
        )


def training_loader(items: TrainingItems, batches: EpochBatches, seed: int, workers: int) -> DataLoader:
    """Return the loader of the micro-batches."""
    return DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=collate,
        # The loader draws a number each time it starts, so once more in an epoch that is resumed. A generator of its
        # own keeps that from the random numbers of the training.
        generator=torch.Generator().manual_seed(seed),
        # Workers live as long as the run: they keep the images that they have decoded, and SIGTERM never reaches a
        # worker that is only starting and does not ignore it yet.
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_sigterm,
    )


def parameter_groups(objective: Objective, args: TrainingArguments) -> list[dict]:
    """Return Adam's parameter groups, each with its name and learning rate.

    The model's LayerNorms and what trains beside the model have `learning_rate`; all other trained parts of the model,
    such as prompts and mappers, have `mapper_learning_rate` where it is set.

    Raises:
        ValueError: if nothing trains.
    """
    norms = {id(parameter) for parameter in objective.model.layer_norm_parameters()}
    of_model = {id(parameter) for parameter in objective.model.parameters()}
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("Nothing trains: every part of the model and the losses is switched off.")
    mappers = [each for each in trained if id(each) in of_model - norms]
    others = [each for each in trained if id(each) not in of_model - norms]
    groups = [
        {"name": "learning_rate", "params": others, "lr": args.learning_rate},
        {"name": "mapper_learning_rate", "params": mappers, "lr": args.mapper_learning_rate or args.learning_rate},
    ]
    return [group for group in groups if group["params"]]


class RowPixels(Dataset):
    """The prepared images of some rows of `train`, not augmented: (3, H, W) bytes each."""

    def __init__(self, items: TrainingItems, rows: np.ndarray):
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.items.pixels(int(self.rows[index]))


@torch.no_grad()
def set_image_means(training: Training, accelerator: Accelerator) -> None:
    """Give a model that stores the means of its training images these means, one for each modality.

    What is averaged is frozen, so the means are constants of the data. Each process computes its share.
    """
    model, items = training.model, training.items
    if not model.stores_image_means:
        return
    model.to(accelerator.device)
    normalise = TrainingPixels(training.processor.image_processor).to(accelerator.device)
    width = dimensions(model.config.clip_config)[0]  # d_v
    for modality in MODALITIES:
        rows = items.images(modality)[accelerator.process_index :: accelerator.num_processes]
        total = torch.zeros(width + 1, device=accelerator.device, dtype=torch.float64)  # the sum, and how many images
        loader = DataLoader(
            RowPixels(items, rows),
            batch_size=MEAN_BATCH,
            generator=torch.Generator(),  # the training's random numbers stay as they are
            num_workers=training.loader.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=ignore_sigterm,
        )
        for pixels in tqdm(loader, desc=f"mean {modality}", leave=False, disable=not accelerator.is_local_main_process):
            values = normalise(pixels.to(accelerator.device, non_blocking=True))  # (B, 3, H, W)
            total[:-1] += model.mean_patch(values).double().sum(dim=0)
            total[-1] += len(pixels)
        total = accelerator.reduce(total, "sum")
        model.set_domain_mean(modality, (total[:-1] / total[-1]).to(model.dtype))
