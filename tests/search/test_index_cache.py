"""Where an index comes from: built from the table or kept by this user, and never read from a gallery's folder."""

import json
import os
import shutil

import faiss
import galleries
import numpy as np
import pyarrow.parquet as pq
import pytest
from galleries import draw, files, make_photos, same

from modeling_splip.search import index_cache
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


@pytest.fixture
def hnsw(photos, pair, name, tmp_path, monkeypatch):
    """A gallery whose index is kept, small as it is."""
    monkeypatch.setattr(index_cache, "KEPT_FROM", 24)
    return Gallery.build(photos, *pair, tmp_path / "H", model_name=name, index="hnsw", progress=False)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "splip" / "indexes"


@pytest.fixture
def events(monkeypatch):
    """What happens from now on: "read" for a file that faiss reads, "build" for an index that is built."""
    happened = []
    read, build = faiss.read_index, index_cache.build_index
    monkeypatch.setattr(faiss, "read_index", lambda *args: happened.append("read") or read(*args))
    monkeypatch.setattr(index_cache, "build_index", lambda *args: happened.append("build") or build(*args))
    return happened


def kept(cache) -> list[str]:
    return sorted(path.name for path in cache.glob("*.faiss*"))


def change_manifest(gallery, **values) -> None:
    path = gallery.folder / "manifest.json"
    manifest = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))


def test_a_gallery_holds_table_manifest_and_card_only(gallery, hnsw, cache):
    for it in (gallery, hnsw):
        data = it.manifest["data"]
        assert files(it.folder) == ["README.md", data, f"{data}/photos-00000.parquet", "manifest.json"]
    # Of a gallery with few photos, such as a visitor's own, nothing stays behind when it is deleted.
    assert kept(cache) == [f"{hnsw.manifest['embeddings']}-hnsw.faiss"]


