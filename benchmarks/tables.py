"""The committed results as Markdown tables."""

import json
from collections.abc import Sequence
from typing import Any

from modeling_splip.commands.demo import tables as demo_tables
from modeling_splip.common.text import markdown_table
from modeling_splip.data.protocols import PROTOCOLS
from modeling_splip.evaluation.published import FILE as PUBLISHED

SKETCHY2_COLUMNS = (
    ("mAP@all", "zs", "map_all"),
    ("mAP@200", "zs", "map_200_prefix"),
    ("Acc@1", "zs", "acc_1"),
    ("Acc@10", "zs", "acc_10"),
    ("mAP@200, 8 classes not drawn", "zs, classes not drawn", "map_200_prefix"),
    ("fine-grained Acc@1", "fg-class", "acc_1"),
)
TITLES = {name: PROTOCOLS[name].heading for name in ("zs", "gzs-distractors", "fg-class")}
BESIDE = ("SpLIP (ECCV 2024)", "CLIP-AT (CVPR 2023)", "ZSE-SBIR")
WORLD = "drawn objects, which compare methods and say nothing about real photos"


def demo(metrics: dict[str, Any]) -> str:
    """The tables that `make demo` prints, from one run of it."""
    real, drawn = metrics["splip"]["zs"], metrics["splip"]["fg"]
    return (
        "One run of `make demo`, seed 0. `clip` is frozen: `small_clip` in the first table, `mini_clip` in the second. "
        f"First table: {real['dataset']}, version {real['dataset_version']}, {real['n_query']} drawings against "
        f"{real['n_gallery']} photos; generalised is `gzs-distractors`. Second table: {drawn['dataset']}, version "
        f"{drawn['dataset_version']}, {WORLD}; `fg-class`.\n{demo_tables(metrics)}"
    )


def sketchy2(results: dict[str, Any]) -> str:
    """The field's test set: the packaged models beside published numbers."""
    rows = [
        [f"`{name}`" + (", frozen" if name.endswith("clip") else ""), *_cells(records, SKETCHY2_COLUMNS)]
        for name, records in results.items()
    ]
    rows += [[f"{method}, as published", "-", f"{percent:.1f}", "-", "-", "-", "-"] for method, percent in _published()]
    first = next(iter(results.values()))["zs"]
    caption = (
        f"All of Sketchy-2's test set in percent, measured once: {first['n_query']:,} drawings against "
        f"{first['n_gallery']:,} photos of 21 classes. No setting was chosen by it."
    )
    return caption + "\n\n" + markdown_table(["", *(title for title, _, _ in SKETCHY2_COLUMNS)], rows)


def input_checks(results: dict[str, dict[str, int]]) -> str:
    """How often the checks of what pictures look like say yes."""
    columns = (
        ("sketches", ("dark ground", "line drawing", "no drawing")),
        ("inverted sketches", ("dark ground",)),
        ("inverted sketches of 28 pixels", ("dark ground",)),
        ("photos", ("dark ground", "line drawing", "no drawing")),
    )
    rows = []
    for name, counts in results.items():
        row = [f"`{name}`: {counts['sketches']:,} sketches, {counts['photos']:,} photos"]
        for kind, checks in columns:
            total = counts["photos" if kind == "photos" else "sketches"]
            row += [f"{100 * counts[f'{kind}: {check}'] / total:.2f}" for check in checks]
        rows.append(row)
    titles = ["percent of", *(f"{kind}: {check}" for kind, checks in columns for check in checks)]
    return markdown_table(titles, rows)


def _published() -> list[tuple[str, float]]:
    """Return the mAP@200 on Sketchy-2 that some papers report."""
    wanted = {"split": "sketchy2", "protocols": ["zs"], "metric": "mAP@200"}
    rows = [row for row in json.loads(PUBLISHED.read_text("utf-8"))["results"] if wanted.items() <= row.items()]
    return [(row["method"], row["percent"]) for row in rows if row["method"] in BESIDE]


def _cells(records: dict[str, Any], columns: Sequence[tuple[str, str, str]]) -> list[str]:
    return [f"{100 * records[key]['metrics'][metric]:.1f}" for _, key, metric in columns]


def world(report: dict[str, Any]) -> str:
    """The world's report: what each part of SpLIP gains over the frozen backbone."""
    present = [name for name in TITLES if name in next(iter(report["variants"].values()))]
    rows = [[name, *(_value(values[p]) for p in present)] for name, values in report["variants"].items()]
    header = ["", *(TITLES[name] for name in present)]
    gains = [
        [name, *(_gains(values["zs"]["gain"])), *(_gains(values["fg-class"]["gain"]))]
        for name, values in report["variants"].items()
        if "gain" in values["zs"]
    ]
    folds = [f"{title}, fold {fold}" for title in ("mAP@all", "Acc@1") for fold in ("0", "1", "2")]
    return (
        f"{_settings(report)}\n\n"
        + markdown_table(header, rows)
        + "\n\nGain over frozen CLIP in points, with the 95 % interval of a paired bootstrap over queries:\n\n"
        + markdown_table(["", *folds], gains)
    )


