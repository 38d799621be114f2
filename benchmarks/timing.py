"""A clock for cases that are compared: they take turns, so that what disturbs one disturbs the others too."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

Seconds = dict[str, list[float]]
Cases = dict[str, Callable[[], Any]]


class Timer:
    """Times cases in turn, on the clock that fits the device."""

    def __init__(self, device: str, threads: int):
        self.device = device
        self.clock_name = "CPU seconds of the process" if device == "cpu" and threads == 1 else "wall seconds"

    def now(self) -> float:
        """Return seconds."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.clock_name.startswith("CPU") else time.perf_counter()

    def interleave(self, title: str, cases: Cases, repeats: int) -> Seconds:
        """Run every case once unmeasured, then all of them in turn, each round starting with another."""
        names = list(cases)
        seconds: Seconds = {name: [] for name in names}
        for work in cases.values():
            work()
        for index in tqdm(range(repeats), desc=title):
            start = index % len(names)
            for name in names[start:] + names[:start]:
                began = self.now()
                cases[name]()
                seconds[name].append(self.now() - began)
        return seconds


def summary(seconds: Seconds, images: int) -> dict[str, dict[str, float]]:
    """Return milliseconds an image: median and quartiles."""
    result = {}
    for name, values in seconds.items():
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75]) * 1000 / images
        result[name] = {"median": round(median, 3), "quartiles": [round(low, 3), round(high, 3)]}
    return result


def ratio(seconds: Seconds, slow: str, fast: str) -> float:
    """Return how many times longer `slow` takes than `fast`."""
    return round(float(np.median(seconds[slow]) / np.median(seconds[fast])), 3)
