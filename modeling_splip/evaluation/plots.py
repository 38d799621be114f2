"""Charts of results, drawn by matplotlib: precision-recall curves, bars of classes, dots of runs, lines over steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..common.files import written_whole
from .pictures import INK, LINE, MUTED, PathLike, check_picture, picture_kind

PALETTE = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#59636e")


def precision_recall_curve(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: PathLike, *, title: str = ""
) -> Path:
    """Save a chart of precision over recall, one line per name.

    Args:
        curves: name -> (recall, precision), fractions, as `curve` of `retrieval_metrics` gives them.
        path: a .png, .svg or .pdf file.
        title: a line above the axes.

    Raises:
        ValueError: if there is no curve, or its two lists have different lengths.
    """
    if not curves:
        raise ValueError("curves is empty: give at least one name with its recall and precision.")
    figure, axes = _figure(6.0, 4.2, title)
    for index, (name, (recall, precision)) in enumerate(curves.items()):
        if len(recall) != len(precision) or not len(recall):
            raise ValueError(
                f"Curve {name!r} has {len(recall)} recalls and {len(precision)} precisions: give one of each."
            )
        style = ("-", "--", "-.", ":")[index // len(PALETTE) % 4]
        axes.plot(recall, precision, style, color=PALETTE[index % len(PALETTE)], linewidth=2, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="Recall", ylabel="Precision (interpolated)")
    axes.grid(color=LINE, linewidth=0.6)
    axes.legend(frameon=False, loc="best")
    return _save_figure(figure, path)


def per_class_bars(values: Mapping[str, float], path: PathLike, *, metric: str = "mAP@all", title: str = "") -> Path:
    """Save a chart with one bar per class, best first, and the mean over classes as a line.

    Args:
        values: class -> value, a fraction.
        path: a .png, .svg or .pdf file.
        metric: name of the value axis.
        title: a line above the axes.

    Raises:
        ValueError: if there is no class.
    """
    if not values:
        raise ValueError("values is empty: give at least one class with its value.")
    ranked = sorted(values.items(), key=lambda item: (item[1], item[0]))  # the last bar is drawn on top
    names, heights = [name for name, _ in ranked], [value for _, value in ranked]
    mean = float(np.mean(heights))
    figure, axes = _figure(6.0, 1.1 + 0.24 * len(ranked), title)
    axes.axvline(mean, color=PALETTE[1], linewidth=1.2, linestyle="--", zorder=0)
    bars = axes.barh(names, heights, color=PALETTE[0], height=0.72)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.bar_label(bars, fmt="%.3f", padding=4, fontsize=8, color=MUTED, bbox=paper)
    label = f"{metric} (dashed: mean over classes, {mean:.3f})"
    axes.set(xlim=(0, max(1.0, max(heights)) * 1.08), ylim=(-0.6, len(ranked) - 0.4), xlabel=label)
    axes.tick_params(axis="y", length=0)
    return _save_figure(figure, path)


def method_runs(
    values: Mapping[str, Mapping[str, Sequence[float]]], path: PathLike, *, metric: str, title: str = ""
) -> Path:
    """Save a chart with one line of dots per method: every run is a dot, coloured by fold, and a bar is the mean.

    Args:
        values: method -> fold -> the value of every seed, fractions; the first method stands at the top.
        path: a .png, .svg or .pdf file.
        metric: name of the value axis.
        title: a line above the axes.

    Raises:
        ValueError: if there is no method.
    """
    if not values:
        raise ValueError("values is empty: give at least one method with its runs.")
    names = list(values)[::-1]
    figure, axes = _figure(6.0, 1.0 + 0.42 * len(names), title)
    for height, name in enumerate(names):
        for number, (fold, runs) in enumerate(values[name].items()):
            label = f"fold {fold}" if height == 0 else None
            spread = height + 0.14 * (number - (len(values[name]) - 1) / 2)
            axes.scatter(runs, [spread] * len(runs), s=18, color=PALETTE[number % len(PALETTE)], label=label)
        mean = float(np.mean([value for runs in values[name].values() for value in runs]))
        axes.plot([mean, mean], [height - 0.32, height + 0.32], color=INK, linewidth=1.6)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(-0.6, len(names) - 0.4), xlabel=f"{metric} (bar: mean over runs)")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save_figure(figure, path)


def metric_over_steps(
    values: Mapping[str, Mapping[int, float]], path: PathLike, *, metric: str, title: str = ""
) -> Path:
    """Save a chart of a metric over the length of training, one line per name, steps on a logarithmic axis.

    Args:
        values: name -> steps -> value, a fraction.
        path: a .png, .svg or .pdf file.
        metric: name of the value axis.
        title: a line above the axes.

    Raises:
        ValueError: if there is no name, or one without a value.
    """
    if not values or not all(values.values()):
        raise ValueError("values is empty: give every name at least one number of steps with its value.")
    figure, axes = _figure(6.0, 3.6, title)
    for index, (name, points) in enumerate(values.items()):
        steps = sorted(points)
        color = PALETTE[index % len(PALETTE)]
        axes.plot(steps, [points[step] for step in steps], "o-", color=color, linewidth=2, label=name)
    ticks = sorted({step for points in values.values() for step in points})
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(ticks, [f"{step:,}" for step in ticks])
    axes.set(xlabel="Training steps, each run with a schedule of its own", ylabel=metric)
    axes.grid(color=LINE, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    return _save_figure(figure, path)


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    return figure, axes


def _save_figure(figure: Figure, path: PathLike) -> Path:
    """Write a figure, without a date and random ids, so that the same values give the same file."""
    undated: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    check_picture(path, tuple(undated))
    kind = picture_kind(path)
    with written_whole(Path(path)) as partial, matplotlib.rc_context({"svg.hashsalt": "splip"}):
        figure.savefig(partial, format=kind, dpi=150, metadata=undated[kind])
    return Path(path)
