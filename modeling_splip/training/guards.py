"""What a training refuses: launchers and layouts it cannot work with, and numbers that are not finite."""

import math
import os
import shutil

import torch
from accelerate import Accelerator

from .arguments import TrainingArguments


def check_engine() -> None:
    """Refuse launchers that shard the model, because validation and `model/` need it whole.

    Raises:
        ValueError: if FSDP, DeepSpeed or Megatron is switched on.
    """
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
            raise ValueError(
                f"{engine} is not supported: what trains is small, and activations, which no sharding of weights "
                "shrinks, take the memory; use configs/ddp.yaml with --gradient_checkpointing."
            )


def check_layout(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Refuse arguments that do not fit the launcher's settings, the processes or the device.

    Raises:
        ValueError: in one sentence.
    """
    if accelerator.gradient_accumulation_steps != args.accumulation:
        raise ValueError(
            f"The launcher's settings ask for {accelerator.gradient_accumulation_steps} accumulation steps, the "
            f"arguments for {args.accumulation}: set --accumulation alone."
        )
    if args.tracker != "none" and not accelerator.log_with:
        raise ValueError(f"Tracker '{args.tracker}' is not installed: install it, or pass --tracker none.")
    if args.batch_size % (accelerator.num_processes * args.accumulation):
        raise ValueError(
            f"batch_size {args.batch_size} is not a multiple of {accelerator.num_processes} processes x "
            f"{args.accumulation} accumulation steps: change one of them."
        )
    if args.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("mixed_precision fp16 needs a GPU: use bf16 or no.")
    if args.compile != "no" and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise ValueError("compile needs a C++ compiler, and none is installed: install g++, or leave --compile out.")


def check_finite(losses: dict[str, float], step: int) -> None:
    """Stop before a step that would destroy the weights.

    Args:
        losses: the losses of a micro-batch.
        step: optimiser steps done.

    Raises:
        ValueError: if a loss is infinite or not a number.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            raise ValueError(
                f"Loss '{name}' is {value} at step {step + 1}: training stops, the last checkpoint is whole; "
                "lower learning_rate or set mixed_precision to no."
            )


def check_weights(objective: torch.nn.Module, step: int) -> None:
    """Stop before weights that are not finite replace good ones on the disk.

    Losses can be finite where a gradient is not, so `check_finite` does not see every such step.

    Raises:
        ValueError: if a trained weight is infinite or not a number after this step.
    """
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ValueError(
                f"'{name}' is no longer finite after step {step}: training stops, the last checkpoint is whole; lower "
                "learning_rate, or set clip_norm."
            )
