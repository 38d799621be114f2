"""The metrics against a plain per-query loop, scikit-learn, hand-made cases and the definitions of published code."""

import json
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from modeling_splip import metric_ranking
from modeling_splip.metrics import instance_accuracy, metrics_from_scores, retrieval_metrics, unit_norm

ROOT = Path(__file__).resolve().parents[1]
KS, ACC_KS = (3, 10, 40), (1, 5)


def draw(seed, n_query=23, n_gallery=60, n_classes=4, levels=None):
    """Random scores and labels; few levels make many ties."""
    rng = np.random.default_rng(seed)
    shape = (n_query, n_gallery)
    scores = rng.standard_normal(shape) if levels is None else rng.integers(0, levels, shape).astype(float)
    gallery_labels = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n_gallery - n_classes)])
    return scores, rng.integers(0, n_classes, n_query), rng.permutation(gallery_labels)


def interpolate(precisions):
    return [max(precisions[i:]) for i in range(len(precisions))]


def plain_query(scores, relevant, ks=KS, acc_ks=ACC_KS):
    """Every metric of one query, written to be read: the reference for the fast path."""
    total = int(sum(relevant))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], relevant[i]))  # irrelevant first among equals
    hits = [bool(relevant[i]) for i in order]
    grouped = []
    for i in order:
        if relevant[i]:
            above = [j for j in range(len(scores)) if scores[j] >= scores[i]]
            grouped.append(sum(relevant[j] for j in above) / len(above))
    values = {"map_all": sum(grouped) / total, "map_all_voc": sum(interpolate(grouped)) / total}
    for k in ks:
        top = hits[:k]
        precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(top) if hit]
        for suffix, summed in (("", sum(precisions)), ("_voc", sum(interpolate(precisions)))):
            values[f"map_{k}_prefix{suffix}"] = summed / max(sum(top), 1)
            values[f"map_{k}_min{suffix}"] = summed / min(total, k)
            values[f"map_{k}_all{suffix}"] = summed / total
        values[f"p_{k}"] = sum(top) / k
        values[f"p_{k}_min"] = sum(top) / min(total, k)
        values[f"p_{k}_cut"] = sum(hits[: min(total, k)]) / min(total, k)
        values[f"recall_{k}"] = sum(top) / total
    return values | {f"acc_{k}": float(any(hits[:k])) for k in acc_ks}


