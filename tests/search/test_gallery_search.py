"""What a gallery finds, and what it refuses to search for."""

import shutil
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import galleries
import numpy as np
import pytest
from galleries import draw, embeddings, make_photos, same
from PIL import Image

from modeling_splip.search.gallery import Gallery
from modeling_splip.search.milvus_gallery import _literals

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def test_search_ranks_as_the_plain_product(gallery, photos, pair):
    paths = sorted(photos.rglob("*.png"))
    stored = np.concatenate([embeddings(pair, [path], "photo") for path in paths])  # (N, D)
    sketches = [draw(100), draw(101)]
    scores = embeddings(pair, sketches, "sketch") @ stored.T  # (2, N)
    found = gallery.search(sketches, k=5)
    for query, results in enumerate(found):
        best = np.argsort(-scores[query])[:5]
        assert [Path(result.path) for result in results] == [paths[row] for row in best]
        np.testing.assert_allclose([result.score for result in results], scores[query, best], atol=1e-5)
        assert [result.label for result in results] == [paths[row].parent.name for row in best]
    assert same(gallery.search(sketches[0], k=5), found[0])


def test_results_show_without_the_originals(gallery, photos):
    result = gallery.search(draw(100), k=1)[0]
    with Image.open(result.path) as image:
        original = image.convert("RGB").resize((8, 6))
    shutil.rmtree(photos)
    shown = result.thumbnail.resize((8, 6))
    assert np.abs(np.asarray(shown, int) - np.asarray(original, int)).mean() < 8  # JPEG
    assert result.metadata == {"width": 40, "height": 30}


def test_filters_are_exact_and_named(gallery):
    everything = gallery.search(draw(100), k=24)
    for where, allowed in (
        ({"label": "cup"}, lambda r: r.label == "cup"),
        ({"label": ["cup", "ant"]}, lambda r: r.label in ("cup", "ant")),
        ({"label": "cup", "width": 40}, lambda r: r.label == "cup"),
        ({"label": "unicorn"}, lambda r: False),
    ):
        wanted = [result.path for result in everything if allowed(result)][:3]
        assert [result.path for result in gallery.search(draw(100), 3, where=where)] == wanted
    with pytest.raises(ValueError, match="no column 'colour' to filter on, only path, label"):
        gallery.search(draw(100), where={"colour": "red"})


def test_words_are_weighed_with_the_sketch(gallery, pair):
    model, processor = pair
    sketch, words = gallery.encode([draw(100)]), model.encode_text(**processor(text=["red"])).numpy()
    for weight in (0.0, 0.3, 1.0):
        query = (1 - weight) * sketch + weight * words
        wanted = gallery.search_vectors(query, 5)[0]
        assert same(gallery.search(draw(100), 5, "red", text_weight=weight), wanted)
    assert same(gallery.search(None, 5, "red"), gallery.search_vectors(words, 5)[0])


def test_filters_know_the_types_of_columns(tmp_path, pair):
    features = datasets.Features(
        {"image": datasets.Image(), "price": datasets.Value("float64"), "sold": datasets.Value("bool")}
    )
    rows = [{"image": draw(number), "price": number / 2, "sold": number % 2 == 0} for number in range(6)]
    data = datasets.Dataset.from_list(rows, features=features)
    gallery = Gallery.build(data, *pair, tmp_path / "G", progress=False)
    for where, wanted in (
        ({"price": 1.0}, {2}),
        ({"price": ["0.5", 2]}, {1, 4}),
        ({"sold": True}, {0, 2, 4}),
        ({"sold": "false", "price": "1.5"}, {3}),
        ({"price": "cheap"}, set()),
    ):
        assert {result.row for result in gallery.search(draw(100), where=where)} == wanted, where


