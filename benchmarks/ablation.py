"""Ablations: SpLIP's two tables and what its paper leaves open; the alignment network's losses.

    python -m benchmarks.ablation [--parts losses modules open margins alignment] [--folds 0 1 2] [--seeds 0 1 2]
    python -m benchmarks.ablation --data data [--parts losses modules sensitivity]

Every row is SpLIP, in `alignment` the alignment network, with some settings changed. Without `--data` it is the drawn
world, 3 folds x 3 seeds; with it, the folds of Sketchy's test classes in that folder: one seed, three folds at category
level and the first at fine-grained level, domain conditioning, the recipes `splip_sketchy21`, and of the two tables the
paper's own rows. `--jobs` runs go side by side; `--quick` makes one of each. The report is
`benchmarks/results/ablation.json` or `ablation_real.json`, with plots in `docs/images`; the runs are those of
`world_runs.py`, so that an interrupted benchmark continues. Neither sets a default.
"""

import argparse
import json
import os
from typing import Any

from benchmarks.world_runs import (
    BATCH,
    IMAGES,
    LEVELS,
    REAL_LEVELS,
    RESULTS,
    Run,
    backbone,
    parse_arguments,
    run_all,
    summary,
)
from modeling_splip.clip_base import MINI_CLIP, SMALL_CLIP
from modeling_splip.common.files import write_json
from modeling_splip.evaluation.plots import method_runs
from modeling_splip.training.arguments import load_recipe

