"""Whether what was found is convincing: compared with what random scribbles find."""

import json

import datasets
import galleries
import numpy as np
import pyarrow.parquet as pq
import pytest
from galleries import draw

from datasets_scripts import open23
from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.search import confidence
from modeling_splip.search.confidence import CONVINCING, COUNT, FIRST, scribble
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def set_scribbles(gallery, value) -> None:
    path = gallery.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scribbles": value}))


def test_the_share_of_scribbles_that_find_less_near_photos(gallery, pair):
    rng = np.random.default_rng(0)
    scribbles = galleries.embeddings(pair, [scribble(rng) for _ in range(COUNT)], "sketch")
    mean, vectors = scribbles.mean(axis=0), gallery.vectors(np.arange(len(gallery)))

    def near(query):
        rows = np.argsort(-(vectors @ query), kind="stable")[:FIRST]
        return np.mean([vectors[row] @ query - vectors[row] @ mean for row in rows])

    for seed in (100, 101, 102):
        sketch = draw(seed)
        naive = np.mean([near(each) < near(gallery.encode([sketch])[0]) for each in scribbles])
        assert gallery.confidence(gallery.search(sketch, 5)) == pytest.approx(naive, abs=0.011)
    found = gallery.search(draw(100), 5)
    assert gallery.confidence(found[:2]) is None
    again = [gallery.confidence(gallery.search_vectors(each[None], FIRST)[0]) for each in scribbles]
    assert np.mean(again) == pytest.approx(0.5, abs=0.02)  # scribbles are no better than scribbles


def test_scribbles_differ_and_are_the_same_every_time():
    first, second = ([scribble(rng) for _ in range(9)] for rng in (np.random.default_rng(0), np.random.default_rng(0)))
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]
    assert len({image.tobytes() for image in first}) == 9
    assert all(np.ptp(np.asarray(image)) == 255 for image in first)


def test_the_next_gallery_of_a_model_encodes_no_scribble(gallery, photos, pair, name, tmp_path, monkeypatch):
    monkeypatch.setattr(confidence, "scribble", lambda rng: pytest.fail("a scribble was drawn again"))
    again = Gallery.build(photos, *pair, tmp_path / "H", model_name=name, progress=False)
    assert again.manifest["scribbles"] == gallery.manifest["scribbles"]


def test_galleries_of_earlier_versions_open(gallery, pair, tmp_path, capsys):
    set_scribbles(gallery, None)
    opened = Gallery.open(gallery.folder, pair)
    assert opened.confidence(opened.search(draw(100), 5)) is None
    draw(100).save(tmp_path / "a.png")
    assert main(["search", str(tmp_path / "a.png"), "--gallery", str(gallery.folder)]) == 0
    assert "onvincing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.5]},
        {"levels": []},
        {"levels": [0.2, 0.1]},
        {"levels": ["high"]},
        {"levels": [float("nan")]},
        {"more": 1},
    ],
)
def test_damaged_numbers_are_refused(gallery, pair, change):
    set_scribbles(gallery, gallery.manifest["scribbles"] | change)
    with pytest.raises(ValueError, match=r"is damaged \(fields scribbles\): build it again"):
        Gallery.open(gallery.folder, pair)


def test_the_command_says_so_in_a_line(gallery, tmp_path, capsys):
    sketch = str(tmp_path / "a.png")
    draw(100).save(sketch)
    share = gallery.confidence(gallery.search(sketch, 10))
    facts = gallery.manifest["scribbles"]
    words = ["search", sketch, "--gallery", str(gallery.folder)]
    for levels, line in ((9.0, "Not convincing: of random scribbles, 100% find photos at least as near."), (-9.0, "")):
        set_scribbles(gallery, facts | {"levels": [levels]})
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert (line or "photo") in printed and ("onvincing" in printed) == bool(line)
        for more in (["--text", "red"], ["--where", "label=cup"], ["--collapse"]):  # these change the scores
            assert main([*words, *more]) == 0
            assert "onvincing" not in capsys.readouterr().out
    set_scribbles(gallery, facts)
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queries"][0]["confidence"] == share


def test_real_drawings_of_what_is_there_are_more_convincing(tmp_path):
    """Twelve categories of real photos, of six of which the gallery has none."""
    model, processor = load_retriever("small_splip")
    tables = {kind: datasets.Dataset(pq.read_table(file)) for kind, file in open23.FILES.items()}
    there = ("butterfly", "umbrella", "motorbike", "cup", "pizza", "chair")
    absent = ("camera", "crab", "flamingo", "guitar", "headphones", "scorpion")
    labels = {kind: np.array(table["label"]) for kind, table in tables.items()}
    rows = [row for label in there for row in np.flatnonzero(labels["photo"] == label)[:12]]
    gallery = Gallery.build(tables["photo"].select(rows), model, processor, tmp_path / "G", progress=False)

    def shares(group):
        rows = [int(row) for label in group for row in np.flatnonzero(labels["sketch"] == label)[:6]]
        return np.array(
            [
                gallery.confidence(found)
                for found in gallery.search([tables["sketch"][row]["image"] for row in rows], FIRST)
            ]
        )

    known, unknown = shares(there), shares(absent)
    assert (known < CONVINCING).mean() < (unknown < CONVINCING).mean() and known.mean() > unknown.mean()
