"""Runs that the benchmarks share: one variant, one fold, one seed, trained and evaluated.

A run's record is one JSON in `runs/benchmarks/`, named by everything that tells runs apart. An interrupted benchmark
continues, and a run that two benchmarks need is made once. On the drawn world all settings were fixed on the
`mini-tuning` split, whose categories are never reported; on other data they are those of its recipes.
"""

import argparse
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from tqdm.auto import tqdm

from modeling_splip.clip_base import MINI_CLIP, load_clip
from modeling_splip.common.files import write_json
from modeling_splip.data.dataset import open_dataset
from modeling_splip.data.protocols import PROTOCOLS, Part, View, protocol_view
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.evaluate import embed_view, measure
from modeling_splip.fingerprints import weights_fingerprint
from modeling_splip.loading import load_retriever
from modeling_splip.training import train as train_accelerate
from modeling_splip.training.arguments import RECIPES, load_recipe

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
LEVELS = {"category": ("zs", "gzs-distractors"), "fine_grained": ("fg-class",)}
REAL_LEVELS = {"category": ("zs", "gzs-distractors"), "fine_grained": ("fg-class", "fg-pooled")}  # where time allows
FROZEN = "clip:mini_clip"
STEPS, BATCH = 60, 32
VALIDATION_CLASSES = 6  # of the 30 seen ones, where a run only chooses a setting
BOOTSTRAP = 10_000
BANK = 512  # sketches of seen classes that tell hubs
RERANK = 50  # first results that a relation network ranks again, for the first protocol of a level


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        fold: "0", "1", "2" or "tuning", or the path of another prepared dataset.
        seed: of the training.
        level: "category" or "fine_grained".
        variant: flags of train_accelerate.py as sorted pairs, or the name of a model that is not trained. If there is a
            recipe, it is that of category level; at fine-grained level `_fg` follows its name.
        steps: of the optimiser, with batches of `BATCH` sketches; None for what the recipe says.
        validation: train on fewer classes and only score the held-back ones.
        data: whose recipes are taken, `<method>_<data>`: "mini" for the drawn world.
        protocols: that are measured; None for those of `LEVELS`.
    """

    fold: str
    seed: int
    level: str
    variant: tuple[tuple[str, Any], ...] | str
    steps: int | None = STEPS
    validation: bool = False
    data: str = "mini"
    protocols: tuple[str, ...] | None = None

    @classmethod
    def of(cls, fold: str, seed: int, level: str, variant: dict[str, Any] | str, **settings: Any) -> "Run":
        """Build a run; a variant that is not trained has no seed and no level of its own."""
        flags = variant if isinstance(variant, str) else tuple(sorted(variant.items()))
        return cls(fold, seed, level, flags, **settings)

    @property
    def path(self) -> Path:
        """Where the record lies."""
        told = asdict(self) | {"batch": BATCH, "recipe": (RECIPES / f"{self.recipe}.yaml").read_text("utf-8")}
        digest = hashlib.blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()
        return WORK / backbone(self.base) / f"fold{Path(self.fold).name}-seed{self.seed}-{self.level}-{digest}.json"

    @property
    def recipe(self) -> str:
        """Which recipe the flags change."""
        flags = {} if isinstance(self.variant, str) else dict(self.variant)
        name = flags.get("recipe") or f"{flags.get('method', 'splip')}_{self.data}"
        return name + ("_fg" if self.level == "fine_grained" else "")

    @property
    def base(self) -> str:
        """The CLIP that the recipe starts from."""
        return load_recipe(self.recipe)["base"]

    def record(self) -> dict[str, Any]:
        """Read the record."""
        return json.loads(self.path.read_text("utf-8"))


@cache
def backbone(base: str = MINI_CLIP) -> str:
    """Return the fingerprint of a packaged backbone: runs from another one are other runs."""
    return weights_fingerprint(load_clip(base).state_dict())


def parse_arguments(
    parser: argparse.ArgumentParser, seeds: Sequence[int] = (0, 1, 2), steps: int | None = STEPS
) -> argparse.Namespace:
    """Read what every benchmark of this kind takes; `steps` follows from --quick."""
    parser.add_argument("--folds", nargs="+", default=["0", "1", "2"], help="unseen folds, or `tuning`")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, a thread each")
    parser.add_argument("--quick", action="store_true", help="one fold, one seed, a quarter of the steps, no report")
    args = parser.parse_args()
    args.steps = steps
    if args.quick:
        args.folds, args.seeds, args.steps = args.folds[:1], args.seeds[:1], STEPS // 4
    return args


def run_all(runs: Sequence[Run], jobs: int) -> None:
    """Make the runs that have no record yet, `jobs` at a time with one thread each."""
    missing = [run for run in dict.fromkeys(runs) if not run.path.is_file()]
    for fold in sorted({run.fold for run in missing}):
        prepare(fold)
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(total=len(missing), unit="run", disable=False) as bar,
        ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        futures = {pool.submit(make, run): run for run in missing}
        for future in as_completed(futures):
            if future.exception():
                pool.shutdown(wait=False, cancel_futures=True)
                sys.exit(f"{futures[future]} failed: {future.exception()}")
            bar.update()


def dataset_path(fold: str) -> Path:
    if os.sep in fold:
        return Path(fold).resolve()
    return WORK / "data" / ("mini-tuning" if fold == "tuning" else f"mini-fold{fold}")


def prepare(fold: str) -> None:
    """Write the fold's dataset, once."""
    path = dataset_path(fold)
    if os.sep not in fold and not path.is_dir():
        splip = Path(sys.executable).parent / "splip"
        subprocess.run([splip, "prepare", path.name, "--out", path], check=True)