def compare(report: dict[str, Any]) -> str:
    """Every method by the same rules, with what it costs."""
    return (
        f"{_settings(report)} The learning rate of each method is the best of "
        f"{len(report['settings']['learning_rates'])} on held-back seen classes. "
        "Training step and encoding are CPU time against frozen CLIP's encoding of as many images, at this backbone's "
        "size; SpLIP (domain) is encoded folded.\n\n" + _methods(report) + _reranked(report)
    )


def compare_real(report: dict[str, Any]) -> str:
    """Every method by the same rules on Sketchy's test classes."""
    settings = report["settings"]
    return (
        f"Percent. Zero-shot: mean over 3 folds x {len(settings['seeds'])} seeds and the spread over seeds of the mean "
        "over folds; the other columns: 3 folds, one seed. Sketchy's 21 test classes, 14 of them seen in a fold, from "
        f"`small_clip` ({report['backbone']}). Every training has {settings['steps']} steps of {settings['batch']} "
        "sketches; evaluation computes in bfloat16. Rates and lengths were chosen on held-back classes of other "
        "pictures. Training step and encoding are CPU time against frozen CLIP's encoding of as many images; SpLIP "
        "(domain) and `splip_best` are encoded folded.\n\n" + _methods(report) + _hubs(report)
    )


def compare_real_gains(report: dict[str, Any]) -> str:
    """What each method gains over the frozen backbone on each fold of Sketchy's test classes."""
    methods = report["methods"]
    measured = next(iter(methods.values()))
    shown = [(title, name) for title, name in (("mAP@all", "zs"), ("Acc@1", "fg-class")) if name in measured]
    rows = [
        [name, *(cell for _, protocol in shown for cell in _gains(values[protocol]["gain"]))]
        for name, values in methods.items()
        if "gain" in values[shown[0][1]]
    ]
    folds = len(measured[shown[0][1]]["by_fold"])
    header = ["", *(f"{title}, fold {fold}" for title, _ in shown for fold in range(folds))]
    return (
        "Gain over frozen CLIP in points, with the 95 % interval of a paired bootstrap over queries:\n\n"
        + markdown_table(header, rows)
    )


def choose_real(report: dict[str, Any]) -> str:
    """What was tried on held-back classes of other pictures, one by one."""
    blocks = []
    for about in report.values():
        for part, rows in about["parts"].items():
            keys = list(next(iter(rows.values())))
            titles = {"map_all": "mAP@all", "acc_1": "Acc@1"}
            cells = [
                [name, *(", ".join(f"{100 * value:.1f}" for value in values[key]) for key in keys)]
                for name, values in rows.items()
            ]
            names = about["held_back"]
            title = f"{part}, on {f'{len(names)} classes' if len(names) > 1 else names[0]}"
            blocks.append(markdown_table([title, *map(titles.get, keys)], cells))
    return "\n\n".join(blocks)


def real_mini(report: dict[str, Any]) -> str:
    """The same comparison on a small set of real drawings and photos."""
    settings = report["settings"]
    return (
        f"Percent, mean over {len(settings['seeds'])} seeds and their spread; {settings['steps']} steps of "
        f"{settings['batch']} sketches from the drawn backbone {report['backbone']}, which has seen drawn objects "
        "only: the numbers are low, and show no more than that nothing depends on the drawn world.\n\n"
        + _methods(report)
    )


def _hubs(report: dict[str, Any]) -> str:
    """Return what each row's zero-shot mAP@all becomes where hubs count less."""
    found = {
        name: values["without_hubs"]["zs"] for name, values in report["methods"].items() if "without_hubs" in values
    }
    scores = ", ".join(f"{name} {100 * score:.1f}" for name, score in found.items())
    return (
        "\n\nZero-shot mAP@all with each score divided by the photo's mean cosine with 512 sketches of seen classes, "
        f"which takes no training: {scores}."
    )


def _reranked(report: dict[str, Any]) -> str:
    lines = []
    for name, values in report["methods"].items():
        if "reranked" in values:
            scores = ", ".join(f"{TITLES[p]} {100 * score:.1f}" for p, score in values["reranked"].items())
            lines.append(
                f"\n\n{name} with its first {report['settings']['rerank']} results ranked again by the relation "
                f"network: {scores}. It stores {values['stored_bytes_a_photo']:,} bytes of tokens a photo, and ranking "
                f"again takes a sketch as long as frozen CLIP's encoding of {values['rerank_relative']:.1f} images."
            )
    return "".join(lines)


def _methods(report: dict[str, Any]) -> str:
    methods = report["methods"]
    present = [name for name in TITLES if name in next(iter(methods.values()))]
    header = ["", *(TITLES[name] for name in present), "trained", "checkpoint", "training step", "encoding"]
    rows = []
    for name, values in methods.items():
        step = values.get("training_step_relative")
        cells = [_value(values[protocol]) for protocol in present]
        cells += [f"{values['trainable_parameters']:,}", f"{values['checkpoint_bytes'] / 1000:,.0f} kB"]
        rows.append([name, *cells, f"x {step:.1f}" if step else "-", f"x {values['encoding_relative']:.2f}"])
    return markdown_table(header, rows)


