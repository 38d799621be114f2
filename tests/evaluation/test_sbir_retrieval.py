"""The `evaluate` module: loaded from its folder, fed in batches, equal to the functions that it wraps."""

import doctest
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from modeling_splip.metrics.by_class import metrics_from_scores, retrieval_metrics
from modeling_splip.metrics.inputs import unit_norm

FOLDER = str(Path(__file__).resolve().parents[2] / "modeling_splip" / "evaluation" / "sbir_retrieval")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Keep the copied module and the rows out of the user's cache."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        yield


def flat(result):
    return result["metrics"] | {key: value for key, value in result.items() if key != "metrics"}


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 8)).astype(np.float32)
    return rows, rng.integers(0, 3, 60), np.where(np.arange(60) % 3 == 0, "sketch", "photo")


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_embeddings_in_mixed_batches(rows, kind):
    embeddings, labels, modalities = rows
    if kind == "strings":
        labels = np.array(["bat", "cow", "owl"])[labels]
    metric = evaluate.load(FOLDER)
    for start in range(0, 60, 7):
        batch = slice(start, start + 7)
        given = torch.from_numpy(embeddings[batch]) if start % 2 else embeddings[batch]
        metric.add_batch(predictions=given, references=labels[batch], modalities=modalities[batch])
    unit, sketch = unit_norm(embeddings), modalities == "sketch"
    options = {"ks": (5,), "acc_ks": (1,), "gallery_copies": np.arange(40) % 3}
    expected = retrieval_metrics(unit[sketch], unit[~sketch], labels[sketch], labels[~sketch], **options)
    assert metric.compute(**options) == flat(expected)
    assert expected["n_query"] == 20


def test_dot_products_on_request(rows):
    embeddings, labels, modalities = rows
    sketch = modalities == "sketch"
    given = {"predictions": embeddings, "references": labels, "modalities": modalities}
    result = evaluate.load(FOLDER, "embeddings").compute(**given, normalize=False)
    assert result == flat(retrieval_metrics(embeddings[sketch], embeddings[~sketch], labels[sketch], labels[~sketch]))
    assert result != evaluate.load(FOLDER).compute(**given)


def test_scores_keep_their_precision():
    scores = np.random.default_rng(1).standard_normal((20, 30))
    scores[:, 1] = scores[:, 0] + 1e-12  # equal in single precision
    query_labels, gallery_labels = np.arange(20) % 2, np.arange(30) % 2
    metric = evaluate.load(FOLDER, "scores")
    for start in (0, 10):
        metric.add_batch(predictions=scores[start : start + 10], references=query_labels[start : start + 10])
    result = metric.compute(gallery_labels=gallery_labels)
    assert result == flat(metrics_from_scores(scores, query_labels, gallery_labels))
    assert result["ties"]["mixed"] == 0


def test_bad_input():
    with pytest.raises(ValueError, match="gallery_labels is missing"):
        evaluate.load(FOLDER, "scores").compute(predictions=[[1.0, 2.0]], references=[0])
    half = np.ones((1, 2), np.float16)
    for scores in (half, list(half)):
        with pytest.raises(ValueError, match="scores are in half precision"):
            evaluate.load(FOLDER, "scores").compute(predictions=scores, references=[0], gallery_labels=[0, 1])
    with pytest.raises(ValueError, match="scores are in half precision"):
        evaluate.load(FOLDER, "scores").add(prediction=half[0], reference=0)
    with pytest.raises(ValueError, match="rows of 2 and of 3 values"):
        pair = {"references": [0, 0], "modalities": ["sketch", "photo"]}
        evaluate.load(FOLDER).compute(predictions=[[1.0, 2.0], [1.0, 2.0, 3.0]], **pair)
    with pytest.raises(ValueError, match="modalities holds 'image'"):
        evaluate.load(FOLDER).compute(predictions=[[1.0, 2.0]], references=[0], modalities=["image"])
    with pytest.raises(ValueError, match="gallery has shape"):
        evaluate.load(FOLDER).compute(predictions=[[1.0, 2.0]], references=[0], modalities=["sketch"])
    with pytest.raises(ValueError, match='expected "embeddings" or "scores"'):
        evaluate.load(FOLDER, "pixels")


def test_the_example_in_its_description(monkeypatch):
    monkeypatch.chdir(Path(FOLDER).parents[2])
    text = evaluate.load(FOLDER).inputs_description
    example = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, "example", None, 0)
    assert example.examples and doctest.DocTestRunner().run(example).failed == 0
