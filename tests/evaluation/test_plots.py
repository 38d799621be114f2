"""Charts show every value that they are given, are the same for the same values, and leave matplotlib as it was."""

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageColor

from modeling_splip.evaluation import plots
from modeling_splip.evaluation.plots import (
    PALETTE,
    method_runs,
    metric_over_steps,
    per_class_bars,
    precision_recall_curve,
)


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def has(image, color):
    """Return whether some pixels are of a colour, or nearly so."""
    return (np.abs(image - ImageColor.getrgb(color)).max(axis=-1) <= 12).any()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_charts_are_repeatable_and_leave_matplotlib_alone(tmp_path, suffix):
    backend = matplotlib.get_backend()
    levels = np.linspace(0, 1, 11)
    for draw in (
        lambda path: precision_recall_curve({"SpLIP": (levels, 1 - levels / 2)}, path, title="Sketchy-2"),
        lambda path: per_class_bars({"bat": 0.25, "cow": 0.75}, path, metric="P@100", title="SpLIP"),
    ):
        first = draw(tmp_path / f"chart.{suffix}").read_bytes()
        assert draw(tmp_path / f"chart.{suffix}").read_bytes() == first and len(first) > 1000
    assert matplotlib.get_backend() == backend


def test_bars_are_sorted_and_name_the_mean(monkeypatch, tmp_path):
    drawn = []
    keep = plots._save_figure
    monkeypatch.setattr(plots, "_save_figure", lambda figure, path: drawn.append(figure) or keep(figure, path))
    per_class_bars({"bat": 0.2, "cow": 0.9, "elk": 0.4}, tmp_path / "bars.png", metric="P@100")
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bat", "elk", "cow"]  # bottom to top
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.4, 0.9]
    assert axes.get_xlabel() == "P@100 (dashed: mean over classes, 0.500)"
    precision_recall_curve({"a": ([0, 1], [1, 0.5]), "b": ([0, 1], [0.5, 0.1])}, tmp_path / "curve.png")
    lines = drawn[1].axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert lines[1].get_ydata().tolist() == [0.5, 0.1]


def test_method_runs_shows_every_run_and_refuses_none(tmp_path):
    one = pixels(method_runs({"frozen CLIP": {"0": [0.3], "1": [0.4]}}, tmp_path / "one.png", metric="mAP@all"))
    two = pixels(
        method_runs({"frozen CLIP": {"0": [0.3]}, "SpLIP": {"0": [0.4, 0.5]}}, tmp_path / "two.png", metric="mAP@all")
    )
    assert has(one, PALETTE[0]) and has(one, PALETTE[1])  # a colour for each fold
    assert two.shape[0] > one.shape[0] and not has(two, PALETTE[1])
    with pytest.raises(ValueError, match="values is empty"):
        method_runs({}, tmp_path / "none.png", metric="mAP@all")
    assert not (tmp_path / "none.png").exists()


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="values is empty"):
        per_class_bars({}, tmp_path / "bars.png")
    with pytest.raises(ValueError, match="2 recalls and 1 precisions"):
        precision_recall_curve({"a": ([0, 1], [1])}, tmp_path / "curve.png")
    with pytest.raises(ValueError, match=r"Cannot write the picture .*bars\.jpg': .* ends in \.png, \.svg, \.pdf\."):
        per_class_bars({"bat": 0.5}, tmp_path / "bars.jpg")
    assert list(tmp_path.iterdir()) == []


def test_metric_over_steps_shows_every_value_and_refuses_none(tmp_path):
    values = {"SpLIP": {30: 0.2, 60: 0.3}, "frozen CLIP": {30: 0.25, 60: 0.25}}
    two = pixels(metric_over_steps(values, tmp_path / "two.png", metric="mAP@all"))
    values["SpLIP"][120] = 0.31
    three = pixels(metric_over_steps(values, tmp_path / "three.png", metric="mAP@all"))
    assert two.shape != three.shape or (two != three).any()
    with pytest.raises(ValueError, match="give every name at least one number of steps"):
        metric_over_steps({"SpLIP": {}}, tmp_path / "none.png", metric="mAP@all")
    assert not (tmp_path / "none.png").exists()
