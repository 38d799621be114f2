"""Choose rates, lengths and the parts of `splip_best` on held-back classes of real pictures, for `compare_real.py`.

    splip prepare folder --data-dir FOLDER --out data/seen --unseen CLASS --unseen CLASS ...
    python -m benchmarks.choose_real --data data/seen [--parts rates steps best] [--seeds 0] [--jobs 2]

The data set must have no class in common with the folds that `compare_real.py` measures on: its unseen classes are the
ones that choose. The report is `benchmarks/results/choose_real.json`: for every part and row the zero-shot mAP@all and
Acc@1 of every seed, fractions. The runs are those of `world_runs.py`, so that an interrupted benchmark continues.
"""

import argparse
import json
import os
from typing import Any

from benchmarks.world_runs import IMAGES, LEVELS, RESULTS, Run, run_all
from modeling_splip.common.files import write_json
from modeling_splip.data.dataset import open_dataset
from modeling_splip.evaluation.plots import metric_over_steps

FILE = RESULTS / "choose_real.json"
NO_PROMPTS = {"model.use_b_t": False, "model.use_b_v": False, "model.use_b_vt": False}
METHODS: dict[str, dict[str, Any]] = {
    "LayerNorms only": NO_PROMPTS,
    "CLIP-AT": {"method": "clip_at"},
    "Cross-Modal Attention Alignment": {"method": "cross_align"},
    "SpLIP": {},
}
RATES = (1e-3, 3e-3, 1e-2)
LENGTHS = (30, 60, 120, 240)
INFO_NCE: dict[str, Any] = {
    "model.conditioning": "domain",
    "model.share_layer_norms": False,
    "loss.tau": 0.2,
    "loss.beta": 0.0,
    "loss.triplet": 0.0,
    "loss.contrast": 1.0,
    "loss.contrast_tau": 0.2,
}
LAST_BLOCK_LORA = "{peft_type: LORA, r: 8, lora_alpha: 16, target_modules: '.*vision_model.*layers.7.self_attn.*_proj'}"
PARTS: dict[str, dict[str, dict[str, Any] | str]] = {
    "frozen": {"frozen CLIP": "clip:small_clip"},
    "rates": {
        f"{name}, rate {rate:g}": flags | {"learning_rate": rate} for name, flags in METHODS.items() for rate in RATES
    },
    "steps": {
        f"InfoNCE in place of triplets and jigsaw, {steps} steps": INFO_NCE
        | ({} if steps == 60 else {"max_steps": steps, "epochs": 50})
        for steps in LENGTHS
    },
    "best": {
        "SpLIP (domain), LayerNorms per modality, tau 0.2": {
            "model.conditioning": "domain",
            "model.share_layer_norms": False,
            "loss.tau": 0.2,
        },
        "InfoNCE in place of triplets and jigsaw": INFO_NCE,
        "InfoNCE, rate 1e-2": INFO_NCE | {"learning_rate": 1e-2},
        "InfoNCE, 112 steps (an epoch)": INFO_NCE | {"max_steps": 112},
        "InfoNCE and triplets": INFO_NCE | {"loss.triplet": 1.0},
        "InfoNCE at 0.07": INFO_NCE | {"loss.contrast_tau": 0.07},
        "InfoNCE, no prompts": INFO_NCE | NO_PROMPTS,
        "InfoNCE + spread 0.1": INFO_NCE | {"loss.spread": 0.1},
        "InfoNCE + spread 0.5": INFO_NCE | {"loss.spread": 0.5},
        "InfoNCE + anchor 0.3": INFO_NCE | {"loss.anchor": 0.3},
        "InfoNCE + anchor 1": INFO_NCE | {"loss.anchor": 1.0},
        "InfoNCE + within 0.5": INFO_NCE | {"loss.within": 0.5},
        "InfoNCE + clarity": INFO_NCE | {"loss.clarity": True},
        "InfoNCE + LoRA in the last block": INFO_NCE | {"model.peft": LAST_BLOCK_LORA},
    },
}


# An epoch of the small sets of instance pairs has fewer steps than the recipe.
SIXTY: dict[str, Any] = {"epochs": 50}
INSTANCE_NCE: dict[str, Any] = SIXTY | INFO_NCE | {"loss.alpha": 0.0}
FINE_GRAINED: dict[str, dict[str, Any] | str] = {
    "frozen CLIP": "clip:small_clip",
    "SpLIP": SIXTY,
    "InfoNCE at 0.2": INSTANCE_NCE,
    "InfoNCE at 0.07": INSTANCE_NCE | {"loss.contrast_tau": 0.07},
    "InfoNCE at 0.2, 32 of a class": INSTANCE_NCE | {"pairs_per_class": 32},
    "InfoNCE at 0.2, 240 steps": INSTANCE_NCE | {"max_steps": 240},
}
PARTS_OF = {"category": PARTS, "fine_grained": {"fine_grained": FINE_GRAINED}}


def main() -> None:
    """Run what is missing, then write the report and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="prepared data set whose unseen classes choose")
    parser.add_argument("--level", default="category", choices=list(PARTS_OF))
    parser.add_argument("--parts", nargs="+", help="rows of category level to run; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side, a thread each")
    args = parser.parse_args()
    fold, protocol = os.path.join(args.data, ""), LEVELS[args.level][0]
    parts = PARTS_OF[args.level]
    runs = {
        (part, name): [
            Run.of(fold, seed, args.level, variant, steps=None, data="sketchy21", protocols=(protocol,))
            for seed in (args.seeds[:1] if isinstance(variant, str) else args.seeds)
        ]
        for part in args.parts or parts
        for name, variant in parts[part].items()
    }
    run_all([run for group in runs.values() for run in group], args.jobs)
    dataset = open_dataset(args.data)
    report = json.loads(FILE.read_text("utf-8")) if FILE.is_file() else {}
    held_back = " ".join(dataset.unseen)
    about = {"dataset": dataset.name, "dataset_version": dataset.version, "held_back": dataset.unseen}
    report[held_back] = report.get(held_back, {"parts": {}}) | about
    for (part, name), group in runs.items():
        metrics = [run.record()["protocols"][protocol]["metrics"] for run in group]
        row = {key: [values[key] for values in metrics] for key in ("map_all", "acc_1") if key in metrics[0]}
        report[held_back]["parts"].setdefault(part, {})[name] = row
        print(f"{part:<8}{name:<60}" + "   ".join(f"{k} {' '.join(f'{100 * v:.2f}' for v in row[k])}" for k in row))
    write_json(FILE, report)
    if "steps" in (args.parts or parts):
        _plot_steps(report[held_back]["parts"])


def _plot_steps(parts: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Draw how far each method comes in so many steps, against the frozen backbone where it was measured."""
    lines: dict[str, dict[int, float]] = {}
    for row, values in parts["steps"].items():
        name, steps = row.removesuffix(" steps").rsplit(", ", 1)
        lines.setdefault(name, {})[int(steps)] = values["map_all"][0]
    if "frozen" in parts:
        lines["frozen CLIP"] = dict.fromkeys(LENGTHS, parts["frozen"]["frozen CLIP"]["map_all"][0])
    metric_over_steps(lines, IMAGES / "choose_real_steps.png", metric="mAP@all of held-back classes")


if __name__ == "__main__":
    main()