def test_both_unicode_forms_of_a_class_are_one(tmp_path, pair):
    """macOS unpacks folders whose accented letters are two characters; a keyboard types one."""
    spellings = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    for number, spelling in enumerate(spellings):
        (tmp_path / "photos" / str(number) / spelling).mkdir(parents=True)
        draw(number).save(tmp_path / "photos" / str(number) / spelling / "a.png")
    gallery = Gallery.build(tmp_path / "photos", *pair, tmp_path / "G", progress=False)
    assert gallery.labels() == spellings[:1]
    for spelling in spellings:
        assert len(gallery.search(draw(100), where={"label": spelling})) == 2
        assert len(gallery.search(draw(100), where={"path": f"1/{spelling}/a.png"})) == 1
    assert [f'"{spelling}"' for spelling in spellings] == _literals(spellings[1], True)[::-1]


def test_near_duplicates_collapse_on_request(tmp_path, pair, name):
    folder = make_photos(tmp_path / "photos", 12)
    for number in range(30):
        shutil.copy(folder / "cup" / "000.png", folder / f"copy{number}.png")
    gallery = Gallery.build(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    original = next(row for row in range(42) if Path(gallery.result(row).path).name == "000.png")
    query = gallery.vectors(np.array([original]))  # its 30 copies are found before any other photo
    plain, single = (gallery.search_vectors(query, 3, collapse=collapse)[0] for collapse in (None, 0.999999))
    best = gallery.search_vectors(query, 42)[0]
    assert [result.score for result in plain] == pytest.approx([1, 1, 1], abs=1e-5)
    assert [result.row for result in single[1:]] == [result.row for result in best[31:33]]
    assert len(gallery.search(draw(100), 42, collapse=0.999999)) == 12


def test_similar_photos_leave_out_the_photo_itself(gallery, photos):
    result = gallery.search(draw(100), k=1)[0]
    near = gallery.similar(result, 3)
    assert result.row not in [r.row for r in near] and len(near) == 3
    from_file = gallery.similar(result.path, 4)
    assert [r.row for r in from_file] == [result.row, *(r.row for r in near)]


def test_threads_get_their_own_answers(gallery):
    sketches = [draw(number) for number in range(100, 116)]
    alone = [gallery.search(sketch, 5) for sketch in sketches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda sketch: gallery.search(sketch, 5), sketches))
    assert len(alone) == 16 and all(same(*pair) for pair in zip(together, alone, strict=True))


def test_bad_queries_are_refused(gallery, tmp_path):
    Image.new("RGBA", (20, 20)).save(tmp_path / "blank.png")
    for arguments, sentence in (
        ({"sketch": tmp_path / "blank.png"}, "Nothing is drawn on sketch '.*blank.png'"),
        ({"sketch": [draw(1), Image.new("L", (9, 9), 255)]}, "Nothing is drawn on sketch 2"),
        ({"sketch": draw(1), "k": 0}, "k must be a whole number of at least 1, got 0"),
        ({"sketch": draw(1), "k": 2.5}, "k must be a whole number of at least 1, got 2.5"),
        ({"sketch": draw(1), "k": "3"}, "k must be a whole number of at least 1, got '3'"),
        ({"text": 5}, "text must be a string such as 'red', got 5"),
        ({"sketch": draw(1), "text_weight": None}, r"text_weight must be in \[0, 1\], got None"),
        ({"sketch": draw(1), "collapse": 5}, r"collapse must be in \[-1, 1\], got 5"),
        ({"sketch": draw(1), "collapse": -2}, "collapse must be in"),
        ({"sketch": draw(1), "collapse": float("nan")}, "collapse must be in"),
        ({"sketch": draw(1), "text": " "}, "words are empty"),
        ({"sketch": draw(1), "text": "red", "text_weight": 2}, "text_weight must be in"),
        ({}, "nothing to search for"),
        ({"sketch": []}, "list of sketches is empty"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gallery.search(**arguments)
    for queries in (np.zeros((1, 17)), np.zeros(16), np.zeros((1, 1, 16))):
        with pytest.raises(ValueError, match=r"queries must have shape \(Q, 16\), got \("):
            gallery.search_vectors(queries)
    for k in (0, "3", 2.5):
        with pytest.raises(ValueError, match=f"k must be a whole number of at least 1, got {k!r}"):
            gallery.similar(gallery.result(0), k)
    with pytest.raises(FileNotFoundError, match="no image file"):
        gallery.search(tmp_path / "nothing.png")
