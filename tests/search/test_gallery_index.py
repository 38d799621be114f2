"""Kinds of index and their recall."""

import galleries
import numpy as np
import pytest
from galleries import draw

from modeling_splip.search import compressed_index
from modeling_splip.search import index as gallery_index
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


@pytest.mark.parametrize("kind", gallery_index.KINDS)
def test_every_kind_of_index_finds_the_same(kind, tmp_path, photos, pair, name, gallery):
    other = Gallery.build(photos, *pair, tmp_path / kind, model_name=name, index=kind, progress=False)
    assert other.manifest["index"]["kind"] == kind and other.manifest["index"]["recall"] == 1.0
    for reopened in (other, Gallery.open(tmp_path / kind, pair)):
        for options in ({}, {"where": {"label": "cup"}}, {"collapse": 0.99}):
            wanted = gallery.search(draw(100), 6, **options)
            assert [r.path for r in reopened.search(draw(100), 6, **options)] == [r.path for r in wanted]
        assert [r.row for r in reopened.similar(wanted[0], 4)] == [r.row for r in gallery.similar(wanted[0], 4)]


def test_kind_follows_the_size_and_recall_is_measured():
    assert [gallery_index.choose_kind(n) for n in (50_000, 50_001, 2_000_001)] == ["exact", "hnsw", "ivf"]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.normal(size=(50, 32)).astype(np.float32)
    exact = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    for kind, target in (("hnsw", 0.995), ("ivf", 0.98)):
        index, facts = gallery_index.build_index(vectors, kind)
        assert target <= facts["recall"] <= 1 and facts["recall_at"] == 100
        scores, found = index.search_batch(queries, 10)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) > 0.9
        np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, found, axis=1), atol=1e-3)


def test_large_kinds_hold_fewer_bytes_and_are_searched_no_deeper_than_needed(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(10_200, 64)).astype(np.float32)  # more than one block is added
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    depths = {}
    for kind in gallery_index.KINDS:
        index, facts = gallery_index.build_index(vectors, kind)
        assert index.faiss_index.ntotal == len(vectors)
        gallery_index.save_index(index, tmp_path / kind)
        depths[kind] = facts["depth"]
    exact, hnsw = ((tmp_path / kind).stat().st_size for kind in ("exact", "hnsw"))
    links = 2 * 32 * 4 * 10_200  # of HNSW: 64 neighbours of 4 bytes below
    assert hnsw - links < 0.8 * exact
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "ivf").iterdir()}
    assert sizes["vectors.f16"] == 2 * vectors.size and sizes["codes.faiss"] < 0.3 * exact
    monkeypatch.setattr(gallery_index, "RECALL_TARGET", 0.8)
    monkeypatch.setattr(compressed_index, "RECALL_TARGET", 0.8)
    for kind, target in (("hnsw", 0.995), ("ivf", 0.98)):
        facts = gallery_index.build_index(vectors, kind)[1]
        assert 0.8 <= facts["recall"] < target and facts["depth"] < depths[kind]


def test_an_index_that_cannot_find_enough_is_replaced_by_an_exact_one():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(4000, 32)).astype(np.float32)
    vectors[:2000] = vectors[0]  # one placeholder picture, two thousand times
    vectors = rng.permutation(vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index, facts = gallery_index.build_index(vectors, "hnsw")
    assert (facts["kind"], facts["recall"], facts["instead_of"]) == ("exact", 1.0, "hnsw")
    assert facts["its_recall"] < gallery_index.RECALL_TARGET and index.faiss_index.ntotal == 4000
