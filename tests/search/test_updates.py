"""Batches of changes to a gallery: what is found afterwards, who sees them when, and one table of them again."""

import json
import multiprocessing
import os
import shutil
import threading

import galleries
import numpy as np
import pyarrow as pa
import pytest
from galleries import draw, files, same

from modeling_splip.search import updates
from modeling_splip.search.build import build_gallery
from modeling_splip.search.folder_gallery import FolderGallery
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.milvus_store import ingest

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def paths(gallery, k=100, **options):
    return [os.path.relpath(found.path, gallery.manifest["root"]) for found in gallery.search(draw(100), k, **options)]


def change(photos, gallery):
    """Two photos added, one changed, two removed, in three batches."""
    draw(501, "teal").save(photos / "cup" / "new.png")
    draw(502, "red").save(photos / "top.png")
    reports = [gallery.update([photos / "cup" / "new.png", photos / "top.png"], [photos / "cup" / "000.png"])]
    draw(503, "blue").save(photos / "zebra" / "001.png")
    reports.append(gallery.update([photos / "zebra" / "001.png"]))
    reports.append(gallery.update(remove=["ant/002.png"]))
    for gone in ("cup/000.png", "ant/002.png"):
        (photos / gone).unlink()
    return reports


def rebuilt(photos, pair, name, tmp_path):
    return Gallery.build(photos, *pair, tmp_path / "again", model_name=name, progress=False)


@pytest.mark.parametrize("kind", ["exact", "hnsw", "ivf"])
def test_a_gallery_with_changes_is_searched_as_one_that_is_built_anew(kind, photos, pair, name, tmp_path):
    gallery = Gallery.build(photos, *pair, tmp_path / "K", model_name=name, index=kind, progress=False)
    reports = change(photos, gallery)
    assert [(it.added, it.changed, it.removed) for it in reports] == [(2, 0, 1), (0, 1, 0), (0, 0, 1)]
    wanted = rebuilt(photos, pair, name, tmp_path)
    for it in (gallery, Gallery.open(gallery.folder, pair)):
        assert len(it) == len(wanted) == 24 and it.labels() == wanted.labels()
        for options in ({}, {"where": {"label": "cup"}}, {"where": {"label": ""}}, {"collapse": 0.99}):
            for k in (3, 24, 30):
                found, right = (each.search(draw(100), k, **options) for each in (it, wanted))
                assert [r.path for r in found] == [r.path for r in right]
                np.testing.assert_allclose([r.score for r in found], [r.score for r in right], atol=1e-3)
                assert [(r.label, r.metadata, r.thumbnail.tobytes()) for r in found] == [
                    (r.label, r.metadata, r.thumbnail.tobytes()) for r in right
                ]
        first = it.search(draw(100), 1)[0]
        assert [r.path for r in it.similar(first, 4)] == [
            r.path for r in wanted.similar(wanted.search(draw(100), 1)[0], 4)
        ]
        assert it.confidence(it.search(draw(100), 3)) is not None


def test_compaction_makes_one_table_and_keeps_the_rest(photos, gallery, pair, name, tmp_path):
    before = gallery.manifest
    change(photos, gallery)
    held = gallery.search(draw(100), 24)
    thumbnail = held[5].thumbnail.tobytes()
    gallery.compact(progress=False)
    wanted = rebuilt(photos, pair, name, tmp_path)
    for it in (gallery, Gallery.open(gallery.folder, pair)):
        assert sorted(paths(it)) == sorted(paths(wanted)) and same(
            it.search(draw(100), 24), wanted.search(draw(100), 24)
        )
        assert it.manifest["count"] == 24 and "changes" not in it.manifest
        assert it.manifest["scribbles"] == before["scribbles"] and it.manifest["unreadable"] == before["unreadable"]
    data = gallery.manifest["data"]
    assert files(gallery.folder) == ["README.md", data, f"{data}/photos-00000.parquet", "manifest.json"]
    assert data in (gallery.folder / "README.md").read_text() and data != before["data"]
    assert files(tmp_path) == [it for it in files(tmp_path) if ".partial" not in it and ".compacting" not in it]
    assert held[5].thumbnail.tobytes() == thumbnail  # results of before still show
    gallery.compact(progress=False)  # nothing to do
    assert gallery.manifest["data"] == data


