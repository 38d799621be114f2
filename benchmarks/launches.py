"""How many kernels one call launches, counted without a GPU: the operations that reach PyTorch's back end.

    python -m benchmarks.launches            # a minute on a CPU; writes results/launches.json
    python -m benchmarks.launches --keep     # the counts of before stay as they are in the file

A small batch on a GPU waits for launches: a kernel of a few microseconds takes longer to launch than to run. How many
there are depends on the number of layers, and not on widths or on the batch. So tiny widths on a CPU count them, with
the layers, heads and class prompts of ViT-B/32. A view of a tensor launches nothing, but the processor still works for
it; so all operations are counted as well.

What differs on a GPU: some operations are several kernels there (the backward pass of attention, for example), and
autocast keeps LayerNorms in float32. CLIP itself has the same ones, so that the ratios hold.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import speed_cases
from benchmarks.speed_cases import TrainingStep, build, plain_vision
from modeling_splip.common.files import write_json

RESULTS = Path(__file__).parent / "results" / "launches.json"
TINY = "tiny"
# Operations that only make or look at a tensor. Views are known by their schema.
_NO_KERNEL = {
    "_local_scalar_dense", "_record_function_enter_new", "_record_function_exit", "_unsafe_view", "detach", "empty",
    "empty_like", "empty_strided", "lift_fresh", "new_empty", "new_empty_strided", "promote_types",
}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts operations while it is entered: `all` by name, `kernels` without views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and run it."""
        name = func.overloadpacket.__name__
        self.all[name] += 1
        if not func.is_view and name not in _NO_KERNEL:
            self.kernels[name] += 1
        return func(*args, **(kwargs or {}))


def count(work: Callable[[], Any]) -> dict[str, Any]:
    """Return the counts of one call, after one that is not counted."""
    work()
    with Launches() as launches:
        work()
    return {"kernels": launches.kernels.total(), "operations": launches.all.total(), "by_name": dict(launches.kernels)}


def encoding(dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """Return calls that encode two images, without gradients."""
    domain, image = (build(TINY, kind, "cpu").to(dtype) for kind in ("domain", "image"))
    folded, plain = domain.fold(), plain_vision(domain)
    pixels = torch.randn(2, 3, 224, 224, dtype=dtype)
    return {
        "plain CLIP": torch.no_grad()(lambda: plain(pixels)),
        "folded": torch.no_grad()(lambda: folded(pixels, "sketch")),
        "domain": torch.no_grad()(lambda: domain(pixels, "sketch", return_class_embeds=False)),
        "image": torch.no_grad()(lambda: image(pixels, "sketch", return_class_embeds=False)),
    }


def training(dtype: torch.dtype) -> dict[str, Callable[[], Any]]:
    """Return training steps of two triplets."""
    steps = {kind: TrainingStep(build(TINY, kind, "cpu"), 2, dtype) for kind in ("image", "domain")}
    for step in steps.values():
        step.optimizer = torch.optim.Adam(step.optimizer.param_groups[0]["params"], foreach=True)  # a GPU's default
    return {f"training step, {kind}": step for kind, step in steps.items()}


def measure() -> dict[str, Any]:
    """Return all counts by precision and case."""
    report = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        cases = {**encoding(dtype), **training(dtype)}
        report[name] = {case: count(work) for case, work in cases.items()}
    return report


def main() -> None:
    """Count, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="keep the file's counts of before")
    args = parser.parse_args()
    now = measure()
    before = json.loads(RESULTS.read_text("utf-8"))["before"] if args.keep else now
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name, cases in now.items():
        for case, row in cases.items():
            was = before[name][case]
            print(f"{name:6} {case:24} kernels {was['kernels']} -> {row['kernels']}, "
                  f"operations {was['operations']} -> {row['operations']}")  # fmt: skip
    write_json(RESULTS, {"versions": versions, "classes": speed_cases.CLASSES, "before": before, "now": now})


if __name__ == "__main__":
    main()