def test_an_index_is_built_once_and_kept(hnsw, tmp_path, pair, cache, events, monkeypatch):
    wanted = hnsw.search(draw(100), 24)
    shutil.copytree(tmp_path / "H", tmp_path / "copy")
    for folder in ("H", "copy"):
        assert same(Gallery.open(tmp_path / folder, pair).search(draw(100), 24), wanted)
    assert events == ["read", "read"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    before = {path: path.lstat().st_mtime_ns for path in (tmp_path / "H").rglob("*")}
    for _ in range(2):
        assert same(Gallery.open(tmp_path / "H", pair).search(draw(100), 24), wanted)
    assert events == ["read", "read", "build", "read"]
    assert {path: path.lstat().st_mtime_ns for path in (tmp_path / "H").rglob("*")} == before


def test_a_cache_that_cannot_be_written_is_no_error(hnsw, tmp_path, pair, events, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(Gallery.open(tmp_path / "H", pair).search(draw(100), 24), hnsw.search(draw(100), 24))
    assert events == ["build"]


def test_an_index_inside_a_gallery_is_never_read(hnsw, tmp_path, pair, cache, events):
    """As galleries of earlier versions held it, which name no hash of their embeddings."""
    inside = tmp_path / "H" / hnsw.manifest["data"] / "index.faiss"
    inside.write_bytes(b"IxFI, or what crashes a parser")
    (tmp_path / "target").write_text("mine")
    inside.with_name("index.faiss.signature").symlink_to(tmp_path / "target")
    wanted = hnsw.search(draw(100), 24)
    change_manifest(hnsw, embeddings=None)
    shutil.rmtree(cache)
    for _ in range(2):
        assert same(Gallery.open(tmp_path / "H", pair).search(draw(100), 24), wanted)
    assert events == ["build", "read"] and (tmp_path / "target").read_text() == "mine"
    assert kept(cache) == [f"{hnsw.manifest['embeddings']}-hnsw.faiss"]


@pytest.mark.parametrize("there", [True, False], ids=["kept", "not kept"])
def test_a_false_hash_changes_no_gallery(there, hnsw, tmp_path, pair, name, cache):
    """A gallery from elsewhere that claims another's embeddings is refused, and puts nothing in its place."""
    wanted = hnsw.search(draw(100), 24)
    others = make_photos(tmp_path / "others", 24, ("owl", "star", "bell"))
    for number, file in enumerate(sorted(others.rglob("*.png"))):
        draw(500 + number, "teal").save(file)
    forged = Gallery.build(others, *pair, tmp_path / "F", model_name=name, index="hnsw", progress=False)
    change_manifest(forged, embeddings=hnsw.manifest["embeddings"])
    mine = cache / f"{hnsw.manifest['embeddings']}-hnsw.faiss"
    content = mine.read_bytes()
    if not there:
        mine.unlink()
    with pytest.raises(ValueError, match=r"'.*F' is damaged \(embeddings that are not those of the manifest"):
        Gallery.open(tmp_path / "F", pair)
    assert mine.exists() == there and (not there or mine.read_bytes() == content)
    assert same(Gallery.open(tmp_path / "H", pair).search(draw(100), 24), wanted)


def test_rows_in_another_order_are_refused(gallery, tmp_path, pair):
    file = tmp_path / "G" / gallery.manifest["data"] / "photos-00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take(np.roll(np.arange(24), 1)), file)
    with pytest.raises(ValueError, match=r"is damaged \(embeddings that are not those of the manifest"):
        Gallery.open(tmp_path / "G", pair)


@pytest.mark.parametrize("embeddings", ["../../../etc/passwd", "0" * 63, 7])
def test_a_hash_that_is_none_is_refused(embeddings, gallery, tmp_path, pair):
    change_manifest(gallery, embeddings=embeddings)
    with pytest.raises(ValueError, match=r"is damaged \(fields embeddings"):
        Gallery.open(tmp_path / "G", pair)


def test_a_damaged_file_in_the_cache_is_built_again(hnsw, tmp_path, pair, cache, events):
    wanted = hnsw.search(draw(100), 24)
    file = cache / f"{hnsw.manifest['embeddings']}-hnsw.faiss"
    other = faiss.IndexFlatIP(16)
    other.add(np.eye(16, dtype=np.float32))
    for damage in (lambda: file.write_bytes(b"x"), lambda: faiss.write_index(other, str(file))):
        damage()
        for _ in range(2):
            assert same(Gallery.open(tmp_path / "H", pair).search(draw(100), 24), wanted)
    assert events == ["read", "build", "read"] * 2


def test_a_file_that_this_user_did_not_write_is_not_read(hnsw, gallery, tmp_path, pair, cache, events):
    file = cache / f"{hnsw.manifest['embeddings']}-hnsw.faiss"
    shutil.move(file, tmp_path / "planted")
    file.symlink_to(tmp_path / "planted")
    Gallery.open(tmp_path / "H", pair)
    assert events == ["build"] and not file.is_symlink()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.chown(file, 12345, 12345)
        Gallery.open(tmp_path / "H", pair)
        assert events == ["build", "build"]


def test_the_cache_is_bounded(hnsw, photos, pair, name, tmp_path, cache, monkeypatch):
    first = cache / f"{hnsw.manifest['embeddings']}-hnsw.faiss"
    size = first.stat().st_size
    os.utime(first, (1, 1))
    monkeypatch.setattr(index_cache, "MOST_BYTES", int(2.5 * size))
    Gallery.open(tmp_path / "H", pair)  # now it is the one that was opened last
    names = []
    for number in range(3):
        (photos / "cup" / f"more{number}.png").unlink(missing_ok=True)
        draw(700 + number, "blue").save(photos / "cup" / "new.png")
        if number == 1:
            Gallery.open(tmp_path / "H", pair)
        it = Gallery.build(photos, *pair, tmp_path / f"N{number}", model_name=name, index="hnsw", progress=False)
        names.append(f"{it.manifest['embeddings']}-hnsw.faiss")
    assert kept(cache) == sorted([names[1], names[2]])