def test_a_result_whose_row_is_another_photo_now_is_refused(photos, gallery):
    found = gallery.search(draw(100), 24)
    change(photos, gallery)
    gone = next(it for it in found if it.path.endswith("ant/002.png"))
    with pytest.raises(ValueError, match=r"Row \d+ is not in this gallery of 24 photos"):
        gallery.similar(gone)
    gallery.compact(progress=False)
    last = max(found, key=lambda it: it.row)
    with pytest.raises(ValueError, match=r"is not in this gallery|as the gallery has changed: search again"):
        gallery.similar(last)
    moved = next(it for it in found if it.row == 3)
    for ask in (lambda: gallery.similar(moved), lambda: gallery.confidence([moved, *found[1:3]])):
        with pytest.raises(ValueError, match="as the gallery has changed: search again"):
            ask()


def test_other_processes_see_a_batch_after_refresh_and_not_before(photos, gallery, pair):
    other = Gallery.open(gallery.folder, pair)
    before = paths(other)
    change(photos, gallery)
    assert paths(other) == before
    assert other.refresh() and paths(other) == paths(gallery)
    assert not other.refresh()
    other.update([photos / "cup" / "new.png"], ["top.png"])  # of the other's batch
    gallery.update(remove=["cup/003.png"])  # takes that in before it writes
    assert other.refresh() and paths(other) == paths(gallery) and len(other) == 22
    gallery.compact(progress=False)
    assert other.refresh() and paths(other) == paths(gallery) and other.manifest == gallery.manifest


def test_splip_index_folds_changes_in(photos, gallery, pair, name, tmp_path):
    change(photos, gallery)
    outside = tmp_path / "elsewhere.png"
    draw(600, "grey").save(outside)
    assert gallery.update([outside]).added == 1 and str(outside) in {it.path for it in gallery.search(draw(100), 25)}
    report = galleries_report(photos, pair, name, gallery.folder)
    assert (report.count, report.encoded, report.removed) == (24, 0, 1)  # the one that is not in the folder
    again, wanted = Gallery.open(gallery.folder, pair), rebuilt(photos, pair, name, tmp_path)
    assert same(again.search(draw(100), 24), wanted.search(draw(100), 24)) and "changes" not in again.manifest
    assert not [it for it in files(gallery.folder) if "changes" in it]


def galleries_report(photos, pair, name, out):
    return build_gallery(photos, *pair, out, model_name=name, progress=False)


def test_damaged_changes_are_refused_and_encoded_again(photos, gallery, pair, name):
    change(photos, gallery)
    file = gallery.folder / gallery.manifest["data"] / gallery.manifest["changes"][0]
    content = file.read_bytes()
    for damage in (content[:-9], content.replace(b"cup", b"pup"), None):
        file.unlink()
        if damage is not None:
            file.write_bytes(damage)
        with pytest.raises(ValueError, match=r"Gallery '.*' is damaged \(.*changes-"):
            Gallery.open(gallery.folder, pair)
    report = galleries_report(photos, pair, name, gallery.folder)
    assert report.count == 24 and report.encoded == 3


@pytest.mark.parametrize("value", [["../changes-" + "0" * 64 + ".parquet"], "changes", [7], ["photos-00000.parquet"]])
def test_names_of_changes_that_are_none_are_refused(value, gallery, pair):
    manifest = json.loads((gallery.folder / "manifest.json").read_text())
    (gallery.folder / "manifest.json").write_text(json.dumps(manifest | {"changes": value}))
    with pytest.raises(ValueError, match=r"is damaged \(fields changes\)"):
        Gallery.open(gallery.folder, pair)


