"""What a training will take before it starts: steps, trained parameters, memory and time, from a few measured steps."""

import statistics
import time
from dataclasses import dataclass

import torch

from ..clip_backbone import dimensions
from ..configuration_retriever import MODALITIES
from ..data.dataset import SbirDataset
from .arguments import TrainingArguments
from .objective import Objective
from .sampling import Key, collate
from .setup import Training, build_training

MEASURED_STEPS = 3
# Sketches in a measured step: few on a CPU, where a step is as fast per sketch; enough to fill a GPU.
MEASURED_SKETCHES = {"cpu": 4, "cuda": 32}
_PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainingPlan:
    """What a training needs in one process.

    Attributes:
        classes, validation_classes: how many seen classes are trained on, and how many are held back.
        epoch_steps, steps: optimiser steps of an epoch and of the run.
        trained, parameters: how many parameters are trained (of the model and the losses), and how many there are.
        memory: bytes of the weights, the gradients, Adam's state and what the backward pass of a micro-batch keeps.
            What PyTorch itself takes is not in it, and with gradient checkpointing nothing that is computed again.
        step_seconds: time of an optimiser step.
        loading_seconds: time to prepare its images in one process.
        device: where it was measured.
        measured: sketches in a measured step.
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
    """Return what a training needs: it is built, and a few steps of few sketches are measured.

    The time of a step is taken as proportional to its sketches.

    Raises:
        OSError, ValueError: in one sentence, where the training could not start.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    training = build_training(args, dataset)
    model, items, batches = training.model, training.items, training.batches
    if model.stores_image_means:
        for modality in MODALITIES:  # a step takes as long with any mean
            model.set_domain_mean(modality, torch.ones(dimensions(model.config.clip_config)[0]))
    objective = training.objective.to(device).train()
    group = args.pairs_per_class if args.level == "fine_grained" else 1
    sketches = min(-(-MEASURED_SKETCHES[device] // group) * group, batches.batch_size)
    keys = next(iter(batches))
    began = time.perf_counter()
    batch = collate([items[key] for key in keys[:sketches]])
    loading = (time.perf_counter() - began) / sketches
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    kept = _kept_memory(training, args, keys, sketches, device)
    return TrainingPlan(
        classes=len(training.classes),
        validation_classes=len(training.held_back),
        epoch_steps=batches.steps,
        steps=training.total_steps,
        trained=sum(parameter.numel() for parameter in trained),
        parameters=sum(parameter.numel() for parameter in objective.parameters()),
        memory=_state_bytes(objective, trained) + kept,
        step_seconds=_step_seconds(training, args, batch, device) / sketches * args.batch_size,
        loading_seconds=loading * args.batch_size,
        device=device,
        measured=sketches,
    )


def _autocast(args: TrainingArguments, device: str) -> torch.autocast:
    dtype = _PRECISIONS[args.mixed_precision]
    return torch.autocast(device, dtype, enabled=dtype is not None)


def _step_seconds(training: Training, args: TrainingArguments, batch: dict[str, torch.Tensor], device: str) -> float:
    """Return the median time of a step, after one that is not counted."""
    batch = {name: value.to(device) for name, value in batch.items()}
    seconds = []
    for _ in range(1 + MEASURED_STEPS):
        began = time.perf_counter()
        with _autocast(args, device):
            loss = training.objective(batch)["loss"]
        loss.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _state_bytes(objective: Objective, trained: list[torch.nn.Parameter]) -> int:
    """Return the bytes of weights and buffers, and of the gradients and Adam's two moments of what is trained."""
    weights = sum(tensor.nbytes for tensor in (*objective.parameters(), *objective.buffers()))
    return weights + 3 * sum(parameter.nbytes for parameter in trained)


def _kept_memory(training: Training, args: TrainingArguments, keys: list[Key], sketches: int, device: str) -> int:
    """Return the bytes that the backward pass of a micro-batch keeps.

    Measuring two batch sizes separates the fixed cost (such as half-precision weights) from the cost per sketch.

    Args:
        keys: of the whole micro-batch.
        sketches: the smaller of the two sizes; the other is twice as large, where the micro-batch is.
    """
    objective, items = training.objective, training.items
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
