"""Does the offline world tell methods apart? Frozen CLIP, LayerNorms only, prompts only, SpLIP; 3 folds x 3 seeds.

    python benchmarks/world.py [--folds 0 1 2] [--seeds 0 1 2] [--jobs 2] [--quick]

Every run is one JSON in `runs/world/`, so that an interrupted benchmark continues; the report is
`benchmarks/results/world.json` with a plot beside it. Fine-grained numbers come from models trained on instance pairs.
All settings were fixed on the `mini-tuning` split, whose categories are never reported.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState, GradientState, PartialState
from tqdm.auto import tqdm

import train_accelerate
from modeling_splip.data import open_dataset
from modeling_splip.evaluate_command import write_json
from modeling_splip.evaluation import Embedder, measure
from modeling_splip.plotting import method_runs
from modeling_splip.registry import load_retriever

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "world"
RESULT = ROOT / "benchmarks" / "results" / "world.json"
NO_PROMPTS = {"use_b_t": False, "use_b_v": False, "use_b_vt": False}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "frozen CLIP": None,
    "LayerNorms only": NO_PROMPTS,
    "prompts only": {"layer_norms": "none"},
    "SpLIP (image)": {},
    "SpLIP (domain)": {"conditioning": "domain"},
}
LEVELS = {"category": ("zs", "gzs-distractors"), "fine_grained": ("fg-class",)}
METRICS = {"zs": "map_all", "gzs-distractors": "map_all", "fg-class": "acc_1"}
STEPS = {"category": 120, "fine_grained": 120}
BOOTSTRAP = 10_000


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", nargs="+", default=["0", "1", "2"], help="unseen folds, or `tuning`")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--levels", nargs="+", default=list(LEVELS), choices=list(LEVELS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, a thread each")
    parser.add_argument("--quick", action="store_true", help="one fold, one seed, a quarter of the steps, no report")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        one_run(json.loads(args.run))
        return
    if args.quick:
        args.folds, args.seeds = args.folds[:1], args.seeds[:1]
    specs = [
        {"fold": fold, "seed": seed, "variant": variant, "level": level, "quick": args.quick}
        for fold in args.folds
        for seed in args.seeds
        for level in args.levels
        for variant in args.variants
        if VARIANTS[variant] is not None or seed == args.seeds[0]
    ]
    for fold in args.folds:
        prepare(fold)
    run_all([spec for spec in specs if not record_path(spec).is_file()], args.jobs)
    records = [json.loads(record_path(spec).read_text("utf-8")) for spec in specs]
    report = summarise(records)
    print_report(report)
    if not args.quick and "tuning" not in args.folds:
        write_json(RESULT, report)
        method_runs(
            {name: values["zs"]["by_fold"] for name, values in report["variants"].items() if "zs" in values},
            RESULT.with_suffix(".png"),
            metric="zero-shot mAP@all",
        )


def prepare(fold: str) -> None:
    """Write the fold's dataset, once."""
    name = "mini-tuning" if fold == "tuning" else f"mini-fold{fold}"
    if not (WORK / "data" / name).is_dir():
        splip = Path(sys.executable).parent / "splip"
        subprocess.run([splip, "prepare", name, "--out", WORK / "data" / name], check=True)


def dataset_path(fold: str) -> Path:
    return WORK / "data" / ("mini-tuning" if fold == "tuning" else f"mini-fold{fold}")


def record_path(spec: dict[str, Any]) -> Path:
    """Return where a run's record lies; its name holds everything that tells runs apart."""
    variant = spec["variant"].replace(" ", "_").strip("()").replace("(", "")
    quick = "-quick" if spec["quick"] else ""
    return WORK / "records" / f"fold{spec['fold']}-seed{spec['seed']}-{spec['level']}-{variant}{quick}.json"


