"""The index for millions of photos, at the size of thousands: its codes, its exact scores, its memory and its files."""

import json
import shutil

import faiss
import galleries
import numpy as np
import pytest
from galleries import draw, make_photos, same

from modeling_splip.search import compressed_index, index_cache
from modeling_splip.search.compressed_index import CompressedIndex, HalfVectors, build_compressed, nearest_exactly
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.index import load_index, save_index, stored_vectors

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair


def clustered(count, dim, spread=1.0, seed=1):
    """Unit vectors around centres that do not depend on the seed, as those of search_speed."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(0).normal(size=(count // 100, dim))
    vectors = middles[rng.integers(0, len(middles), count)] + spread * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    return clustered(6000, 64)


@pytest.fixture(scope="module")
def built(vectors):
    return build_compressed(HalfVectors(vectors.astype(np.float16)), progress=False)


def test_scores_are_those_of_the_embeddings_and_not_of_the_codes(vectors, built):
    index, facts = built
    queries = clustered(6000, 64, 1.2, seed=2)[:100]
    scores, rows = index.search_batch(queries, 20)
    assert isinstance(index.faiss_index, faiss.IndexIVFPQFastScan)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-3)
    assert (np.diff(scores, axis=1) <= 0).all()
    exact = np.argsort(-queries @ vectors.T, axis=1)[:, :20]
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(rows, exact, strict=True)]) >= 0.95
    by_codes = index.faiss_index.search(queries, 20)[0]
    assert np.abs(by_codes - scores).max() > 0.01
    assert facts["recall"] >= 0.98 and facts["rescored"] == index.wide and facts["depth"] == index.faiss_index.nprobe


def test_recall_is_measured_with_queries_outside_the_photos(vectors, monkeypatch):
    half = HalfVectors(vectors.astype(np.float16))
    queries = compressed_index._outside(half)
    near = (queries @ vectors.T).max(axis=1)
    assert near.min() > 0.5 and near.max() < 0.9 and abs(near.mean() - 0.7) < 0.05  # photos turned by 45 degrees
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)


def test_both_depths_are_tuned_to_the_target(vectors, monkeypatch):
    monkeypatch.setattr(compressed_index, "RECALL_TARGET", 1.0)
    _index, facts = build_compressed(HalfVectors(vectors.astype(np.float16)), progress=False)
    assert facts["recall"] >= 0.999 and (facts["depth"] > 8 or facts["rescored"] > 4)
    monkeypatch.setattr(compressed_index, "RECALL_TARGET", 0.1)
    facts = build_compressed(HalfVectors(vectors.astype(np.float16)), progress=False)[1]
    assert (facts["depth"], facts["rescored"]) == (8, 4)


@pytest.mark.parametrize("shape", [(1, 16), (5, 16), (700, 17), (700, 2), (30, 6)])
def test_few_photos_and_odd_widths_are_found(shape):
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index, facts = build_compressed(HalfVectors(vectors.astype(np.float16)), progress=False)
    assert facts["kind"] == "ivf" and facts["recall"] >= 0.98
    best = min(len(vectors), 5)
    scores, rows = index.search_batch(vectors[:1], best + 3)
    assert (rows[:, :best] >= 0).all() and scores[0, 0] == pytest.approx(1, abs=2e-3)
    if len(vectors) < 8:
        assert (rows[:, len(vectors) :] == -1).all()


def test_a_target_out_of_reach_does_not_open_every_list(vectors, monkeypatch):
    monkeypatch.setattr(compressed_index, "RECALL_TARGET", 1.1)
    index, facts = build_compressed(HalfVectors(vectors.astype(np.float16)), progress=False)
    assert facts["recall"] >= 0.999 and facts["depth"] < index.faiss_index.nlist
    assert facts["rescored"] * compressed_index.DEPTH < len(vectors)


def test_equal_photos_are_no_reason_to_search_everything():
    vectors = clustered(4000, 32, seed=3)
    vectors[:2000] = vectors[0]
    facts = build_compressed(HalfVectors(vectors.astype(np.float16)), progress=False)[1]
    assert facts["recall"] >= 0.98 and facts["kind"] == "ivf"


def test_an_exact_search_in_blocks_is_that_of_the_whole(vectors):
    queries = vectors[:7]
    blocks = (vectors[start : start + 1000] for start in range(0, 6000, 1000))
    scores, rows = nearest_exactly(queries, blocks, 50)
    wanted = np.argsort(-queries @ vectors.T, axis=1, kind="stable")[:, :50]
    assert (rows == wanted).mean() > 0.99
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, rows, axis=1), atol=1e-5)


def test_an_index_is_saved_and_loaded(vectors, built, tmp_path, monkeypatch):
    index, _ = built
    save_index(index, tmp_path / "index")
    loaded = load_index(tmp_path / "index")
    assert isinstance(loaded, CompressedIndex) and loaded.wide == index.wide
    monkeypatch.setattr(compressed_index, "_MAPPED_ROWS", 10)  # the mapping is dropped, and nothing else changes
    for _ in range(2):
        np.testing.assert_array_equal(loaded.search_batch(vectors[:9], 5)[1], index.search_batch(vectors[:9], 5)[1])
    np.testing.assert_allclose(stored_vectors(loaded, np.array([5, 3])), vectors[[5, 3]], atol=1e-3)


def test_building_reads_the_embeddings_in_blocks(vectors, monkeypatch, tmp_path):
    """No more rows at once than a block, or the sample that is trained on."""
    vectors.astype(np.float16).tofile(tmp_path / "v")
    half, most = HalfVectors.open(tmp_path / "v", 64), []
    monkeypatch.setattr(compressed_index, "_BLOCK", 500)
    monkeypatch.setattr(compressed_index, "_TRAIN_PER_LIST", 64)
    read = HalfVectors.__getitem__
    monkeypatch.setattr(HalfVectors, "__getitem__", lambda self, rows: most.append(len(it := read(self, rows))) or it)
    index, _ = build_compressed(half, progress=False)
    # 77 lists are trained on 64 vectors each; a search scores some again.
    assert max(most) == 64 * 77 and sorted(most)[-2] <= max(500, 2 * 100 * index.wide) and most.count(500) > 20


@pytest.fixture
def kept(pair, name, tmp_path, monkeypatch):
    """A gallery of 24 photos whose index is kept, and the index' folder."""
    monkeypatch.setattr(index_cache, "KEPT_FROM", 24)
    photos = make_photos(tmp_path / "photos")
    gallery = Gallery.build(photos, *pair, tmp_path / "G", model_name=name, index="ivf", progress=False)
    return gallery, tmp_path / "cache" / "splip" / "indexes" / f"{gallery.manifest['embeddings']}-ivf"