def plain(scores, query_labels, gallery_labels, **options):
    rows = [plain_query(s, gallery_labels == label, **options) for s, label in zip(scores, query_labels, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def measure_one(ranking, ks, absent=0):
    """Measure one query whose gallery, best first, is written as hits "1" and misses "0"; `absent` more hits follow."""
    ranking += "0" * 300 + "1" * absent
    labels = ["cat" if hit == "1" else "dog" for hit in ranking]
    scores = -np.arange(len(ranking), dtype=float)[None]
    return metrics_from_scores(scores, ["cat"], labels, ks=ks)["metrics"]


@pytest.mark.parametrize("levels", [None, 50, 4, 1])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_loop(seed, levels):
    scores, query_labels, gallery_labels = draw(seed, levels=levels, n_classes=1 + 2 * seed)
    expected = plain(scores, query_labels, gallery_labels)
    result = metrics_from_scores(scores, query_labels, gallery_labels, ks=KS, acc_ks=ACC_KS, per_query=True)
    assert result["per_query"].keys() == result["metrics"].keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(result["per_query"][name], values, rtol=0, atol=1e-14, err_msg=name)
        assert result["metrics"][name] == pytest.approx(values.mean(), abs=1e-14), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [2, 5, None])
def test_map_all_is_scikit_learns(dtype, levels):
    rng = np.random.default_rng(5)
    shape = (40 + 500, 16)
    rows = rng.standard_normal(shape) if levels is None else rng.integers(0, levels, shape)
    query, gallery = rows[:40].astype(dtype), rows[40:].astype(dtype)
    query_labels, gallery_labels = rng.integers(0, 6, 40), rng.integers(0, 6, 500)
    result = retrieval_metrics(query, gallery, query_labels, gallery_labels, dtype=dtype, per_query=True)
    scores = np.stack([query[i] @ gallery.T for i in range(40)]) if levels else query @ gallery.T
    expected = [average_precision_score(gallery_labels == y, s) for y, s in zip(query_labels, scores, strict=True)]
    tolerance = 1e-12 if dtype is np.float64 or levels else 1e-6  # float32 products round with the blocking
    np.testing.assert_allclose(result["per_query"]["map_all"], expected, rtol=0, atol=tolerance)
    assert (result["ties"]["mixed"] > 100) == (levels is not None)


def test_hand_made_ranking():
    # Hits at ranks 1, 3, 4, and three more below every cut-off: precisions there 1, 2/3, 3/4.
    values = measure_one("1011", ks=(4, 2), absent=3)
    summed = 1 + Fraction(2, 3) + Fraction(3, 4)
    interpolated = 1 + Fraction(3, 4) + Fraction(3, 4)
    assert values["map_4_prefix"] == pytest.approx(float(summed / 3))
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
        scores, query_labels, gallery_labels = draw(11, n_query=60, n_gallery=200, n_classes=9)
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


def test_ties_are_grouped_over_the_ranking_and_pessimistic_at_k():
    # Best first: a miss, then a hit and a miss with one score, then two hits with one score.
    scores, labels = np.array([[5.0, 4.0, 4.0, 3.0, 3.0]]), [0, 1, 0, 1, 1]
    result = metrics_from_scores(scores, [1], labels, ks=(2, 3, 4))
    values = result["metrics"]
    assert values["map_all"] == pytest.approx((1 / 3 + 3 / 5 + 3 / 5) / 3)
    assert (values["p_2"], values["p_3"], values["p_4"]) == (0.0, pytest.approx(1 / 3), 0.5)
    assert values["map_4_prefix"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert values["acc_1"] == 0.0
    assert result["ties"] == {"queries": 1, "mixed": 1, "relevant": 2}


def test_no_number_depends_on_the_order_of_the_files():
    scores, query_labels, gallery_labels = draw(3, levels=3)
    rows, columns = np.random.default_rng(0).permutation(23), np.random.default_rng(1).permutation(60)
    options = {"ks": KS, "per_class": True, "curve": True}
    expected = metrics_from_scores(scores, query_labels, gallery_labels, **options)
    moved = metrics_from_scores(scores[rows][:, columns], query_labels[rows], gallery_labels[columns], **options)
    assert moved["ties"] == expected["ties"]
    assert moved["metrics"] == pytest.approx(expected["metrics"], abs=1e-15)
    for label, values in expected["per_class"].items():
        assert moved["per_class"][label] == pytest.approx(values, abs=1e-15)
    assert moved["curve"]["precision"] == pytest.approx(expected["curve"]["precision"], abs=1e-15)


@pytest.mark.parametrize("low", [1, 0])
def test_copies_count_as_repeated_rows(low):
    rng = np.random.default_rng(8)
    query, gallery = rng.integers(-3, 4, (30, 6)), rng.integers(-3, 4, (80, 6))  # exact products, many ties
    query_labels, gallery_labels = rng.integers(0, 4, 30), rng.integers(0, 4, 80)
    copies = rng.integers(low, 4, 80)
    repeated = np.repeat(np.arange(80), copies)
    options = {"ks": KS, "per_query": False, "per_class": True, "curve": True}
    expected = retrieval_metrics(query, gallery[repeated], query_labels, gallery_labels[repeated], **options)
    assert retrieval_metrics(query, gallery, query_labels, gallery_labels, gallery_copies=copies, **options) == expected
    scores = query @ gallery.T
    assert metrics_from_scores(scores, query_labels, gallery_labels, gallery_copies=copies, **options) == expected
    assert expected["n_gallery"] == copies.sum()
    assert expected["metrics"] != retrieval_metrics(query, gallery, query_labels, gallery_labels, ks=KS)["metrics"]


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(9)
    query, gallery = rng.integers(-3, 4, (90, 6)), rng.integers(-3, 4, (70, 6))
    query_labels, gallery_labels = rng.integers(0, 5, 90), rng.integers(0, 5, 70)
    scores = (query @ gallery.T).astype(float)
    kept = scores.copy()
    options = {"ks": KS, "per_class": True, "curve": True}
    expected = retrieval_metrics(query, gallery, query_labels, gallery_labels, **options)
    monkeypatch.setattr(metric_ranking, "BLOCK_BYTES", 1)  # 8 rows at a time
    seen = []
    small = retrieval_metrics(
        query,
        gallery,
        query_labels,
        gallery_labels,
        progress=lambda blocks: seen.append(len(blocks)) or blocks,
        **options,
    )
    blocks = (scores[start : start + 13] for start in range(0, 90, 13))
    assert seen == [12]
    for result in (small, metrics_from_scores(blocks, query_labels, gallery_labels, **options)):
        assert result["metrics"] == expected["metrics"] and result["ties"] == expected["ties"]
        assert result["curve"]["precision"] == pytest.approx(expected["curve"]["precision"], abs=1e-15)
    assert (
        metrics_from_scores(torch.from_numpy(scores), query_labels, gallery_labels, ks=KS)["ties"] == expected["ties"]
    )
    np.testing.assert_array_equal(scores, kept)


def test_memory_is_flat():
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((2000, 8), np.float32), rng.standard_normal((20000, 8), np.float32)
    query_labels, gallery_labels = rng.integers(0, 40, 2000), rng.integers(0, 40, 20000)
    tracemalloc.start()
    try:
        retrieval_metrics(query, gallery, query_labels, gallery_labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # the matrix of scores alone would be 160 MB


def test_half_precision_embeddings_are_ranked_in_single():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(20, 32, generator=generator, requires_grad=True)
    gallery = torch.randn(100, 32, generator=generator)
    query_labels, gallery_labels = torch.arange(20) % 3, torch.arange(100) % 3
    for half in (torch.float16, torch.bfloat16):
        low, low_gallery = query.to(half), gallery.to(half)
        result = retrieval_metrics(low, low_gallery, query_labels, gallery_labels)
        raised = retrieval_metrics(low.float(), low_gallery.float(), query_labels, gallery_labels)
        assert result == raised
        scores = low.detach() @ low_gallery.T
        with pytest.raises(ValueError, match="half precision"):
            metrics_from_scores(scores, query_labels, gallery_labels)
    with pytest.raises(ValueError, match="half precision"):
        metrics_from_scores(np.ones((20, 100), np.float16), query_labels, gallery_labels)
    with pytest.raises(ValueError, match="float32 or float64"):
        retrieval_metrics(query, gallery, query_labels, gallery_labels, dtype=np.float16)


def test_queries_without_a_relevant_photo():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    query_labels, gallery_labels = ["cat", "eel", "dog"], ["cat", "dog", "cat"]
    with pytest.raises(ValueError, match=r"1 of 3 queries have no relevant photo in the gallery \(label 'eel'\)"):
        metrics_from_scores(scores, query_labels, gallery_labels)
    result = metrics_from_scores(
        scores, query_labels, gallery_labels, missing="exclude", per_query=True, per_class=True
    )
    assert (result["n_query"], result["n_excluded"], result["n_classes"]) == (2, 1, 2)
    assert np.isnan(result["per_query"]["map_all"]).tolist() == [False, True, False]
    assert result["metrics"]["map_all"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)
    assert set(result["per_class"]) == {"cat", "dog"}
    with pytest.raises(ValueError, match="spell each label alike"):
        metrics_from_scores(scores, ["a", "b", "c"], gallery_labels, missing="exclude")


def test_per_class_and_curve():
    scores, query_labels, gallery_labels = draw(21, n_query=40, n_gallery=90)
    names = np.array(["bat", "cow", "elk", "owl"])
    result = metrics_from_scores(
        scores, names[query_labels], names[gallery_labels], ks=KS, acc_ks=ACC_KS, per_class=True, curve=True
    )
    expected = plain(scores, query_labels, gallery_labels)
    for label, name in enumerate(names):
        for metric, values in expected.items():
            assert result["per_class"][name][metric] == pytest.approx(values[query_labels == label].mean(), abs=1e-14)
    curves = []
    for row, label in zip(scores, query_labels, strict=True):
        found = np.cumsum((gallery_labels == label)[np.argsort(-row)])
        precision, recall = found / np.arange(1, 91), found / found[-1]
        curves.append([precision[recall >= level - 1e-9].max() for level in result["curve"]["recall"]])
    np.testing.assert_allclose(result["curve"]["precision"], np.mean(curves, axis=0), atol=1e-14)
    assert result["curve"]["recall"][::50] == [0.0, 0.5, 1.0]


class TestInstances:
    """Two classes; photos a1 a2 b1 b2; similarity to a query is its own vector."""

    gallery = np.eye(4, dtype=np.float32)
    instances, labels = ["a1", "a2", "b1", "b2"], ["a", "a", "b", "b"]

    def test_pooled_and_per_class_galleries_differ(self):
        query = np.array([[0.5, 0.1, 0.9, 0.8], [0.2, 0.3, 0.1, 0.9]])  # a1 is third, b1 is last; in class: first, last
        pooled = instance_accuracy(query, self.gallery, ["a1", "b1"], self.instances, ks=(1, 3), per_query=True)
        assert pooled["per_query"]["rank"].tolist() == [3, 4]
        assert pooled["metrics"] == {"acc_1": 0.0, "acc_3": 0.5, "mrr": pytest.approx((1 / 3 + 1 / 4) / 2)}
        inside = instance_accuracy(
            query, self.gallery, ["a1", "b1"], self.instances, ["a", "b"], self.labels, ks=(1, 2)
        )
        assert inside["metrics"] == {"acc_1": 0.5, "acc_2": 1.0, "mrr": 0.75}
        assert (inside["n_query"], inside["n_gallery"], inside["n_excluded"]) == (2, 4, 0)

    def test_an_id_of_another_class_is_another_photo(self):
        query = np.array([[0.1, 0.2, 0.9, 0.8]])
        instances = ["1", "2", "1", "2"]  # numbered anew in every class
        result = instance_accuracy(query, self.gallery, ["1"], instances, ["a"], self.labels, ks=(1, 2))
        assert result["metrics"] == {"acc_1": 0.0, "acc_2": 1.0, "mrr": 0.5}

    def test_ties_are_pessimistic_and_counted(self):
        result = instance_accuracy(np.ones((1, 4)), self.gallery, ["b1"], self.instances)
        assert result["metrics"]["acc_1"] == 0.0 and result["metrics"]["acc_5"] == 1.0
        assert result["ties"] == {"mixed": 1}

    def test_several_photos_of_one_instance_count_once(self):
        result = instance_accuracy(np.array([[0.1, 0.9, 0.8, 0.0]]), self.gallery, ["x"], ["y", "x", "x", "z"], ks=(1,))
        assert result["metrics"] == {"acc_1": 1.0, "mrr": 1.0}

    def test_sketches_without_their_photo(self):
        query = np.eye(4)[[0, 1, 2]]
        instances = ["a1", "", "c9"]
        with pytest.raises(ValueError, match=r"2 of 3 queries have no relevant photo .*instance '', 'c9'"):
            instance_accuracy(query, self.gallery, instances, self.instances)
        gallery_instances = ["a1", "", "b1", "b2"]  # an unknown sketch is not a sketch of an unknown photo
        result = instance_accuracy(
            query, self.gallery, instances, gallery_instances, ks=(1,), missing="exclude", per_query=True
        )
        assert (result["n_query"], result["n_excluded"], result["metrics"]["acc_1"]) == (1, 2, 1.0)
        assert np.isnan(result["per_query"]["acc_1"]).tolist() == [False, True, True]

    def test_equals_the_plain_loop(self, monkeypatch):
        monkeypatch.setattr(metric_ranking, "BLOCK_BYTES", 1)
        rng = np.random.default_rng(4)
        query, gallery = rng.integers(-2, 3, (50, 5)), rng.integers(-2, 3, (40, 5))
        labels, own = np.arange(40) % 3, rng.integers(0, 40, 50)
        scores = query @ gallery.T
        for same in (np.ones((50, 40), bool), labels[own][:, None] == labels):
            given = {} if same.all() else {"query_labels": labels[own], "gallery_labels": labels}
            result = instance_accuracy(query, gallery, own, np.arange(40), **given, per_query=True)
            rank = [sum(same[i] & (scores[i] >= scores[i, own[i]])) for i in range(50)]
            assert result["per_query"]["rank"].tolist() == rank
            assert result["metrics"]["acc_5"] == np.mean(np.array(rank) <= 5)

    def test_labels_go_together(self):
        with pytest.raises(ValueError, match="go together"):
            instance_accuracy(np.eye(4), self.gallery, self.instances, self.instances, query_labels=self.labels)


def test_unit_norm():
    rows = unit_norm(np.array([[3.0, 4.0], [0.0, 2.0]], np.float16))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    assert rows.dtype == np.float32
    with pytest.raises(ValueError, match="sketches has 1 zero rows"):
        unit_norm([[1.0, 0.0], [0.0, 0.0]], "sketches")


GOOD = {"query": np.ones((2, 3)), "gallery": np.ones((4, 3)), "query_labels": [0, 1], "gallery_labels": [0, 1, 1, 0]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"query": np.array([[1, 2, 3], [1, np.nan, 3]])}, "query holds NaN or infinite values, first in row 1"),
        ({"gallery": np.full((4, 3), np.inf)}, "gallery holds NaN or infinite values, first in row 0"),
        ({"gallery": np.ones((4, 2))}, "query has 3 dimensions and gallery 2"),
        ({"gallery": np.ones((0, 3)), "gallery_labels": []}, r"gallery has shape \(0, 3\)"),
        ({"query": np.ones(3)}, r"query has shape \(3,\)"),
        ({"query": np.ones((2, 3), complex)}, "query holds complex128 values"),
        ({"query_labels": [0]}, "query_labels has 1 entries for 2 rows of query"),
        ({"gallery_labels": [0, 1]}, "gallery_labels has 2 entries for 4 rows of gallery"),
        ({"gallery_labels": [0.0, 1.0, 1.0, 0.0]}, "expected a list of integers or strings"),
        ({"query_labels": ["0", "1"]}, "both be integers or both be strings"),
        ({"gallery_copies": [1, 2, 3]}, "gallery_copies must be 4 integers >= 0"),
        ({"gallery_copies": [1, -1, 1, 1]}, "gallery_copies must be 4 integers >= 0"),
        ({"gallery_copies": [0, 0, 0, 0]}, "leaves the gallery empty"),
        ({"ks": (0,)}, "expected integers from 1 on"),
        ({"missing": "drop"}, 'expected "error" or "exclude"'),
    ],
)
def test_bad_input_gets_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        retrieval_metrics(**(GOOD | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        (np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]]), "scores hold NaN"),
        (np.ones((2, 3)), r"expected \(queries, 4\)"),
        (np.ones((3, 4)), "more than 2 queries"),
        ([np.ones((1, 4))], "1 rows for 2 queries"),
    ],
)
def test_bad_scores_get_one_sentence(scores, sentence):
    with pytest.raises(ValueError, match=sentence):
        metrics_from_scores(scores, [0, 1], [0, 1, 1, 0])


def test_infinite_scores_are_ranks_like_others():
    scores = np.array([[np.inf, -np.inf, 0.0, -np.inf]])
    result = metrics_from_scores(scores, [1], [0, 1, 1, 0], ks=(2,))
    assert result["metrics"]["map_all"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result["ties"]["mixed"] == 1


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
