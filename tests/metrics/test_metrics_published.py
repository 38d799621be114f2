"""Hand-made rankings, the definitions of published code, and the page that states them (docs/protocol.md)."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from modeling_splip.metrics.by_class import metrics_from_scores

ROOT = Path(__file__).resolve().parents[2]


def measure_one(ranking, ks, absent=0):
    """Measure one query whose gallery, best first, is written as hits "1" and misses "0"; `absent` more hits follow."""
    ranking += "0" * 300 + "1" * absent
    labels = ["cat" if hit == "1" else "dog" for hit in ranking]
    scores = -np.arange(len(ranking), dtype=float)[None]
    return metrics_from_scores(scores, ["cat"], labels, ks=ks)["metrics"]


def test_hand_made_ranking():
    # Hits at ranks 1, 3, 4, and three more below every cut-off: precisions there 1, 2/3, 3/4.
    values = measure_one("1011", ks=(4, 2), absent=3)
    summed = 1 + Fraction(2, 3) + Fraction(3, 4)
    interpolated = 1 + Fraction(3, 4) + Fraction(3, 4)
    assert values["map_4_prefix"] == pytest.approx(float(summed / 3))
    # Before the hits: nothing yet, which counts as 1; 1 of 2; 2 of 3.
    before = 1 + Fraction(1, 2) + Fraction(2, 3)
    assert values["map_4_trapezoid"] == pytest.approx(float((summed + before) / 2 / 3))
    assert values["map_4_min"] == pytest.approx(float(summed / 4))
    assert values["map_4_all"] == pytest.approx(float(summed / 6))
    assert values["map_4_prefix_voc"] == pytest.approx(float(interpolated / 3))
    assert values["map_4_min_voc"] == pytest.approx(float(interpolated / 4))
    assert values["map_4_all_voc"] == pytest.approx(float(interpolated / 6))
    assert (values["p_4"], values["p_4_min"], values["p_4_cut"]) == (0.75, 0.75, 0.75)
    assert (values["recall_4"], values["acc_1"]) == (0.5, 1.0)
    assert (values["map_2_prefix"], values["map_2_min"], values["p_2"]) == (1.0, 0.5, 0.5)


def test_three_precisions_differ_when_few_are_relevant():
    values = measure_one("0101", ks=(4,))  # R = 2, hits at ranks 2 and 4
    assert (values["p_4"], values["p_4_min"], values["p_4_cut"]) == (0.5, 1.0, 0.5)
    values = measure_one("0011", ks=(4,))
    assert (values["p_4"], values["p_4_min"], values["p_4_cut"]) == (0.5, 1.0, 0.0)


class TestPublishedDefinitions:
    """What published code computes, restated plainly on rankings without ties (docs/protocol.md)."""

    K = 20

    @pytest.fixture(scope="class")
    def case(self):
        rng = np.random.default_rng(11)
        query_labels, gallery_labels = rng.integers(0, 9, 60), rng.integers(0, 9, 200)
        scores = rng.standard_normal((60, 200))
        scores += 1.5 * (query_labels[:, None] == gallery_labels)
        hits = [(gallery_labels == label)[np.argsort(-row)] for row, label in zip(scores, query_labels, strict=True)]
        measured = metrics_from_scores(scores, query_labels, gallery_labels, ks=(self.K,))["metrics"]
        assert min(row.sum() for row in hits) < self.K < max(row.sum() for row in hits)
        return hits, scores, query_labels, gallery_labels, measured

    def test_prefix_is_scikit_learn_on_the_truncated_list(self, case):  # sem-pcyc
        _, scores, query_labels, gallery_labels, measured = case
        values = []
        for row, label in zip(scores, query_labels, strict=True):
            top = np.argsort(-row)[: self.K]
            relevant = gallery_labels[top] == label
            values.append(average_precision_score(relevant, row[top]) if relevant.any() else 0.0)
        assert measured[f"map_{self.K}_prefix"] == pytest.approx(np.mean(values), abs=1e-12)

    def test_prefix_is_the_mean_over_retrieved_positions(self, case):  # torchmetrics: ClipPrompt, KD-SBIR
        hits, *_, measured = case
        values = []
        for row in hits:
            positions = torch.arange(1, self.K + 1)[torch.from_numpy(row[: self.K])].double()
            found = torch.arange(1, len(positions) + 1)
            values.append((found / positions).mean().item() if len(positions) else 0.0)
        assert measured[f"map_{self.K}_prefix"] == pytest.approx(np.mean(values), abs=1e-12)

    def test_trapezoid_averages_the_precisions_before_and_at_every_hit(self, case):  # UNION
        hits, *_, measured = case
        values = []
        for row in hits:
            ranks = np.flatnonzero(row[: self.K])  # from 0
            area = 0.0
            for found, rank in enumerate(ranks):
                before = found / rank if rank else 1.0
                area += (before + (found + 1) / (rank + 1)) / 2 / len(ranks)
            values.append(area)
        assert measured[f"map_{self.K}_trapezoid"] == pytest.approx(np.mean(values), abs=1e-12)
        assert measured[f"map_{self.K}_trapezoid"] < measured[f"map_{self.K}_prefix"]

    @pytest.mark.parametrize("top", [None, K])
    def test_min_voc_is_the_area_under_the_interpolated_curve(self, case, top):  # SAKE, ZSE-SBIR, DRCPL, MA-ZS-SBIR
        hits, *_, measured = case
        values = []
        for row in hits:
            total = row.sum() if top is None else min(top, row.sum())
            found = np.cumsum(row[:top])
            recall = np.concatenate([[0], found / total, [1]])
            precision = np.concatenate([found / np.arange(1, len(found) + 1), [0]])
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            values.append(float(np.sum(np.diff(recall) * precision)))
        name = "map_all_voc" if top is None else f"map_{top}_min_voc"
        assert measured[name] == pytest.approx(np.mean(values), abs=1e-12)

    def test_precisions(self, case):
        hits, *_, measured = case
        k = self.K
        assert measured[f"p_{k}"] == pytest.approx(np.mean([row[:k].sum() / k for row in hits]))  # SAKE, sem-pcyc
        assert measured[f"p_{k}_cut"] == pytest.approx(
            np.mean([row[: min(k, row.sum())].mean() for row in hits])
        )  # ZSE
        capped = np.mean([row[:k].sum() / min(k, row.sum()) for row in hits])  # doodle2search's prec
        assert measured[f"p_{k}_min"] == pytest.approx(capped)

    def test_denominators_are_ordered(self, case):
        hits, scores, query_labels, gallery_labels, _ = case
        k = self.K
        values = metrics_from_scores(scores, query_labels, gallery_labels, ks=(k,), per_query=True)["per_query"]
        assert (values[f"map_{k}_prefix"] >= values[f"map_{k}_min"]).all()
        assert (values[f"map_{k}_min"] >= values[f"map_{k}_all"]).all()
        many = np.array([row.sum() >= k for row in hits])
        assert (values[f"map_{k}_min"] <= values[f"p_{k}"] + 1e-15)[many].all()  # tells the definitions apart in tables
        assert (values[f"map_{k}_prefix"] > values[f"p_{k}"])[many].any()

    def test_trap_the_hit_rate_at_rank_201_is_not_precision_at_200(self):  # a line in circulation: hits[:, 200]
        ranking = "1" * 200 + "0" * 50
        assert measure_one(ranking, ks=(200,))["p_200"] == 1.0
        assert int(ranking[200]) == 0


def test_the_protocol_page_quotes_the_result_file():
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    result = json.loads((ROOT / "benchmarks" / "results" / "metrics_speed.json").read_text("utf-8"))["sketchy2"]
    names = ("p_200", "map_200_prefix", "map_200_min", "map_200_min_voc", "map_200_all")
    assert "| " + " | ".join(f"{result['one_ranking'][name]:.3f}" for name in names) + " |" in page
    assert all(str(moved) in page for moved in result["map_all_moved_by"].values())


def test_the_protocol_page_names_every_metric():
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    for name in metrics_from_scores([np.ones((1, 2))], [0], [0, 0], ks=(7,), acc_ks=(7,))["metrics"]:
        stem = name.replace("_7", "_k").removesuffix("_voc")
        assert f"| `{stem}` |" in page, name
