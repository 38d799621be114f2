"""Metrics computed by torch: NumPy's numbers, ties and copies included; on a GPU too where there is one."""

import numpy as np
import pytest
import torch

from modeling_splip.evaluation import device_arrays
from modeling_splip.evaluation.device_arrays import TorchArrays, metric_arrays
from modeling_splip.evaluation.evaluate import Sides, measure
from modeling_splip.metrics.arrays import NUMPY
from modeling_splip.metrics.by_class import metrics_from_scores, retrieval_metrics
from modeling_splip.metrics.inputs import unit_norm
from modeling_splip.metrics.ranking import rank_relevant

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
OPTIONS = {"ks": (3, 40), "acc_ks": (1, 5), "per_class": True, "per_query": True, "curve": True}


def sides(levels, classes, photos=300):
    """Embeddings with ties, where there are few levels, and their labels."""
    rng = np.random.default_rng(4)
    draw = rng.standard_normal if levels is None else lambda shape: rng.integers(1, levels, shape)
    query, gallery = draw((70, 12)).astype(np.float32), draw((photos, 12)).astype(np.float32)
    if levels is None:
        query, gallery = unit_norm(query), unit_norm(gallery)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, photos - classes)])
    return query, gallery, rng.integers(0, classes, 70), labels


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("levels", "classes"), [(None, 5), (3, 5), (2, 1), (4, 20)])
def test_torch_gives_numpys_numbers(device, dtype, levels, classes):
    pair = sides(levels, classes)
    copies = np.random.default_rng(1).integers(0, 3, 300)
    copies[:classes] = 1
    for more in ({}, {"gallery_copies": copies}):
        expected = retrieval_metrics(*pair, dtype=dtype, **OPTIONS, **more)
        found = retrieval_metrics(*pair, dtype=dtype, arrays=TorchArrays(device), **OPTIONS, **more)
        assert found["ties"] == expected["ties"]
        assert (found["ties"]["relevant"] > 0) == (levels is not None or bool(more))
        assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-12)
        for name, values in expected["per_query"].items():
            np.testing.assert_allclose(found["per_query"][name], values, rtol=0, atol=1e-12, err_msg=name)
        for label, values in expected["per_class"].items():
            assert found["per_class"][label] == pytest.approx(values, abs=1e-12)
        np.testing.assert_allclose(found["curve"]["precision"], expected["curve"]["precision"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_a_wide_gallery_in_single_precision(device):
    """As wide as real embeddings, every photo twice: products round once, and photos of one score stay tied."""
    rng = np.random.default_rng(0)
    gallery = unit_norm(np.repeat(rng.standard_normal((500, 512)), 2, axis=0)).astype(np.float32)
    query = unit_norm(rng.standard_normal((60, 512))).astype(np.float32)
    labels = rng.integers(0, 7, 60), np.arange(1000) % 7
    scores = (query.astype(np.float64) @ gallery.astype(np.float64).T).astype(np.float32)
    expected = metrics_from_scores(scores, *labels)
    found = retrieval_metrics(query, gallery, *labels, arrays=TorchArrays(device))
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-12) and found["ties"] == expected["ties"]
    assert retrieval_metrics(query, gallery, *labels) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_torch_ranks_numpys_scores_of_real_size(device):
    """A tenth of Sketchy's second split, as wide: with sums in float32 some neighbours change places."""
    rng = np.random.default_rng(0)
    query, gallery = (unit_norm(rng.standard_normal((n, 512), np.float32)) for n in (1269, 1045))
    labels = rng.integers(0, 21, len(query)), np.arange(len(gallery)) % 21
    expected = retrieval_metrics(query, gallery, *labels, per_query=True)
    found = retrieval_metrics(query, gallery, *labels, per_query=True, arrays=TorchArrays(device))
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-12) and found["ties"] == expected["ties"]
    for name, values in expected["per_query"].items():
        np.testing.assert_allclose(found["per_query"][name], values, rtol=0, atol=1e-12, err_msg=name)


def test_products_are_not_less_precise_where_torch_may_make_them_so():
    query, gallery, *labels = sides(None, 5)
    expected = retrieval_metrics(query, gallery, *labels)["metrics"]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = retrieval_metrics(query, gallery, *labels, arrays=TorchArrays("cpu"))["metrics"]
        assert found == pytest.approx(expected, abs=1e-12)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("column", [1, 4], ids=["relevant", "irrelevant"])
def test_broken_scores_are_refused(column):
    scores = torch.arange(12.0).reshape(2, 6)
    scores[1, column] = float("nan")
    with pytest.raises(ValueError, match=r"scores hold NaN, which has no rank"):
        rank_relevant(scores, 0, 3, TorchArrays("cpu"))


def test_measure_uses_the_device(monkeypatch):
    assert (metric_arrays() is NUMPY) != torch.cuda.is_available()
    query, gallery, *labels = sides(3, 5)
    both = Sides("zs", query, gallery, *labels)
    expected, used = measure(both), []

    class Watched(TorchArrays):
        def product(self, *args):
            used.append(1)
            return super().product(*args)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_arrays, "TorchArrays", lambda device: Watched("cpu" if device == "cuda" else device))
    assert measure(both)["metrics"] == pytest.approx(expected["metrics"], abs=1e-12) and used
