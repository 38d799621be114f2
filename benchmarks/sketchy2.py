"""Measure models on the field's test set: all 21 unseen classes of Sketchy's second split.

    splip prepare sketchy21 --data-dir FOLDER --out data/sketchy21
    python benchmarks/sketchy2.py --dataset data/sketchy21

Writes `benchmarks/results/sketchy2.json`: model -> protocol -> record, fractions. A model that is measured again
replaces its row. Nothing may be chosen by these numbers: settings are chosen on held-back classes of other data.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from modeling_splip.common.files import write_json
from modeling_splip.data.dataset import open_dataset
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.evaluate import Evaluation, evaluate_model
from modeling_splip.loading import load_retriever

RESULTS = Path(__file__).parent / "results" / "sketchy2.json"
# Name in the table -> what `--model` takes.
PACKAGED = {"mini_clip": "clip:mini_clip", "small_clip": "clip:small_clip", "small_splip": "small_splip"}
PROTOCOLS = ("zs", "fg-class")
# Classes of which `small_clip` has seen no labelled drawing; its card says which drawings it has seen.
NOT_DRAWN = ("cabin", "giraffe", "helicopter", "rhinoceros", "seagull", "songbird", "wheelchair", "window")


def main() -> None:
    """Measure every model, and write each as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder that `splip prepare sketchy21` wrote")
    help_text = "default: the packaged ones; checkpoint, Hub id or clip:<base>"
    parser.add_argument("--model", nargs="+", default=[], help=help_text)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    dataset = open_dataset(args.dataset)
    results = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    for name, model in {name: PACKAGED.get(name, name) for name in args.model or PACKAGED}.items():
        loaded, processor = load_retriever(model)
        embedder = Embedder(loaded.for_search(), processor, dataset)
        found = evaluate_model(embedder, PROTOCOLS, name)
        results[name] = {each.record["protocol"]: each.record for each in found}
        results[name]["zs, classes not drawn"] = {"classes": NOT_DRAWN, "metrics": mean_over(found[0], NOT_DRAWN)}
        write_json(args.out, results)
        print(name, {key: round(value, 4) for key, value in found[0].record["metrics"].items()})


def mean_over(evaluation: Evaluation, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the means of the metrics over the queries of some classes."""
    rows = np.isin(evaluation.labels, classes)
    return {name: float(np.nanmean(values[rows])) for name, values in evaluation.per_query.items()}


if __name__ == "__main__":
    main()
