"""What a training will take before it starts: steps, trained parameters, memory and time, from three measured steps."""

import statistics
import time
from dataclasses import dataclass

import torch

from ..configuration_retriever import MODALITIES
from ..data.dataset import SbirDataset
from ..processing_splip import SplipProcessor
from .arguments import TrainingArguments
from .augmentation import Augmentation
from .methods import METHODS
from .objective import Objective
from .sampling import EpochBatches, Key, TrainingItems, collate

MEASURED_STEPS = 3
# Sketches in a measured step: few on a CPU, where a step is as fast per sketch; enough to fill a GPU.
MEASURED_SKETCHES = {"cpu": 4, "cuda": 32}
_PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingPlan:
    """What one process would need.

    Attributes:
        classes, validation_classes: numbers of seen classes trained on and held back.
        epoch_steps, steps: optimiser steps of an epoch and of the run.
        trained, parameters: numbers of parameters that are trained (model and losses), and of all.
        memory: bytes of weights, gradients, Adam's state and what the backward pass keeps of a micro-batch. With
            gradient checkpointing what is computed again is not in it, and neither is what the library takes.
        step_seconds, loading_seconds: of one optimiser step, and of preparing its images in one process.
        device: where it was measured; measured: the sketches in a measured step.
    """

    classes: int
    validation_classes: int
    epoch_steps: int
    steps: int
    trained: int
    parameters: int
    memory: int
    step_seconds: float
    loading_seconds: float
    device: str
    measured: int

    def seconds(self, workers: int) -> float:
        """Return the time of the run without its validations: workers prepare images while the device computes."""
        loading = self.loading_seconds / max(workers, 1)
        return self.steps * (max(self.step_seconds, loading) if workers else self.step_seconds + loading)


def plan_training(args: TrainingArguments, dataset: SbirDataset) -> TrainingPlan:
    """Build what a training builds and measure a few steps of few sketches; larger batches are taken as proportional.

    Raises:
        OSError, ValueError: in one sentence, where the training could not start.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = args.settings()
    classes, held_back = dataset.hold_back(args.validation_classes, args.seed)
    processor = SplipProcessor.from_clip(args.base, invert_sketches=args.invert_sketches)
    items = TrainingItems(dataset, classes, processor, settings.level, args.seed, Augmentation(**args.augment))
    batches = EpochBatches(items, args.batch_size // args.accumulation, args.accumulation, args.pairs_per_class)
    method = METHODS[args.method]
    model = method.model.from_clip(args.base, classes, **args.model)
    if getattr(model.config, "conditioning", None) == "domain":
        for modality in MODALITIES:  # any mean takes as long
            model.set_domain_mean(modality, torch.ones_like(model.domain_mean[0]))
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective = method.objective(model, settings).to(device).train()
    steps = args.epochs * batches.steps
    group = args.pairs_per_class if settings.level == "fine_grained" else 1
    sketches = min(-(-MEASURED_SKETCHES[device] // group) * group, batches.batch_size)
    keys = next(iter(batches))
    began = time.perf_counter()
    batch = collate([items[key] for key in keys[:sketches]])
    loading = (time.perf_counter() - began) / sketches
    batch = {name: value.to(device) for name, value in batch.items()}
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    kept = _kept_memory(objective, args, items, keys, sketches, device)
    return TrainingPlan(
        classes=len(classes),
        validation_classes=len(held_back),
        epoch_steps=batches.steps,
        steps=min(steps, args.max_steps) if args.max_steps else steps,
        trained=sum(parameter.numel() for parameter in trained),
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
        memory=_state_bytes(objective, trained) + kept,
        step_seconds=_step_seconds(objective, args, batch, device) / sketches * args.batch_size,
        loading_seconds=loading * args.batch_size,
        device=device,
        measured=sketches,
    )


def _autocast(args: TrainingArguments, device: str) -> torch.autocast:
    dtype = _PRECISIONS[args.mixed_precision]
    return torch.autocast(device, dtype, enabled=dtype is not None)


def _step_seconds(objective: Objective, args: TrainingArguments, batch: dict, device: str) -> float:
    """Return the median time of a step, after one that is not counted."""
    optimizer = torch.optim.Adam([parameter for parameter in objective.parameters() if parameter.requires_grad])
    seconds = []
    for _ in range(1 + MEASURED_STEPS):
        began = time.perf_counter()
        with _autocast(args, device):
            loss = objective(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _state_bytes(objective: Objective, trained: list[torch.nn.Parameter]) -> int:
    """Return the bytes of weights and buffers, and of the gradients and Adam's two moments of what is trained."""
    weights = sum(tensor.nbytes for tensor in (*objective.parameters(), *objective.buffers()))
    return weights + 3 * sum(parameter.nbytes for parameter in trained)


def _kept_memory(
    objective: Objective, args: TrainingArguments, items: TrainingItems, keys: list[Key], sketches: int, device: str
) -> int:
    """Return the bytes that the backward pass of a micro-batch needs, a line through two measured numbers of sketches.

    What does not grow with the batch, such as weights in half precision, is told apart so.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*objective.parameters(), *objective.buffers())}
    sizes, kept = sorted({sketches, min(2 * sketches, len(keys))}), []
    for size in sizes:
        storages: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

        def keep(tensor: torch.Tensor, storages: dict = storages) -> torch.Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
            return tensor

        batch = {name: value.to(device) for name, value in collate([items[key] for key in keys[:size]]).items()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _autocast(args, device):
            loss = objective(batch)["loss"]
        kept.append(sum(storage.nbytes() for address, storage in storages.items() if address not in weights))
        del loss
    growth = (kept[-1] - kept[0]) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else kept[0] / sizes[0]
    return round(kept[0] + growth * (len(keys) - sizes[0]))
