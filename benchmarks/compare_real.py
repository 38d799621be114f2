"""Every method on real pictures: 3 folds of Sketchy's 21 test classes, category and fine-grained level.

    for fold in 0 1 2; do splip prepare sketchy21-fold$fold --data-dir FOLDER --out data/sketchy21-fold$fold; done
    python -m benchmarks.compare_real --data data [--levels category fine_grained] [--seeds 0 1] [--jobs 2]

Every method has the same data, steps and batches, those of the recipes `*_sketchy21`. The folds cover all 21 classes,
so nothing is chosen on them: rates and lengths come from held-back classes of other data (`choose_real.py`). The report
is `benchmarks/results/compare_real.json`, of the levels that are complete, with a plot in `docs/images`; the runs are
those of `world_runs.py`, so that an interrupted benchmark continues.
"""

import argparse
import os

from benchmarks.compare import NO_PROMPTS, Variant, print_report, summarise
from benchmarks.world_runs import IMAGES, REAL_LEVELS, RESULTS, Run, parse_arguments, run_all
from modeling_splip.clip_base import SMALL_CLIP
from modeling_splip.common.files import write_json
from modeling_splip.evaluation.plots import method_runs
from modeling_splip.training.arguments import load_recipe

DATA = "sketchy21"
VARIANTS: dict[str, Variant] = {
    "frozen CLIP": "clip:small_clip",
    "frozen CLIP, class name as query": "clip-text:small_clip",
    "LayerNorms only": NO_PROMPTS,
    "LayerNorms only, per modality": NO_PROMPTS | {"model.share_layer_norms": False},
    "CLIP-AT": {"method": "clip_at"},
    "Cross-Modal Attention Alignment": {"method": "cross_align"},
    "SpLIP": {},
    "SpLIP (domain)": {"model.conditioning": "domain"},
    "splip_best": {"recipe": "splip_best_sketchy21"},
}


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the prepared folds sketchy21-fold0, -fold1, -fold2")
    parser.add_argument("--levels", nargs="+", default=list(REAL_LEVELS), choices=list(REAL_LEVELS))
    parser.add_argument("--methods", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parse_arguments(parser, seeds=[0, 1], steps=None)
    runs = {
        (name, level): [run for fold in args.folds for run in runs_of(name, level, fold, args)]
        for level in REAL_LEVELS
        for name in VARIANTS
    }
    asked = [group for (name, level), group in runs.items() if name in args.methods and level in args.levels]
    run_all([run for group in asked for run in group], args.jobs)
    missing = {level for (_, level), group in runs.items() if not all(run.path.is_file() for run in group)}
    runs = {key: group for key, group in runs.items() if key[1] not in missing}
    if args.steps is None and runs:
        recipe = load_recipe(f"splip_{DATA}")
        settings = {"steps": recipe["max_steps"], "batch": recipe["batch_size"], "seeds": args.seeds}
        records = {key: [run.record() for run in group] for key, group in runs.items()}
        report = summarise(VARIANTS, SMALL_CLIP, settings, records)
        print_report(report)
        write_json(RESULTS / "compare_real.json", report)
        if "category" not in missing:
            by_fold = {name: values["zs"]["by_fold"] for name, values in report["methods"].items()}
            method_runs(by_fold, IMAGES / "compare_real.png", metric="zero-shot mAP@all")


def runs_of(name: str, level: str, fold: str, args: argparse.Namespace) -> list[Run]:
    """Return the runs of one row on one fold.

    At fine-grained level, and for the generalised protocol, one seed runs: the first.
    """
    path = os.path.join(args.data, f"{DATA}-fold{fold}")
    trained = level == "category" and not isinstance(VARIANTS[name], str)
    return [
        Run.of(
            path,
            seed,
            level,
            VARIANTS[name],
            steps=args.steps,
            data=DATA,
            protocols=REAL_LEVELS[level] if seed == args.seeds[0] else REAL_LEVELS[level][:1],
        )
        for seed in (args.seeds if trained else args.seeds[:1])
    ]


if __name__ == "__main__":
    main()
