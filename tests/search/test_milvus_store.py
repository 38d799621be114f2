"""A gallery on Milvus answers as the folder does: with Milvus Lite, and a server where MILVUS_URI names one."""

import os
import re
import shutil
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.search import milvus_store
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.milvus_gallery import MilvusGallery
from modeling_splip.search.milvus_store import collection_name, connect, ingest

pymilvus = pytest.importorskip("pymilvus", reason="Milvus' tests need splip[search] and milvus-lite")
pytest.importorskip("milvus_lite", reason="Milvus' tests need splip[search] and milvus-lite")


def draw(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (32, 32), "white")
    for _ in range(3):
        x, y, w, h = rng.integers(0, 16, 4)
        ImageDraw.Draw(image).rectangle([x, y, x + w + 3, y + h + 3], outline="black", width=2)
    return image


@pytest.fixture
def photos(tmp_path) -> Path:
    for number in range(30):
        folder = tmp_path / "photos" / ('a"b\\c' if number % 3 else "tasse à café")
        folder.mkdir(parents=True, exist_ok=True)
        draw(number).save(folder / f"{number:03d}.png")
    return tmp_path / "photos"


@pytest.fixture
def name(tiny_clip) -> str:
    return f"clip:{tiny_clip}"


@pytest.fixture
def pair(name):
    return load_retriever(name)


@pytest.fixture
def gallery(photos, pair, name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Gallery.build(photos, *pair, tmp_path / "my_photos", model_name=name, progress=False)


@pytest.fixture(params=["lite", "server"])
def client(request, tmp_path):
    if request.param == "server" and not os.environ.get("MILVUS_URI"):
        pytest.skip("MILVUS_URI names no server")
    client = connect(os.environ["MILVUS_URI"] if request.param == "server" else str(tmp_path / "milvus.db"))
    yield client
    for found in client.list_collections():
        if found.startswith(("my_photos_", "___", milvus_store.REGISTRY)):
            client.drop_collection(found)
    client.close()


def same(found, wanted) -> bool:
    key = [
        [(r.row, r.path, r.label, tuple(sorted(r.metadata.items()))) for r in results] for results in (found, wanted)
    ]
    scores = [[r.score for r in results] for results in (found, wanted)]
    return key[0] == key[1] and np.allclose(*scores, atol=1e-5)


def test_it_answers_as_the_folder_does(gallery, client, pair):
    assert ingest(gallery.folder, client, progress=False) == 30
    assert ingest(gallery.folder, client, progress=False) == 0  # nothing is sent twice
    there = MilvusGallery.open("my_photos", client, pair)
    assert len(there) == 30 and there.columns == gallery.columns
    sketches = [draw(100), draw(101)]
    found, expected = there.search(sketches, 7), gallery.search(sketches, 7)
    assert len(found) == 2 and all(same(*pair) for pair in zip(found, expected, strict=True))
    for options in (
        {"where": {"label": 'a"b\\c'}},
        {"where": {"label": ["tasse à café", "unicorn"]}},
        {"where": {"width": 32, "label": "tasse à café"}},
        {"where": {"width": "32"}},
        {"where": {"label": 'x" or row >= 0 or label == "x'}},
        {"where": {"label": []}},
        {"text": "red", "text_weight": 0.3},
        {"collapse": 0.9},
    ):
        assert same(there.search(draw(100), 5, **options), gallery.search(draw(100), 5, **options)), options
    result = there.search(draw(100), 1)[0]
    assert result.thumbnail_bytes == gallery.result(result.row).thumbnail_bytes
    assert same(there.similar(result, 4), gallery.similar(gallery.result(result.row), 4))
    with pytest.raises(ValueError, match="no column 'colour'"):
        there.search(draw(100), where={"colour": "red"})


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_every_kind_of_index_and_column(kind, client, pair, tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "price": datasets.Value("float64"),
            "sold": datasets.Value("bool"),
            "day": datasets.Value("date32"),
        }
    )
    rows = [{"image": draw(n), "price": n / 2, "sold": n % 2 == 0, "day": date(2024, 1, 1 + n)} for n in range(12)]
    data = datasets.Dataset.from_list(rows, features=features)
    here = Gallery.build(data, *pair, tmp_path / "my_photos", index=kind, progress=False)
    ingest(here.folder, client, progress=False)
    there = MilvusGallery.open("my_photos", client, pair)
    for where, count in (
        (None, 12),
        ({"price": 1.0}, 1),
        ({"price": "1.5"}, 1),
        ({"sold": True}, 6),
        ({"sold": "false", "price": [0.5, 1]}, 1),
        ({"day": "2024-01-03"}, 1),
        ({"price": "cheap"}, 0),
    ):
        rows = [[result.row for result in it.search(draw(100), 12, where=where)] for it in (here, there)]
        assert rows[0] == rows[1] and len(rows[0]) == count, where


