"""Every method by the same rules: same data, steps, batches and learning-rate search; 3 folds x 3 seeds.

    python -m benchmarks.compare [--folds 0 1 2] [--seeds 0 1 2] [--jobs 2] [--quick]
    python -m benchmarks.compare --folds path/to/prepared --name real_mini        # any prepared data set

The learning rate of each trained method is the best of five by the mAP@all (fine-grained: Acc@1) on six seen classes
held back from training; on the drawn world those of the tuning split, otherwise those of the data set itself. The
report is `benchmarks/results/compare.json`, with a plot in `docs/images`; the runs are those of `world_runs.py`, so
that an interrupted benchmark continues.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.world_runs import (
    BATCH,
    FROZEN,
    IMAGES,
    LEVELS,
    RERANK,
    RESULTS,
    STEPS,
    Run,
    backbone,
    dataset_path,
    gain,
    metric,
    parse_arguments,
    prepare,
    run_all,
    summary,
)
from datasets_scripts.world.instances import CATEGORY_NAMES
from modeling_splip.clip_backbone import dimensions
from modeling_splip.clip_base import MINI_CLIP
from modeling_splip.common.files import write_json
from modeling_splip.data.dataset import open_dataset
from modeling_splip.data.protocols import PROTOCOLS, protocol_view
from modeling_splip.evaluation.plots import method_runs
from modeling_splip.loading import load_retriever
from modeling_splip.training.arguments import load_recipe
from modeling_splip.training.methods import METHODS
from modeling_splip.training.objective import Objective

NO_PROMPTS = {"model.use_b_t": False, "model.use_b_v": False, "model.use_b_vt": False}
Variant = dict[str, Any] | str  # flags of train_accelerate.py, or the name of a model that is not trained
VARIANTS: dict[str, Variant] = {
    "frozen CLIP": FROZEN,
    "frozen CLIP, class name as query": "clip-text:mini_clip",
    "LayerNorms only": NO_PROMPTS,
    "CLIP-AT": {"method": "clip_at"},
    "Cross-Modal Attention Alignment": {"method": "cross_align"},
    "SpLIP": {},
    "SpLIP (domain)": {"model.conditioning": "domain"},
}
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
RECIPE_RATE = 1e-2
REPEATS = 15
CLASSES = CATEGORY_NAMES[:30]  # as many as are seen


def main() -> None:
    """Search the learning rates, run what is missing, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="compare", help="name of the report in benchmarks/results")
    args = parse_arguments(parser)
    for fold in args.folds:
        prepare(fold)
    levels = [level for level in LEVELS if all(supports(fold, level) for fold in args.folds)]
    rates = search_rates(args, levels)
    runs = {
        (name, level): [
            Run.of(fold, seed, level, with_rate(variant, rates.get((name, level))), steps=args.steps)
            for fold in args.folds
            for seed in (args.seeds[:1] if isinstance(variant, str) else args.seeds)
        ]
        for name, variant in VARIANTS.items()
        for level in levels
    }
    run_all([run for group in runs.values() for run in group], args.jobs)
    settings = {"steps": args.steps, "batch": BATCH, "seeds": args.seeds, "learning_rates": LEARNING_RATES}
    records = {key: [run.record() for run in group] for key, group in runs.items()}
    report = summarise(VARIANTS, MINI_CLIP, settings | {"rerank": RERANK}, records)
    for (name, level), rate in rates.items():
        report["methods"][name].setdefault("learning_rate", {})[level] = rate
    print_report(report)
    if args.steps == STEPS and "tuning" not in args.folds:
        write_json(RESULTS / f"{args.name}.json", report)
        by_fold = {name: values["zs"]["by_fold"] for name, values in report["methods"].items()}
        method_runs(by_fold, IMAGES / f"{args.name}.png", metric="zero-shot mAP@all")


def supports(fold: str, level: str) -> bool:
    """Return whether a data set has what a level is measured on."""
    try:
        return bool([protocol_view(open_dataset(dataset_path(fold)), protocol) for protocol in LEVELS[level]])
    except ValueError:
        return False


def with_rate(variant: dict[str, Any] | str, rate: float | None) -> dict[str, Any] | str:
    """Set the rate, unless it is the recipes' own: then the run is one that other benchmarks make too."""
    return variant if isinstance(variant, str) or rate == RECIPE_RATE else variant | {"learning_rate": rate}


def search_rates(args: argparse.Namespace, levels: list[str]) -> dict[tuple[str, str], float]:
    """Return for each trained method and level the rate with the best score on held-back seen classes."""
    fold = args.folds[0] if os.sep in args.folds[0] else "tuning"
    runs = {
        (name, level, rate): Run.of(fold, 0, level, with_rate(variant, rate), steps=args.steps, validation=True)
        for name, variant in VARIANTS.items()
        if not isinstance(variant, str)
        for level in levels
        for rate in LEARNING_RATES
    }
    run_all(list(runs.values()), args.jobs)
    scores = {key: run.record()["best_validation"] for key, run in runs.items()}
    return {(n, lv): max(LEARNING_RATES, key=lambda rate: scores[n, lv, rate]) for n, lv, _ in runs}