def test_what_cannot_be_done_is_refused_and_changes_nothing(photos, gallery, tmp_path):
    draw(501, "teal").save(photos / "new.png")
    before = files(tmp_path), (gallery.folder / "manifest.json").read_bytes()
    for add, remove, message in (
        ([photos / "new.png"], ["cup/nothing.png"], "Photo 'cup/nothing.png' is not in gallery"),
        ([photos / "cup" / "000.png"], ["cup/000.png"], "to be added and removed"),
        ([], paths(gallery), "would hold no photo"),
        (photos / "new.png", [], "add must be a list of files"),
        ([], "cup/000.png", "remove must be a list of files"),
    ):
        with pytest.raises(ValueError, match=message):
            gallery.update(add, remove)
    assert (files(tmp_path), (gallery.folder / "manifest.json").read_bytes()) == before and len(gallery) == 24
    (photos / "broken.png").write_bytes(b"no image")
    report = gallery.update([photos / "broken.png", photos / "missing.png", photos / "new.png"])
    assert report.added == 1 and [entry["path"] for entry in report.unreadable] == ["broken.png", "missing.png"]


def test_rows_that_do_not_fit_are_refused(gallery):
    rows = gallery._reader.take([0, 1])
    vectors = rows["embedding"]
    place, kind = rows.schema.get_field_index("embedding"), rows.schema.field("embedding").type
    long = rows.set_column(place, "embedding", pa.array([[2 * x for x in row.as_py()] for row in vectors], kind))
    for wrong, message in (
        (rows.drop_columns(["label"]), "have not the gallery's columns"),
        (pa.concat_tables([rows, rows]), "the same path"),
        (long, "The rows cannot be added, since .* no vector of unit norm"),
    ):
        with pytest.raises(ValueError, match=message):
            gallery.put(wrong)
    assert gallery.put(rows).changed == 2 and len(gallery) == 24


def test_writers_wait_for_each_other(gallery, tmp_path):
    with updates.writing(gallery.folder, 0):
        for write in (lambda: gallery.update(remove=["cup/000.png"], wait=0), lambda: gallery.compact(wait=0)):
            with pytest.raises(OSError, match="Another process is writing gallery"):
                write()
        assert len(gallery.search(draw(100), 24)) == 24
    assert gallery.update(remove=["cup/000.png"], wait=0).removed == 1
    assert not (tmp_path / "G.partial").exists()


def test_shards_of_a_build_that_was_interrupted_stay(gallery, tmp_path):
    shards = tmp_path / "G.partial" / "shards-x"
    shards.mkdir(parents=True)
    gallery.update(remove=["cup/000.png"])
    assert shards.is_dir()


def test_a_compaction_that_fails_changes_nothing(photos, gallery, pair, tmp_path, monkeypatch):
    change(photos, gallery)
    before, found = files(tmp_path), paths(gallery)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(updates, "publish", fail)
    with pytest.raises(OSError, match="No space left"):
        gallery.compact(progress=False)
    assert files(tmp_path) == before and paths(gallery) == found and paths(Gallery.open(gallery.folder, pair)) == found


def test_many_removed_neighbours_do_not_hide_the_others(pair, name, tmp_path, monkeypatch):
    """An approximate index is asked for more until enough photos that are left are found."""
    photos = galleries.make_photos(tmp_path / "many", 60)
    gallery = Gallery.build(photos, *pair, tmp_path / "M", model_name=name, index="hnsw", progress=False)
    order = paths(gallery)
    gallery.update(remove=order[:40])
    assert paths(gallery, 10) == order[40:50] and paths(gallery) == order[40:]