NO_VISUAL_PROMPTS = {"model.use_b_v": False, "model.use_b_vt": False}
PLAIN = {"loss.beta": 0.0, "loss.adaptive_margin": False}
LORA = '{peft_type: LORA, r: 8, lora_alpha: 16, target_modules: ".*vision_model.*(q_proj|v_proj)"}'
FINE_GRAINED_ONLY = ("loss.between", "loss.instance_margins")
PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "losses": {
        "class": {"loss.triplet": 0.0, "loss.beta": 0.0},
        "triplet, fixed margin": PLAIN | {"loss.alpha": 0.0},
        "class + triplet, fixed margin": PLAIN,
        "class + triplet, adaptive margin": {"loss.beta": 0.0},
        "SpLIP: + conditional jigsaw": {},
        "+ CLIP-AT's shuffling instead": {"loss.beta": 0.0, "loss.shuffle": 1.0},
    },
    "modules": {
        "SpLIP": {},
        "no LayerNorms": {"model.layer_norms": "none"},
        "no B_v": {"model.use_b_v": False},
        "no B_t": {"model.use_b_t": False},
        "no B_vt": {"model.use_b_vt": False},
        "no visual prompts": NO_VISUAL_PROMPTS,
        "no prompts": NO_VISUAL_PROMPTS | {"model.use_b_t": False},
        "prompts in 1 layer": {"model.prompt_depth": 1},
        "prompts in 2 layers": {"model.prompt_depth": 2},
        "prompts in 3 layers": {"model.prompt_depth": 3},
    },
    "open": {
        "SpLIP": {},
        "conditioning domain": {"model.conditioning": "domain"},
        "LayerNorms per modality": {"model.share_layer_norms": False},
        "alpha 0.3": {"loss.alpha": 0.3},
        "alpha 3": {"loss.alpha": 3.0},
        "beta 0.01": {"loss.beta": 0.01},
        "beta 1": {"loss.beta": 1.0},
        "|Y| 10": {"loss.permutations": 10},
        "|Y| 30": {"loss.permutations": 30},
        "|Y| 300": {"loss.permutations": 300},
        "|Y| 1000": {"loss.permutations": 1000},
        "grid 2, |Y| 23": {"loss.grid": 2, "loss.permutations": 23},
        "m 1": {"model.m": 1},
        "m 8": {"model.m": 8},
        "n 1": {"model.n": 1},
        "n 4": {"model.n": 4},
        "V_tg of three tokens": {"model.template_sos": False},
        "B_v over the whole template": {"model.b_v_input": "template"},
        "B_t over all patches": {"model.b_t_input": "patches"},
        "mean of W_l over classes": {"model.w_mean": "classes"},
        "tau 0.03": {"loss.tau": 0.03},
        "tau 0.2": {"loss.tau": 0.2},
    },
    "margins": {
        "triplets across classes, adaptive margin": {},
        "triplets across classes, fixed margin": {"loss.adaptive_margin": False},
        "within the class only": {"loss.between": 0.0},
        "within the class, margins between instances": {"loss.between": 0.0, "loss.instance_margins": True},
        "both": {"loss.instance_margins": True},
    },
    "alignment": {
        name: {"method": "cross_align"} | changed
        for name, changed in {
            "Cross-Modal Attention Alignment": {},
            "no L_tri": {"loss.triplet": 0.0, "loss.alignment": 0.0},
            "no L_rn": {"loss.relation": 0.0},
            "no triplets after the exchange": {"loss.alignment": 0.0},
            "the text reads images, images read nothing": {"loss.exchange": "text"},
            "images read the text, the text nothing": {"loss.exchange": "image"},
            "relation after the exchange only": {"loss.text_free": 0.0},
            "lambda_tri 0.3": {"loss.triplet": 0.3},
            "lambda_tri 3": {"loss.triplet": 3.0},
            "lambda_rn 0.5": {"loss.relation": 0.5},
            "lambda_rn 8": {"loss.relation": 8.0},
            "one sentence at a time": {"loss.text": "one"},
            "a token for each sentence": {"loss.text": "sentences"},
            "question: shape": {"loss.questions": "shape"},
            "question: parts": {"loss.questions": "parts"},
            "LoRA in two towers": {
                "model.layer_norms": "none",
                "model.peft": LORA,
                "model.share_peft": False,
                "learning_rate": 1e-3,
            },
            "LoRA in one tower": {"model.layer_norms": "none", "model.peft": LORA, "learning_rate": 1e-3},
        }.items()
    },
    # What a review of the paper asks for, on the first fold.
    "sensitivity": {
        "SpLIP": {},
        "alpha 0.3": {"loss.alpha": 0.3},
        "alpha 3": {"loss.alpha": 3.0},
        "beta 0.01": {"loss.beta": 0.01},
        "beta 1": {"loss.beta": 1.0},
        "|Y| 10": {"loss.permutations": 10},
        "|Y| 1000": {"loss.permutations": 1000},
    },
}
WORLD_PARTS = ("losses", "modules", "open", "margins", "alignment")
REAL_PARTS = ("losses", "modules", "sensitivity")
# Sketchy-2 in percent, as a public note gives the paper's tables: mAP@200 and fine-grained Acc@1.
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "losses": {
        "class": (57.5, 17.23),
        "triplet, fixed margin": (71.6, 26.54),
        "class + triplet, fixed margin": (73.1, 30.07),
        "class + triplet, adaptive margin": (74.5, 31.23),
        "SpLIP: + conditional jigsaw": (76.4, 33.45),
    },
    "modules": {
        "SpLIP": (76.4, 33.45),
        "no LayerNorms": (74.2, 31.24),
        "no B_v": (71.9, 29.76),
        "no B_t": (72.8, 30.41),
        "no B_vt": (70.5, 28.92),
        "no visual prompts": (68.8, 26.54),
        "no prompts": (62.5, 28.49),
    },
}
METRICS = {"map_all": ("zs", "map_all"), "map_200": ("zs", "map_200_prefix"), "acc_1": ("fg-class", "acc_1")}


