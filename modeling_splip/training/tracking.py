"""What a user sees of a training: the progress bar, and the numbers and pictures in a tracker."""

import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

# Trackers that take lists of pictures, with what each must be told; the others get the numbers alone.
PICTURES = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}, "swanlab": {}}
RECENT_STEPS = 20  # over which the images a second are averaged


class Monitor:
    """Shows a training's steps and validations.

    Args:
        accelerator: of the run; its trackers are started here.
        title: of the progress bar.
        done: optimiser steps done before, in a resumed run.
        total_steps: of the run.
    """

    def __init__(self, accelerator: Accelerator, title: str, done: int, total_steps: int):
        self.accelerator = accelerator
        if accelerator.log_with:
            run = {"name": Path(accelerator.project_dir).name, "resume": "allow" if done else "never"}
            accelerator.init_trackers("splip", init_kwargs={"trackio": run})
        silent = not accelerator.is_local_main_process
        self.bar = tqdm(total=total_steps, initial=done, desc=title, unit="step", disable=silent)
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)  # when the last steps ended

    def step(self, step: int, losses: dict[str, float], rates: dict[str, float], images: int) -> None:
        """Show an optimiser step.

        Args:
            step: its number.
            losses: means of its losses.
            rates: the learning rates that it was made with.
            images: how many it trained on, over all processes.
        """
        self.recent.append(time.time())
        seconds = self.recent[-1] - self.recent[0]
        speed = {"images/s": f"{images * (len(self.recent) - 1) / seconds:.0f}"} if seconds else {}
        self.bar.update()
        self.bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()} | speed)
        self.accelerator.log({f"train/{name}": value for name, value in losses.items()} | rates, step=step)

    def validation(self, step: int, score: float, picture: Path) -> None:
        """Log a validation's score, and its picture where the tracker takes pictures."""
        self.accelerator.log({"validation": score}, step=step)
        trackers = [tracker for tracker in self.accelerator.trackers if tracker.name in PICTURES]
        if trackers and self.accelerator.is_main_process:
            pixels = np.asarray(Image.open(picture).convert("RGB"))
            for tracker in trackers:
                tracker.log_images({"validation": pixels[None]}, step=step, **PICTURES[tracker.name])

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class SentLosses:
    """The losses of a micro-batch on their way to the CPU, means over the processes.

    Sent before the backward pass and read after it was given to the device, they keep nobody waiting. All processes
    read the same numbers, so that all of them stop where one has met a loss that is not finite.

    Args:
        losses: scalars.
        accelerator: of the run.
    """

    def __init__(self, losses: dict[str, torch.Tensor], accelerator: Accelerator):
        self._names = list(losses)
        values = torch.stack([value.detach().float() for value in losses.values()])
        values = accelerator.reduce(values, "mean")
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._arrived = torch.cuda.Event() if values.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def read(self) -> dict[str, float]:
        """Return the losses, as soon as they have come."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))