def run_all(specs: list[dict[str, Any]], jobs: int) -> None:
    """Run every spec in a process of its own, `jobs` at a time with one thread each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    running: list[subprocess.Popen] = []
    with tqdm(total=len(specs), unit="run") as bar:
        todo = list(specs)
        while todo or running:
            while todo and len(running) < jobs:
                command = [sys.executable, __file__, "--run", json.dumps(todo.pop(0))]
                running.append(subprocess.Popen(command, env=environment, cwd=ROOT))
            done = running.pop(0)
            if done.wait():
                sys.exit(f"world: a run failed with status {done.returncode}: {done.args[-1]}")
            bar.update()


def one_run(spec: dict[str, Any]) -> None:
    """Train one variant and evaluate it; write the record with the values of every query."""
    model, processor, seconds = train(spec)
    dataset = open_dataset(dataset_path(spec["fold"]))
    embedder = Embedder(model, processor, dataset, batch_size=128)
    record = spec | {
        "dataset": dataset.name,
        "dataset_version": dataset.version,
        "trainable_parameters": model.num_parameters(only_trainable=True),
        "train_seconds": seconds,
        "protocols": {},
    }
    for protocol in LEVELS[spec["level"]]:
        result = measure(embedder, dataset.view(protocol), per_query=True)
        values = [round(float(value), 6) for value in result["per_query"][METRICS[protocol]]]
        record["protocols"][protocol] = {"metrics": result["metrics"], "per_query": values}
    record_path(spec).parent.mkdir(parents=True, exist_ok=True)
    write_json(record_path(spec), record)


def train(spec: dict[str, Any]) -> tuple[Any, Any, float]:
    """Return the trained model of a run, its processor and the seconds that training took."""
    settings = VARIANTS[spec["variant"]]
    if settings is None:
        return *load_retriever("clip"), 0.0
    output = WORK / "models" / record_path(spec).stem
    shutil.rmtree(output, ignore_errors=True)
    steps = STEPS[spec["level"]] // (4 if spec["quick"] else 1)
    recipe = "splip_mini" if spec["level"] == "category" else "splip_mini_fg"
    arguments = ["--recipe", recipe, "--dataset", str(dataset_path(spec["fold"])), "--output", str(output)]
    arguments += ["--seed", str(spec["seed"]), "--max_steps", str(steps), "--tracker", "none"]
    arguments += ["--validation_classes", "0"]
    for name, value in settings.items():
        arguments += [f"--model.{name}", str(value)]
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    with contextlib.redirect_stdout(io.StringIO()):
        record = train_accelerate.main(arguments)
    shutil.rmtree(output / "checkpoints")
    return *load_retriever(str(output / "model")), record["seconds"]


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means, spreads over seeds, and the paired bootstrap of each variant against frozen CLIP in every fold."""
    report: dict[str, Any] = {
        "dataset_version": sorted({record["dataset_version"] for record in records}),
        "settings": {"steps": STEPS, "seeds": sorted({r["seed"] for r in records}), "bootstrap": BOOTSTRAP},
        "variants": {},
    }
    for variant in VARIANTS:
        own = [record for record in records if record["variant"] == variant]
        values: dict[str, Any] = {}
        for protocol, metric in METRICS.items():
            runs = [record for record in own if protocol in record["protocols"]]
            if runs:
                values[protocol] = _summary(runs, records, protocol, metric)
        if values:
            report["variants"][variant] = values | {
                "trainable_parameters": own[0]["trainable_parameters"],
                "train_seconds_max": max(record["train_seconds"] for record in own),
            }
    return report


def _summary(runs: list[dict], records: list[dict], protocol: str, metric: str) -> dict[str, Any]:
    folds = sorted({run["fold"] for run in runs})
    by_fold = {f: [r["protocols"][protocol]["metrics"][metric] for r in runs if r["fold"] == f] for f in folds}
    seeds = sorted({run["seed"] for run in runs})
    means = [np.mean([r["protocols"][protocol]["metrics"][metric] for r in runs if r["seed"] == s]) for s in seeds]
    result: dict[str, Any] = {
        "metric": metric,
        "mean": float(np.mean(means)),
        "std_over_seeds": float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
        "by_fold": by_fold,
    }
    frozen = {r["fold"]: r for r in records if r["variant"] == "frozen CLIP" and protocol in r["protocols"]}
    if runs[0]["variant"] != "frozen CLIP" and set(folds) <= set(frozen):
        result["gain"] = {}
        for fold in folds:
            base = np.array(frozen[fold]["protocols"][protocol]["per_query"])
            own = np.mean([r["protocols"][protocol]["per_query"] for r in runs if r["fold"] == fold], axis=0)
            result["gain"][fold] = paired_bootstrap(own - base)
    return result


def paired_bootstrap(differences: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the mean difference over queries and its 95 % interval, queries resampled with replacement."""
    rng = np.random.default_rng(seed)
    draws = [differences[rng.integers(len(differences), size=len(differences))].mean() for _ in range(BOOTSTRAP)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def print_report(report: dict[str, Any]) -> None:
    """Print one line a variant, in percent."""
    for name, values in report["variants"].items():
        cells = []
        for protocol in METRICS:
            if protocol in values:
                value = values[protocol]
                cell = f"{protocol} {100 * value['mean']:.1f} ± {100 * value['std_over_seeds']:.1f}"
                gains = value.get("gain", {})
                cell += "".join(f" [{100 * g['low']:+.1f}, {100 * g['high']:+.1f}]" for g in gains.values())
                cells.append(cell)
        print(f"{name:<16} " + "   ".join(cells))


if __name__ == "__main__":
    main()
