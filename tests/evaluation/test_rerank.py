"""The relation network ranks the first results again, and only those."""

import numpy as np
import pytest
from method_models import build

from modeling_splip.commands.main import main
from modeling_splip.data.protocols import protocol_view
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.evaluate import embed_view, evaluate_model, measure
from modeling_splip.loading import load_retriever
from modeling_splip.processing_splip import SplipProcessor


@pytest.fixture(scope="module")
def embedder(tiny_clip, polygons) -> Embedder:
    return Embedder(build("cross_align", {}, tiny_clip), SplipProcessor.from_clip(tiny_clip), polygons, batch_size=16)


def relation_of(embedder, view, row: int, photo: int) -> float:
    """The relation of one pair, each image passed alone."""
    model, processor = embedder.model, embedder.processor
    images = [
        getattr(embedder.dataset, part[0].split)[int(part[0].rows[index])]["image"]
        for part, index in ((view.query, row), (view.gallery, photo))
    ]
    tokens = []
    for image, modality in zip(images, ("sketch", "photo"), strict=True):
        output = model(processor(images=[image], modality=modality)["pixel_values"], modality)
        tokens.append(model.shared_tokens(output.tokens, modality)[:, 1:])
    return float(model.relation(*tokens).detach())


def test_the_first_k_are_ranked_by_relation_and_the_others_stay(embedder, polygons):
    view = protocol_view(polygons, "zs")
    sides = embed_view(embedder, view, rerank=5)
    plain = sides.query @ sides.gallery.T
    for row in range(0, len(plain), 7):
        order, again = np.argsort(-plain[row]), np.argsort(-sides.scores[row])
        assert set(again[:5]) == set(order[:5]) and again[5:].tolist() == order[5:].tolist()
        for photo in again[:5]:
            assert sides.scores[row, photo] == pytest.approx(1 + relation_of(embedder, view, row, photo), abs=2e-3)
    assert sides.scores.max(axis=1).min() > 1


@pytest.mark.parametrize("protocol", ["fg-class", "fg-pooled"])
def test_fine_grained_accuracy_of_given_scores(embedder, polygons, protocol):
    """Scores that are the cosines themselves give what embeddings give."""
    sides = embed_view(embedder, protocol_view(polygons, protocol))
    expected = measure(sides, per_query=True)
    found = measure(sides._replace(scores=sides.query @ sides.gallery.T), per_query=True)
    assert found["metrics"] == expected["metrics"] and found["ties"] == expected["ties"]
    assert np.array_equal(found["per_query"]["rank"], expected["per_query"]["rank"])


def test_reranking_within_the_first_k_leaves_what_is_counted_at_k(embedder):
    plain, again = (evaluate_model(embedder, ["zs"], "cross_align", rerank=k)[0].record for k in (0, 10))
    assert again["metrics"]["acc_10"] == plain["metrics"]["acc_10"]
    assert again["metrics"]["map_all"] != plain["metrics"]["map_all"]
    assert again["method"] == "cross_align + rerank 10"


def test_other_models_cannot(tiny_clip, prepared, polygons, capsys):
    with pytest.raises(ValueError, match=r"--rerank needs a model with a relation network \(cross_align\), got"):
        evaluate_model(Embedder(*load_retriever(f"clip:{tiny_clip}"), polygons), ["zs"], "clip", rerank=3)
    assert main(["evaluate", "--model", f"clip:{tiny_clip}", "--dataset", str(prepared), "--rerank", "-1"]) != 0
    assert "--rerank must be at least 0, got -1" in capsys.readouterr().err


def test_in_the_class_the_first_k_are_of_the_class(embedder, polygons):
    sides = embed_view(embedder, protocol_view(polygons, "fg-class"), rerank=3)
    again = sides.scores > 1
    assert (again.sum(axis=1) == 3).all()
    assert (sides.query_labels[:, None] == sides.gallery_labels)[again].all()
