"""Does the drawn world tell methods apart? Frozen CLIP, LayerNorms only, prompts only, SpLIP; 3 folds x 3 seeds.

    python -m benchmarks.world [--folds 0 1 2] [--seeds 0 1 2] [--jobs 2] [--quick]

Fine-grained numbers come from models trained on instance pairs. The report is `benchmarks/results/world.json` with a
plot in `docs/images`; the runs are those of `world_runs.py`, so that an interrupted benchmark continues.
"""

import argparse
from typing import Any

from benchmarks.world_runs import (
    BATCH,
    BOOTSTRAP,
    FROZEN,
    IMAGES,
    LEVELS,
    RESULTS,
    STEPS,
    Run,
    backbone,
    gain,
    metric,
    parse_arguments,
    run_all,
    summary,
)
from modeling_splip.common.files import write_json
from modeling_splip.evaluation.plots import method_runs

NO_PROMPTS = {"model.use_b_t": False, "model.use_b_v": False, "model.use_b_vt": False}
VARIANTS: dict[str, dict[str, Any] | str] = {
    "frozen CLIP": FROZEN,
    "LayerNorms only": NO_PROMPTS,
    "prompts only": {"model.layer_norms": "none"},
    "SpLIP (image)": {},
    "SpLIP (domain)": {"model.conditioning": "domain"},
}


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parse_arguments(parser)
    runs = {
        (variant, level): [
            Run.of(fold, seed, level, VARIANTS[variant], steps=args.steps)
            for fold in args.folds
            for seed in (args.seeds[:1] if variant == "frozen CLIP" else args.seeds)
        ]
        for variant in args.variants
        for level in LEVELS
    }
    run_all([run for group in runs.values() for run in group], args.jobs)
    report = summarise({key: [run.record() for run in group] for key, group in runs.items()}, args.seeds)
    print_report(report)
    if not args.quick and "tuning" not in args.folds:
        write_json(RESULTS / "world.json", report)
        by_fold = {name: values["zs"]["by_fold"] for name, values in report["variants"].items()}
        method_runs(by_fold, IMAGES / "world.png", metric="zero-shot mAP@all")


def summarise(records: dict[tuple[str, str], list[dict[str, Any]]], seeds: list[int]) -> dict[str, Any]:
    """Return means, spreads over seeds, and the paired bootstrap of each variant against frozen CLIP in every fold."""
    everything = [record for group in records.values() for record in group]
    report: dict[str, Any] = {
        "dataset_version": sorted({record["dataset_version"] for record in everything}),
        "backbone": backbone(),
        "settings": {"steps": STEPS, "batch": BATCH, "seeds": seeds, "bootstrap": BOOTSTRAP},
        "variants": {},
    }
    for (variant, level), own in records.items():
        values = report["variants"].setdefault(variant, {"trainable_parameters": own[0]["trainable_parameters"]})
        values["train_seconds_max"] = max(*(r["seconds"] for r in own), values.get("train_seconds_max", 0.0))
        for protocol in LEVELS[level]:
            values[protocol] = {"metric": metric(protocol)} | summary(own, protocol, metric(protocol))
            if variant != "frozen CLIP" and ("frozen CLIP", level) in records:
                values[protocol]["gain"] = gain(own, records["frozen CLIP", level], protocol)
    return report


def print_report(report: dict[str, Any]) -> None:
    """Print one line a variant, in percent."""
    for name, values in report["variants"].items():
        cells = []
        for protocol in (protocol for level in LEVELS.values() for protocol in level):
            value = values[protocol]
            cell = f"{protocol} {100 * value['mean']:.1f} ± {100 * value['std_over_seeds']:.1f}"
            gains = value.get("gain", {}).values()
            cells.append(cell + "".join(f" [{100 * g['low']:+.1f}, {100 * g['high']:+.1f}]" for g in gains))
        print(f"{name:<16} " + "   ".join(cells))


if __name__ == "__main__":
    main()