def make(run: Run) -> None:
    """Train and evaluate, silently; write the record with the values of every query."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        _make(run)


def _make(run: Run) -> None:
    dataset = open_dataset(dataset_path(run.fold))
    record = asdict(run) | {"dataset": dataset.name, "dataset_version": dataset.version}
    output = WORK / "models" / run.path.stem
    if isinstance(run.variant, str):
        name, trained = run.variant, {"trainable_parameters": 0, "seconds": 0.0, "best_validation": None}
    else:
        name, trained = str(output / "model"), train(run, output)
    record |= {key: trained[key] for key in ("trainable_parameters", "seconds", "best_validation")}
    if not run.validation:
        model, processor = load_retriever(name, dataset.class_names)
        searching = model if hasattr(model, "relation") else model.for_search()
        embedder = Embedder(searching, processor, dataset, batch_size=128, half=run.data != "mini")
        views = {name: protocol_view(dataset, name) for name in run.protocols or LEVELS[run.level]}
        measured = {name: measure(embed_view(embedder, view), per_query=True) for name, view in views.items()}
        record["protocols"] = {
            protocol: {"metrics": result["metrics"], "per_query": _main_values(protocol, result["per_query"])}
            for protocol, result in measured.items()
        }
        if "zs" in views and run.data != "mini":
            record["protocols"]["zs"]["without_hubs"] = without_hubs(embedder, views["zs"])
        if hasattr(model, "relation") and run.data == "mini":
            protocol = LEVELS[run.level][0]
            again = measure(embed_view(embedder, views[protocol], rerank=RERANK))
            record["protocols"][protocol]["reranked"] = again["metrics"][metric(protocol)]
    write_json(run.path, record)
    shutil.rmtree(output, ignore_errors=True)


def without_hubs(embedder: Embedder, view: View) -> float:
    """Return the view's metric where each score is divided by the photo's mean cosine with sketches of seen classes.

    Some photos are near to most sketches, whatever they show (hubs). The bank of sketches needs no label of a class
    that is searched.
    """
    sides, sketches = embed_view(embedder, view), embedder.dataset.rows("train", "sketch")
    bank = embedder([Part("train", sketches[:: max(1, len(sketches) // BANK)][:BANK])], "sketch")  # (M, D)
    scores = hub_scores(sides.query, sides.gallery, bank)
    return float(measure(sides._replace(scores=scores))["metrics"][metric(view.protocol)])


def hub_scores(query: np.ndarray, gallery: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Return the cosines (Q, N) of unit-norm rows, each divided by the photo's mean cosine with the bank."""
    return (query @ gallery.T) / (gallery @ bank.mean(axis=0))


def train(run: Run, output: Path) -> dict[str, Any]:
    """Train in this process; returns the record of train_accelerate.py."""
    shutil.rmtree(output, ignore_errors=True)
    flags = {name: value for name, value in run.variant if name not in ("method", "recipe")}
    arguments: dict[str, Any] = {"recipe": run.recipe, "dataset": dataset_path(run.fold), "output": output}
    arguments |= {"seed": run.seed, "tracker": "none"}
    if run.data == "mini":
        arguments |= {"batch_size": BATCH, "evaluate_every": 1000}
        arguments["validation_classes"] = VALIDATION_CLASSES if run.validation else 0
    arguments |= ({"max_steps": run.steps} if run.steps else {}) | flags
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    return train_accelerate.main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])


def metric(protocol: str) -> str:
    """Return the metric that stands for a protocol."""
    return PROTOCOLS[protocol].metric


def _main_values(protocol: str, per_query: dict[str, Any]) -> list[float]:
    return [round(float(value), 6) for value in per_query[metric(protocol)]]


def summary(records: Iterable[dict[str, Any]], protocol: str, name: str) -> dict[str, Any]:
    """Return mean over folds and seeds, spread over seeds of the mean over folds, and the values of every fold."""
    values = [(Path(r["fold"]).name, r["seed"], r["protocols"][protocol]["metrics"][name]) for r in records]
    folds, seeds = sorted({v[0] for v in values}), sorted({v[1] for v in values})
    means = [np.mean([value for _, s, value in values if s == seed]) for seed in seeds]
    return {
        "mean": float(np.mean(means)),
        "std_over_seeds": float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
        "by_fold": {fold: [value for f, _, value in values if f == fold] for fold in folds},
    }


def gain(records: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], protocol: str) -> dict[str, Any]:
    """Return for every fold the mean difference to `base` and its bootstrap interval; seeds are averaged first."""
    result = {}
    for fold in sorted({record["fold"] for record in records}):
        own, other = (
            np.mean([r["protocols"][protocol]["per_query"] for r in group if r["fold"] == fold], axis=0)
            for group in (records, base)
        )
        result[Path(fold).name] = paired_bootstrap(own - other)
    return result


def paired_bootstrap(differences: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the mean difference over queries and its 95 % interval, queries resampled with replacement."""
    rng = np.random.default_rng(seed)
    draws = [differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(BOOTSTRAP)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}