def test_searches_see_all_of_a_batch_or_nothing(gallery, pair):
    """One photo moves to a new name again and again: every search finds exactly one of both."""
    rows = gallery._reader.take([0])
    named = [rows.set_column(0, "path", pa.array([f"cup/moved{number}.png"])) for number in range(2)]
    gallery.put(named[0], ["cup/000.png"])
    query, stop, wrong = gallery.vectors(np.array([24])), threading.Event(), []

    def look(it):
        while not stop.is_set():
            it.refresh()
            found = [os.path.basename(r.path) for r in it.search_vectors(query, 24)[0]]
            if len(found) != 24 or sum(name.startswith("moved") for name in found) != 1:
                wrong.append(found)

    readers = [threading.Thread(target=look, args=(it,)) for it in (gallery, Gallery.open(gallery.folder, pair))]
    for reader in readers:
        reader.start()
    for number in range(30):
        gallery.put(named[(number + 1) % 2], [f"cup/moved{number % 2}.png"])
        if number % 10 == 9:
            gallery.compact(progress=False)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


@pytest.mark.parametrize("write", ["compact", "update"])
def test_a_search_stays_with_the_state_that_it_began_with(write, photos, gallery, monkeypatch):
    """Rows that are found in one state are never looked up in another."""
    change(photos, gallery)
    wanted, nearest = gallery.search(draw(100), 24), FolderGallery.nearest

    def then_written(self, *args):
        found = nearest(self, *args)
        monkeypatch.setattr(FolderGallery, "nearest", nearest)
        gallery.compact(progress=False) if write == "compact" else gallery.update(remove=["cup/003.png"])
        return found

    monkeypatch.setattr(FolderGallery, "nearest", then_written)
    assert same(gallery.search(draw(100), 24), wanted)
    assert len(gallery.search(draw(100), 24)) == (24 if write == "compact" else 23)


def _put(folder, number):
    gallery = Gallery.open(folder)
    rows = gallery._reader.take([0])
    for batch in range(5):
        gallery.put(rows.set_column(0, "path", pa.array([f"p{number}-{batch}.png"])))


def test_batches_of_several_processes_are_all_there(gallery, pair):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_put, args=(gallery.folder, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert gallery.refresh() and len(gallery) == 34 and len(gallery.manifest["changes"]) == 10


def test_a_gallery_with_changes_is_not_sent_to_a_server_without_them(photos, gallery):
    change(photos, gallery)
    with pytest.raises(ValueError, match="has changes that are not in its table yet"):
        ingest(gallery.folder, client=None)


def test_a_table_is_written_in_files_of_some_rows(photos, gallery, pair, monkeypatch):
    change(photos, gallery)
    monkeypatch.setattr(updates, "FILE_ROWS", 10)
    wanted = paths(gallery)
    gallery.compact(progress=False)
    tables = [it for it in files(gallery.folder) if it.endswith(".parquet")]
    assert [it[-20:] for it in tables] == [f"photos-0000{number}.parquet" for number in range(3)]
    assert paths(Gallery.open(gallery.folder, pair)) == wanted


def test_an_unfinished_batch_is_no_part_of_the_gallery(gallery, pair, monkeypatch):
    """As after a kill between the file of a batch and the manifest."""

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("modeling_splip.search.gallery.replace_manifest", stop)
    with pytest.raises(KeyboardInterrupt):
        gallery.update(remove=["cup/000.png"])
    monkeypatch.undo()
    assert len(gallery) == len(Gallery.open(gallery.folder, pair)) == 24
    gallery.update(remove=["cup/003.png"])
    assert len(gallery) == 23
    gallery.compact(progress=False)
    assert not [it for it in files(gallery.folder) if "changes" in it]


def test_a_moved_gallery_takes_changes(photos, gallery, pair, tmp_path):
    shutil.move(gallery.folder, tmp_path / "moved")
    moved = Gallery.open(tmp_path / "moved", pair)
    change(photos, moved)
    assert len(Gallery.open(tmp_path / "moved", pair)) == 24