def summarise(
    variants: Mapping[str, Variant], base: str, settings: dict[str, Any], records: dict[tuple[str, str], list[dict]]
) -> dict[str, Any]:
    """Return mean and spread of every method and protocol, the gain over frozen CLIP, and what a method costs.

    Args:
        variants: what was run, by the name of its row.
        base: the CLIP that all start from.
        settings: for the report.
        records: the records of every row and level.
    """
    report: dict[str, Any] = {
        "dataset_version": sorted({record["dataset_version"] for group in records.values() for record in group}),
        "backbone": backbone(base),
        "settings": settings,
        "methods": {name: {} for name in variants},
    }
    for (name, level), own in records.items():
        values = report["methods"][name]
        for protocol in own[0]["protocols"]:
            measured = [record for record in own if protocol in record["protocols"]]
            values[protocol] = {"metric": metric(protocol)} | summary(measured, protocol, metric(protocol))
            if name != "frozen CLIP":
                values[protocol]["gain"] = gain(measured, records["frozen CLIP", level], protocol)
            for extra in ("reranked", "without_hubs"):
                found = [r["protocols"][protocol][extra] for r in measured if extra in r["protocols"][protocol]]
                if found:
                    values.setdefault(extra, {})[protocol] = statistics.mean(found)
    for name, cost in costs(variants, base).items():
        report["methods"][name] |= cost
    return report


def costs(variants: Mapping[str, Variant], base: str) -> dict[str, dict[str, Any]]:
    """Return parameters, checkpoint bytes and times relative to frozen CLIP's encoding, at the backbone's size.

    The methods take turns on the same images on one thread; medians of CPU seconds. A training step is one forward and
    backward pass over as many triplets.
    """
    torch.set_num_threads(1)
    images, labels = torch.randn(3, BATCH, 3, 64, 64), torch.arange(BATCH) % len(CLASSES)
    batch = {"sketch": images[0], "positive": images[1], "negative": images[2], "draw": torch.arange(BATCH)}
    batch |= {"label": labels, "negative_label": (labels + 1) % len(CLASSES)}
    result: dict[str, dict[str, Any]] = {}
    calls: dict[str, Any] = {}
    for name, variant in variants.items():
        if isinstance(variant, str):
            encoder, _ = load_retriever(variant, CLASSES)
            result[name] = {"trainable_parameters": 0, "checkpoint_bytes": 0}
        else:
            objective, result[name] = build(variant, base)
            model = objective.model
            calls[f"step {name}"] = partial(step, objective, batch)
            if hasattr(model, "relation"):
                tokens = model.encode_tokens(torch.randn(RERANK, 3, 64, 64), "photo")  # (K, P, D)
                result[name]["stored_bytes_a_photo"] = tokens.nbytes // RERANK
                calls[f"rerank {name}"] = partial(rerank, model, tokens)
            encoder = model if hasattr(model, "relation") else model.for_search()
        calls[name] = partial(encoder.encode, images[0], "photo")
    seconds = medians(calls)
    for name, values in result.items():
        values["encoding_relative"] = seconds[name] / seconds["frozen CLIP"]
        if f"step {name}" in seconds:
            values["training_step_relative"] = seconds[f"step {name}"] / seconds["frozen CLIP"]
        if f"rerank {name}" in seconds:
            values["rerank_relative"] = seconds[f"rerank {name}"] / (seconds["frozen CLIP"] / BATCH)
    return result


def build(variant: dict[str, Any], base: str) -> tuple[Objective, dict[str, int]]:
    """Return the objective of an untrained variant, how many parameters of its model train and its checkpoint's bytes.

    A variant that names a recipe, not only flags, is built from the recipe.
    """
    recipe = load_recipe(variant["recipe"]) if "recipe" in variant else {}
    method = METHODS[recipe.get("method", variant.get("method", "splip"))]
    groups: dict[str, dict[str, Any]] = {group: dict(recipe.get(group) or {}) for group in ("model", "loss")}
    for key, value in variant.items():
        group, _, name = key.partition(".")
        if name:
            groups[group][name] = value
    model = method.model.from_clip(base, list(CLASSES), **groups["model"])
    if model.stores_image_means:
        for modality in ("sketch", "photo"):
            model.set_domain_mean(modality, torch.randn(dimensions(model.config.clip_config)[0]))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = (Path(folder) / "model.safetensors").stat().st_size
    objective = method.objective(model, method.objective.settings_class(**groups["loss"]))
    return objective, {"trainable_parameters": model.num_parameters(only_trainable=True), "checkpoint_bytes": size}


@torch.no_grad()
def rerank(model: Any, tokens: torch.Tensor) -> None:
    """Score one sketch's first results by their stored tokens, (K, P, D) in float16."""
    photos = tokens.float()
    model.relation(photos[:1].expand_as(photos), photos)


def step(objective: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Compute a batch's losses and gradients."""
    objective(batch)["loss"].backward()


def medians(calls: dict[str, Any]) -> dict[str, float]:
    """Return the median CPU seconds of each call; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in tqdm(range(REPEATS + 2), desc="costs"):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if repeat >= 2:
                times[name].append(time.process_time() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def print_report(report: dict[str, Any]) -> None:
    """Print one line a method, in percent."""
    for name, values in report["methods"].items():
        cells = []
        for protocol, value in ((key, values[key]) for key in PROTOCOLS if key in values):
            cell = f"{protocol} {100 * value['mean']:.1f} ± {100 * value['std_over_seeds']:.1f}"
            gains = value.get("gain", {}).values()
            cells.append(cell + "".join(f" [{100 * g['low']:+.1f}, {100 * g['high']:+.1f}]" for g in gains))
        cost = f"{values['trainable_parameters']:,} trained, encoding x {values['encoding_relative']:.2f}"
        print(f"{name:<34} " + "   ".join([*cells, cost]))


if __name__ == "__main__":
    main()
