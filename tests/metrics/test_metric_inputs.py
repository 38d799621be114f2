"""What the metrics refuse, in one sentence each, and what they raise to single precision."""

import numpy as np
import pytest
import torch

from modeling_splip.metrics.by_class import metrics_from_scores, retrieval_metrics

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
        ({"ks": (0,)}, "expected a list of integers from 1 on"),
        ({"ks": 5}, "ks is 5: expected a list"),
        ({"gallery_labels": np.array([0, 1, 1, 2**63], np.uint64)}, "gallery_labels holds 9223372036854775808"),
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
        (np.ones((2, 4), complex), "scores hold complex128 values"),
        ([np.ones((1, 4))], "1 rows for 2 queries"),
    ],
)
def test_bad_scores_get_one_sentence(scores, sentence):
    with pytest.raises(ValueError, match=sentence):
        metrics_from_scores(scores, [0, 1], [0, 1, 1, 0])


def test_large_integers_of_two_kinds_are_told_apart():
    close = 2**60 + np.arange(2)  # one number as float64
    labels = close[[0, 1, 1, 0]].astype(np.uint64)
    gallery = np.array([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    assert retrieval_metrics(np.eye(2), gallery, close, labels)["metrics"]["map_all"] == 1
    with pytest.raises(ValueError, match="2 of 2 queries have no relevant photo"):
        retrieval_metrics(np.eye(2), gallery, close + 2, labels)


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
