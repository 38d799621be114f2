"""The metrics against a plain per-query loop and scikit-learn: ties, copies, blocks, memory, classes."""

import tracemalloc

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from modeling_splip.metrics import ranking as metric_ranking
from modeling_splip.metrics.by_class import metrics_from_scores, retrieval_metrics
from modeling_splip.metrics.inputs import unit_norm

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
        before = [sum(hits[:i]) / i if i else 1.0 for i, hit in enumerate(top) if hit]
        values[f"map_{k}_trapezoid"] = (sum(precisions) + sum(before)) / 2 / max(sum(top), 1)
        values[f"p_{k}"] = sum(top) / k
        values[f"p_{k}_min"] = sum(top) / min(total, k)
        values[f"p_{k}_cut"] = sum(hits[: min(total, k)]) / min(total, k)
        values[f"recall_{k}"] = sum(top) / total
    return values | {f"acc_{k}": float(any(hits[:k])) for k in acc_ks}


def plain(scores, query_labels, gallery_labels, **options):
    rows = [plain_query(s, gallery_labels == label, **options) for s, label in zip(scores, query_labels, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


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


def test_unit_norm():
    rows = unit_norm(np.array([[3.0, 4.0], [0.0, 2.0]], np.float16))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 1.0]], rtol=1e-6)
    assert rows.dtype == np.float32
    for scale in (1e30, 1e-30):  # whose squares single precision does not hold
        np.testing.assert_allclose(
            unit_norm(np.array([[3, 4]], np.float32) * np.float32(scale)), [[0.6, 0.8]], rtol=1e-6
        )
    with pytest.raises(ValueError, match="sketches has 1 zero rows"):
        unit_norm([[1.0, 0.0], [0.0, 0.0]], "sketches")


def test_infinite_scores_are_ranks_like_others():
    scores = np.array([[np.inf, -np.inf, 0.0, -np.inf]])
    result = metrics_from_scores(scores, [1], [0, 1, 1, 0], ks=(2,))
    assert result["metrics"]["map_all"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result["ties"]["mixed"] == 1