def test_an_interrupted_ingestion_is_refused_and_goes_on(gallery, client, pair, monkeypatch):
    monkeypatch.setattr(milvus_store, "_ROWS", 10)
    upsert, calls = client.upsert, []

    def failing(collection, rows):
        calls.append(len(rows))
        if len(calls) == 3:
            raise pymilvus.MilvusException(message="the cable")
        return upsert(collection, rows)

    monkeypatch.setattr(client, "upsert", failing)
    with pytest.raises(OSError, match=r"Milvus failed while 'my_photos' was sent \(.*the cable.*it goes on where"):
        ingest(gallery.folder, client, progress=False)
    with pytest.raises(FileNotFoundError, match="'my_photos' was not sent completely"):
        MilvusGallery.open("my_photos", client)
    assert ingest(gallery.folder, client, progress=False) == 10
    assert same(MilvusGallery.open("my_photos", client, pair).search(draw(100), 30), gallery.search(draw(100), 30))


def test_an_update_replaces_the_photos_at_once(gallery, client, pair, photos, name, tmp_path):
    ingest(gallery.folder, client, progress=False)
    old = MilvusGallery.open("my_photos", client, pair)
    shutil.rmtree(photos / "tasse à café")
    new = Gallery.build(photos, *pair, gallery.folder, model_name=name, progress=False)
    assert len(old.search(draw(100), 30)) == 30
    ingest(new.folder, client, progress=False)
    assert same(MilvusGallery.open("my_photos", client, pair).search(draw(100), 30), new.search(draw(100), 30))
    assert len(milvus_store.versions(client, "my_photos")) == 1


def test_it_refuses_in_a_sentence(gallery, client, pair, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no gallery 'my_photos'"):
        MilvusGallery.open("my_photos", client)
    ingest(gallery.folder, client, progress=False)
    with pytest.raises(ValueError, match="was built with model"):
        MilvusGallery.open("my_photos", client, "clip")
    record = milvus_store.read_record(client, "my_photos")
    milvus_store._register(client, "my_photos", {**record, "dim": 17})
    with pytest.raises(ValueError, match="has dimension 16 on the server, 17 expected"):
        MilvusGallery.open("my_photos", client)
    milvus_store._register(client, "my_photos", {**record, "count": 31})
    with pytest.raises(ValueError, match="holds 30 photos on the server, 31 expected"):
        MilvusGallery.open("my_photos", client)
    waits = []
    monkeypatch.setattr(milvus_store, "time", SimpleNamespace(sleep=waits.append))
    with pytest.raises(OSError, match="does not answer after 5 attempts"):
        connect("http://127.0.0.1:9")
    assert waits == [0.5, 1, 2, 4]


def test_galleries_of_different_names_live_side_by_side(gallery, client, pair, tmp_path, monkeypatch):
    names = ["my_photos", "my-photos", "my photos", "图片", "照片", "2024", "g_2024", "a" * 220, "a" * 221]
    there = [collection_name(name) for name in names]
    assert len(set(there)) == len(names) and all(re.fullmatch(r"[A-Za-z_]\w{,242}", name, re.A) for name in there)
    assert there[:2] == ["my_photos", "my_photos_22de081a"] and collection_name("runs/demo/gallery/") == "gallery"
    monkeypatch.chdir(gallery.folder)
    assert collection_name(".") == "my_photos"
    for name in ("图片", "照片"):
        shutil.copytree(gallery.folder, tmp_path / name)
        ingest(tmp_path / name, client, progress=False)
    for name in ("图片", "照片"):
        assert len(MilvusGallery.open(collection_name(name), client, pair)) == 30


def test_commands(photos, name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = ["--store", "milvus", "--uri", str(tmp_path / "milvus.db")]
    out, sketch = str(tmp_path / "G"), tmp_path / "sketch.png"
    draw(100).save(sketch)
    assert main(["index", str(photos), "--model", name, "--out", out, "--quiet", *store]) == 0
    assert "30 photos sent to gallery 'G'" in capsys.readouterr().out
    tables = []
    for options in ([], store):
        assert main(["search", str(sketch), "--gallery", out, "-k", "5", *options]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert main(["search", str(sketch), "--gallery", out, "--store", "milvus"]) == 2
    assert "--store milvus and --uri belong together" in capsys.readouterr().err