def test_the_index_and_its_embeddings_are_kept_in_one_folder(kept, pair, monkeypatch):
    gallery, folder = kept
    assert sorted(file.name for file in folder.iterdir()) == ["codes.faiss", "facts.json", "vectors.f16"]
    assert sorted(path.name for path in folder.parent.iterdir() if path.name != "lock") == [folder.name]
    assert gallery.index.vectors.path == folder / "vectors.f16"  # mapped, not held
    shutil.rmtree(folder)
    index = index_cache.index_table(gallery._reader, gallery.manifest["dim"], "ivf")[0]
    assert index.vectors.path == folder / "vectors.f16"  # moved there, not copied
    wanted = gallery.search(draw(100), 24)
    monkeypatch.setattr(index_cache, "build_index", None)  # it is not built again
    assert same(Gallery.open(gallery.folder, pair).search(draw(100), 24), wanted)


@pytest.mark.parametrize("file", ["codes.faiss", "facts.json", "vectors.f16"])
@pytest.mark.parametrize("damage", ["cut", "gone", "link"])
def test_a_damaged_folder_is_built_again(file, damage, kept, pair, tmp_path):
    gallery, folder = kept
    wanted = gallery.search(draw(100), 24)
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    if damage == "cut":
        (folder / file).write_bytes(content[: len(content) // 2])
    elif damage == "link":
        (tmp_path / "planted").write_bytes(content)
        (folder / file).symlink_to(tmp_path / "planted")
    assert same(Gallery.open(gallery.folder, pair).search(draw(100), 24), wanted)
    assert (folder / file).read_bytes() == content and not (folder / file).is_symlink()


def test_other_embeddings_in_the_cache_are_not_used(kept, pair):
    gallery, folder = kept
    wanted = gallery.search(draw(100), 24)
    other = np.roll(np.fromfile(folder / "vectors.f16", np.float16), 7)
    other.tofile(folder / "vectors.f16")
    assert same(Gallery.open(gallery.folder, pair).search(draw(100), 24), wanted)


def test_without_a_cache_the_embeddings_are_held_in_memory(kept, pair, tmp_path, monkeypatch):
    gallery, _folder = kept
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    opened = Gallery.open(gallery.folder, pair)
    assert opened.index.vectors.path is None
    assert same(opened.search(draw(100), 24), gallery.search(draw(100), 24))


def test_a_table_with_another_hash_leaves_nothing(kept, pair, tmp_path):
    gallery, folder = kept
    manifest = json.loads((gallery.folder / "manifest.json").read_text())
    (gallery.folder / "manifest.json").write_text(json.dumps(manifest | {"embeddings": "0" * 64}))
    with pytest.raises(ValueError, match="embeddings that are not those of the manifest"):
        Gallery.open(gallery.folder, pair)
    assert sorted(path.name for path in folder.parent.iterdir() if path.name != "lock") == [folder.name]


def test_large_folders_leave_the_cache_first_come_first_gone(kept, pair, name, tmp_path, monkeypatch):
    _gallery, folder = kept
    monkeypatch.setattr(index_cache, "MOST_BYTES", 200_000)
    (folder / "more").write_bytes(bytes(200_000))
    photos = make_photos(tmp_path / "others", 26)
    other = Gallery.build(photos, *pair, tmp_path / "O", model_name=name, index="ivf", progress=False)
    assert not folder.exists() and folder.with_name(f"{other.manifest['embeddings']}-ivf").is_dir()