def papers(published: dict[str, Any]) -> str:
    """What the papers of the methods report of themselves, zero-shot and fine-grained."""
    methods = ("SpLIP (ECCV 2024)", "CLIP-AT (CVPR 2023)")
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in published["results"]:
        if row["method"] in methods:
            key = (row["split"], row["protocols"][0], row["metric"])
            found.setdefault(key, {})[row["method"]] = row["percent"]
    rows = [
        [split, "fine-grained" if protocol.startswith("fg") else protocol, metric]
        + [f"{values[name]:.1f}" if name in values else "-" for name in methods]
        for (split, protocol, metric), values in found.items()
    ]
    return markdown_table(["split", "protocol", "metric", *(f"{name}, published" for name in methods)], rows)


def ablation(report: dict[str, Any]) -> str:
    """SpLIP with parts changed, beside the paper's numbers where it has them."""
    return "\n\n".join([_settings(report), *_parts(report)])


def ablation_real(report: dict[str, Any]) -> str:
    """The same on Sketchy's test classes."""
    settings = report["settings"]
    caption = (
        "Percent, one seed. mAP: mean over 3 folds of Sketchy's 21 test classes, or for `sensitivity` the first; "
        f"fine-grained Acc@1 on the first. SpLIP with domain conditioning from `small_clip` ({report['backbone']}), "
        f"{settings['steps']} steps of {settings['batch']} sketches."
    )
    return "\n\n".join([caption, *_parts(report)])


def _parts(report: dict[str, Any]) -> list[str]:
    """Return one table for every part of an ablation."""
    blocks = []
    for part, made in report["parts"].items():
        rows, seeds = made["rows"], len(made["seeds"])
        header = [f"{part}, {seeds} seed{'s' if seeds > 1 else ''}", "mAP@all", "mAP@200", "fine-grained Acc@1"]
        paper = any("paper" in values for values in rows.values())
        header += ["paper: mAP@200", "paper: Acc@1"] if paper else []
        lines = []
        for name, values in rows.items():
            line = [name, *(_value(values[key]) for key in ("map_all", "map_200", "acc_1"))]
            if paper:
                line += [f"{values['paper'][k]:.1f}" if "paper" in values else "-" for k in ("map_200", "acc_1")]
            lines.append(line)
        blocks.append(markdown_table(header, lines))
    return blocks


def ecosystem(result: dict[str, Any]) -> str:
    """Every tool that a model was run in, with the largest difference from the model's own numbers."""
    rows = [
        [each["tool"], each["version"] or "-", each["what"], _difference(each), f"{each['limit']:g}"]
        for each in result["rows"]
    ]
    caption = (
        f"`{result['model']}` in each tool, on Python {result['python']}: the largest difference from the numbers that "
        "the model itself gives, and the largest that is allowed. Offloaded, saved or exported, a model stays the same."
    )
    header = ["tool", "version", "what", "difference", "allowed"]
    return "\n\n".join([caption, markdown_table(header, rows), *_onnx_speed(result)])


def _difference(row: dict[str, Any]) -> str:
    if "error" in row:
        return "**fails**"
    return "not installed" if row["difference"] is None else f"{row['difference']:.1g}"


def _onnx_speed(result: dict[str, Any]) -> list[str]:
    if "speed" not in result:
        return []
    speed = result["speed"]
    batches = speed["milliseconds_an_image"]
    rows = [
        [name, speed["versions"][package], *(f"{times[name]['median']:.1f}" for times in batches.values())]
        for name, package in (("PyTorch", "torch"), ("ONNX Runtime", "onnxruntime"))
    ]
    caption = (
        f"A folded model of ViT-{speed['shape']} sizes on one thread of a CPU ({speed['processor']}), in "
        f"{speed['clock']}; cases take turns, medians:"
    )
    header = ["", "version", *(f"ms an image, batch {batch}" for batch in batches)]
    return [caption, markdown_table(header, rows)]


def _value(values: dict[str, Any]) -> str:
    runs = sum(len(seeds) for seeds in values["by_fold"].values())
    spread = f" ± {100 * values['std_over_seeds']:.1f}" if runs > len(values["by_fold"]) else ""
    return f"{100 * values['mean']:.1f}{spread}"


def _gains(gain: dict[str, Any]) -> list[str]:
    return [f"{100 * g['mean']:+.1f} [{100 * g['low']:+.1f}, {100 * g['high']:+.1f}]" for g in gain.values()]


def _settings(report: dict[str, Any]) -> str:
    version, settings = report["dataset_version"], report["settings"]
    versions = version if isinstance(version, str) else ", ".join(version)
    seeds = f"{len(settings['seeds'])} seeds" if "seeds" in settings else "the seeds that a table names"
    return (
        f"Percent, mean over 3 folds x {seeds} and the spread over seeds of the mean over folds. "
        f"Drawn world, version {versions}, backbone {report['backbone']}: {WORLD}. Every training has "
        f"{settings['steps']} steps of {settings['batch']} sketches."
    )
