"""The comparison on real pictures is fair: every recipe has the same data, length, batch and start."""

import argparse

import numpy as np
import pytest

from benchmarks import ablation, choose_real, compare_real
from benchmarks.world_runs import Run, gain, hub_scores, summary
from modeling_splip.training.arguments import load_recipe, parse_arguments

SAME = ("base", "epochs", "max_steps", "batch_size", "schedule", "warmup_steps", "mixed_precision")
ARGS = argparse.Namespace(data="data", folds=["0", "1", "2"], seeds=[0, 1], steps=None, quick=False)


def all_runs() -> list[Run]:
    return [
        run
        for name in compare_real.VARIANTS
        for level in compare_real.REAL_LEVELS
        for fold in ARGS.folds
        for run in compare_real.runs_of(name, level, fold, ARGS)
    ]


def test_recipes_differ_in_method_alone():
    recipes = {run.recipe: load_recipe(run.recipe) for run in all_runs() if not isinstance(run.variant, str)}
    for level in ("category", "fine_grained"):
        own = [values for values in recipes.values() if values.get("level", "category") == level]
        assert len(own) >= 3
        assert len({tuple(values.get(key) for key in SAME) for values in own}) == 1


def test_every_variant_is_what_the_trainer_takes():
    runs = all_runs() + [
        run
        for flags in ablation.PARTS["sensitivity"].values()
        for run in ablation.real_runs(ARGS, "sensitivity", flags)
    ]
    choices = [flags for part in choose_real.PARTS.values() for flags in part.values()]
    runs += [Run.of("data", 0, "category", flags, steps=None, data="sketchy21") for flags in choices]
    for run in runs:
        if not isinstance(run.variant, str):
            flags = {name: value for name, value in run.variant if name not in ("method", "recipe")}
            words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
            parse_arguments(["--recipe", run.recipe, "--dataset", "data", *words])


def test_two_seeds_at_category_level_and_every_fold():
    runs = [run for run in all_runs() if run.variant == (("method", "clip_at"),)]
    category = [run for run in runs if run.level == "category"]
    assert {(run.fold, run.seed) for run in category} == {(f"data/sketchy21-fold{f}", s) for f in "012" for s in (0, 1)}
    assert [run.seed for run in runs if run.level == "fine_grained"] == [0, 0, 0]
    assert len({run.path for run in runs}) == len(runs)


def test_folds_are_told_by_name_not_by_place():
    def record(fold: str, values: list[float]) -> dict:
        measured = {"metrics": {"map_all": float(np.mean(values))}, "per_query": values}
        return {"fold": f"/somewhere/{fold}", "seed": 0, "protocols": {"zs": measured}}

    own, base = [record("a", [0.5, 0.7]), record("b", [0.2])], [record("a", [0.4, 0.4]), record("b", [0.1])]
    assert summary(own, "zs", "map_all")["by_fold"] == {"a": [0.6], "b": [0.2]}
    assert summary(own, "zs", "map_all")["mean"] == pytest.approx(0.4)
    assert {fold: round(each["mean"], 6) for fold, each in gain(own, base, "zs").items()} == {"a": 0.2, "b": 0.1}


def test_hubs_count_less():
    """A photo that is near to every sketch loses to one that is near to this sketch alone."""
    hub, own = np.array([1.0, 1.0]) / 2**0.5, np.array([0.0, 1.0])
    query, bank = np.array([[0.5, 0.75**0.5]]), np.array([[1.0, 0.0], [0.6, 0.8]])
    gallery = np.stack([hub, own])
    plain, scores = query @ gallery.T, hub_scores(query, gallery, bank)
    assert plain[0, 0] > plain[0, 1] and scores[0, 0] < scores[0, 1]
    expected = float(query[0] @ hub) / np.mean([hub @ bank[0], hub @ bank[1]])
    assert scores[0, 0] == pytest.approx(expected)