def main() -> None:
    """Run what is missing, then write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="default: all that the data set has")
    parser.add_argument("--data", help="folder of the prepared folds sketchy21-fold0, -fold1, -fold2")
    args = parse_arguments(parser)
    args.parts = args.parts or list(REAL_PARTS if args.data else WORLD_PARTS)
    runs = {
        (part, name): (real_runs(args, part, flags) if args.data else world_runs(args, flags))
        for part in args.parts
        for name, flags in PARTS[part].items()
        if not args.data or part not in PAPER or name in PAPER[part]
    }
    run_all([run for group in runs.values() for run in group], args.jobs)
    recipe = load_recipe("splip_sketchy21") if args.data else {"max_steps": args.steps, "batch_size": BATCH}
    seeds = args.seeds[:1] if args.data else args.seeds
    report: dict[str, Any] = {
        "backbone": backbone(SMALL_CLIP if args.data else MINI_CLIP),
        "settings": {"steps": recipe["max_steps"], "batch": recipe["batch_size"], "folds": args.folds},
        "parts": {part: {"seeds": seeds, "rows": {}} for part in args.parts},
    }
    for (part, name), group in runs.items():
        records = [run.record() for run in group]
        report["dataset_version"] = records[0]["dataset_version"]
        values: dict[str, Any] = {
            key: summary([r for r in records if protocol in r["protocols"]], protocol, metric)
            for key, (protocol, metric) in METRICS.items()
        }
        if name in PAPER.get(part, {}):
            values["paper"] = dict(zip(("map_200", "acc_1"), PAPER[part][name], strict=True))
        report["parts"][part]["rows"][name] = values
    print_report(report)
    if not args.quick and "tuning" not in args.folds:
        name = "ablation_real" if args.data else "ablation"
        keep_other_parts(report, name)
        write_json(RESULTS / f"{name}.json", report)
        for part, made in report["parts"].items():
            by_fold = {row: values["map_all"]["by_fold"] for row, values in made["rows"].items()}
            method_runs(by_fold, IMAGES / f"{name}_{part}.png", metric="zero-shot mAP@all")


def at_level(flags: dict[str, Any], level: str) -> dict[str, Any]:
    """Return a row's settings without those that its level does not have."""
    return {name: value for name, value in flags.items() if level == "fine_grained" or name not in FINE_GRAINED_ONLY}


def world_runs(args: argparse.Namespace, flags: dict[str, Any]) -> list[Run]:
    """Return a row's runs in the drawn world."""
    return [
        Run.of(fold, seed, level, at_level(flags, level), steps=args.steps)
        for level in LEVELS
        for fold in args.folds
        for seed in args.seeds
    ]


def real_runs(args: argparse.Namespace, part: str, flags: dict[str, Any]) -> list[Run]:
    """Return a row's runs on real pictures. The row without a change is one that `compare_real.py` makes too."""
    folds = [os.path.join(args.data, f"sketchy21-fold{fold}") for fold in args.folds]
    places = [("category", fold) for fold in (folds[:1] if part == "sensitivity" else folds)]
    places.append(("fine_grained", folds[0]))
    steps = args.steps if args.quick else None
    return [
        Run.of(
            fold,
            args.seeds[0],
            level,
            ({} if "method" in flags else {"model.conditioning": "domain"}) | at_level(flags, level),
            steps=steps,
            data="sketchy21",
            protocols=REAL_LEVELS[level] if not flags else REAL_LEVELS[level][:1],
        )
        for level, fold in places
    ]


def keep_other_parts(report: dict[str, Any], name: str) -> None:
    """Add the parts that this run did not make from the last report, if it was made in the same way."""
    file = RESULTS / f"{name}.json"
    if file.is_file():
        last = json.loads(file.read_text("utf-8"))
        if all(last[key] == value for key, value in report.items() if key != "parts"):
            parts = last["parts"] | report["parts"]
            report["parts"] = {part: parts[part] for part in PARTS if part in parts}


def print_report(report: dict[str, Any]) -> None:
    """Print one line a row, in percent."""
    for part, made in report["parts"].items():
        print(f"\n{part:<34}" + "".join(f"{key:>16}" for key in METRICS) + "   paper: mAP@200, Acc@1 on Sketchy-2")
        for name, values in made["rows"].items():
            cells = [f"{100 * values[k]['mean']:.1f} ± {100 * values[k]['std_over_seeds']:.1f}" for k in METRICS]
            paper = "   {map_200:.1f}, {acc_1:.1f}".format(**values["paper"]) if "paper" in values else ""
            print(f"{name:<34}" + "".join(f"{cell:>16}" for cell in cells) + paper)


if __name__ == "__main__":
    main()
