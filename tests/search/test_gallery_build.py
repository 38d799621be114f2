"""What a build keeps, and what is left after a crash."""

import contextlib
import json
import os
import shutil
import sys

import filelock
import galleries
import numpy as np
import pytest
import torch
from galleries import draw, files, make_photos, same
from launch import ROOT, accelerate, run

from modeling_splip.search import build, encode
from modeling_splip.search import gallery as gallery_module
from modeling_splip.search.build import build_gallery
from modeling_splip.search.encode import PRECISIONS
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def test_an_update_encodes_only_what_is_new(photos, pair, name, tmp_path, gallery):
    assert build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False).encoded == 0
    draw(200, "blue").save(photos / "cup" / "new.png")
    draw(201, "blue").save(photos / "cup" / "000.png")  # changed
    (photos / "zebra" / "001.png").unlink()
    (photos / "owl").mkdir()
    shutil.move(photos / "ant" / "002.png", photos / "owl" / "moved.png")
    report = build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert (report.count, report.encoded, report.removed) == (24, 2, 2)
    updated = Gallery.open(tmp_path / "G", pair)
    fresh = Gallery.build(photos, *pair, tmp_path / "fresh", model_name=name, progress=False)
    assert same(updated.search(draw(100), 24), fresh.search(draw(100), 24))
    assert len(list((tmp_path / "G").iterdir())) == 3  # one data folder, manifest, card
    assert not (tmp_path / "G.partial").exists()


def test_a_gallery_replaced_under_a_reader_is_still_readable(photos, pair, name, gallery, tmp_path):
    result = gallery.search(draw(100), 1)[0]
    (photos / "cup" / "000.png").unlink()
    build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert result.thumbnail.size == (40, 30)


def test_killed_while_encoding_goes_on_from_the_finished_shards(tmp_path, pair, name):
    folder = make_photos(tmp_path / "photos", 300)
    script = (
        "import os, signal, sys\n"
        "from modeling_splip.search import encode\n"
        "from modeling_splip.commands.main import main\n"
        "write = encode._write_shard\n"
        "def then_die(*args):\n"
        "    write(*args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "encode._write_shard = then_die\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "index", str(folder), "--model", name, "--out", str(tmp_path / "G")]
    assert run(command).returncode == -9
    assert not (tmp_path / "G").exists()
    with pytest.raises(FileNotFoundError, match="There is no gallery folder"):
        Gallery.open(tmp_path / "G")
    report = build_gallery(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    assert (report.count, report.encoded) == (300, 300 - 128)
    fresh = Gallery.build(folder, *pair, tmp_path / "fresh", model_name=name, progress=False)
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 300), fresh.search(draw(100), 300))


@pytest.mark.parametrize("first", [True, False], ids=["first build", "update"])
def test_killed_at_any_moment_there_is_the_old_gallery_or_the_new(first, photos, pair, name, tmp_path):
    before = []
    if not first:
        build_gallery(photos, *pair, tmp_path / "before", model_name=name, progress=False)
        before = [str(tmp_path / "before")]
        (photos / "cup" / "000.png").unlink()
        draw(200, "blue").save(photos / "cup" / "new.png")
        draw(201, "blue").save(photos / "zebra" / "new.png")
    script = [sys.executable, str(ROOT / "tests" / "kill_index.py")]
    done = run([*script, name, str(photos), str(tmp_path / "G"), *before], timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout)
    old, new = (None, 24) if first else (24, 25)
    left = [count for count, _ in counts]
    switch = left.index(new)  # one moment parts the old gallery from the new one
    assert switch > 8 and set(left[:switch]) == {old} and set(left[switch:]) == {new}
    assert [after for _, after in counts] == [new] * len(counts)


def test_two_processes_build_the_same_gallery(tmp_path, pair, name):
    folder = make_photos(tmp_path / "photos", 300)
    command = ["-m", "modeling_splip", "index", str(folder), "--model", name, "--out", str(tmp_path / "G")]
    done = run([*accelerate(2), *command], timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("300 photos (300 encoded, 0 already known, 0 removed)") == 1
    fresh = Gallery.build(folder, *pair, tmp_path / "fresh", model_name=name, progress=False)
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 300), fresh.search(draw(100), 300))


def test_a_second_build_at_once_is_refused(photos, pair, tmp_path):
    (tmp_path / "G.partial").mkdir()
    with (
        filelock.FileLock(tmp_path / "G.partial" / "lock"),
        pytest.raises(OSError, match="Another process is building"),
    ):
        build_gallery(photos, *pair, tmp_path / "G", progress=False)


def test_bad_outputs_are_refused_and_left_alone(photos, pair, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    before = files(tmp_path)
    for out, sentence in (
        ("file", "is a file: pass a folder"),
        ("mine", r"holds other files \(thesis.tex\)"),
        ("file/G", "cannot be written"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            build_gallery(photos, *pair, tmp_path / out, progress=False)
    for options, sentence in (
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"batch_size": 1.5}, "batch_size must be a whole number of at least 1, got 1.5"),
        ({"workers": -1}, "workers must be a whole number of at least 1, got -1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Gallery.build(photos, *pair, tmp_path / "G", progress=False, **options)
    assert files(tmp_path) == before


def test_side_files_of_other_programs_do_not_stop_an_update(photos, pair, name, gallery):
    for side in (".DS_Store", "Thumbs.db", "desktop.ini", ".gitattributes", "._manifest.json"):
        (gallery.folder / side).touch()
    (gallery.folder / ".cache" / "huggingface").mkdir(parents=True)
    draw(200, "teal").save(photos / "cup" / "new.png")
    assert len(Gallery.build(photos, *pair, gallery.folder, model_name=name, progress=False)) == 25
    assert (gallery.folder / ".DS_Store").exists()


def test_there_may_be_more_shards_than_open_files(tmp_path, pair, name, monkeypatch):
    """At 128 photos a shard, 131,000 new photos are more than the usual 1,024 files."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(build, "GROUP_ROWS", 1)
    folder = make_photos(tmp_path / "photos", 150)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 60, before[1]))
    try:
        report = build_gallery(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert report.count == report.encoded == 150


@pytest.mark.parametrize("year", [1960, 2300])
def test_a_photo_of_any_date_is_indexed(photos, pair, name, gallery, year):
    seconds = (year - 1970) * 31_556_952
    try:
        os.utime(photos / "cup" / "000.png", (seconds, seconds))
    except OSError:
        pytest.skip("this file system has no such dates")
    draw(300).save(photos / "cup" / "000.png.bmp")
    os.utime(photos / "cup" / "000.png.bmp", (seconds, seconds))
    for encoded in (1, 0):
        report = build_gallery(photos, *pair, gallery.folder, model_name=name, progress=False)
        assert (report.count, report.encoded, report.unreadable) == (25, encoded, [])


@pytest.mark.parametrize("planted", ["G.partial", "G.partial/lock", "G.partial/manifest.json", "G.partial/README.md"])
def test_no_write_follows_a_link(photos, pair, name, tmp_path, planted):
    mine = tmp_path / "mine"
    (mine / "folder").mkdir(parents=True)
    (mine / "file").write_text("mine")
    (tmp_path / planted).parent.mkdir(exist_ok=True)
    (tmp_path / planted).symlink_to(mine if planted == "G.partial" else mine / "file")
    with contextlib.suppress(ValueError):
        build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert (mine / "file").read_text() == "mine" and files(mine) == ["file", "folder"]


def test_opened_while_another_process_publishes(photos, pair, name, gallery, monkeypatch):
    draw(200, "teal").save(photos / "cup" / "new.png")
    read = gallery_module.read_manifest

    def old_manifest_first(folder):
        manifest = read(folder)
        monkeypatch.setattr(gallery_module, "read_manifest", read)
        Gallery.build(photos, *pair, folder, model_name=name, progress=False)  # removes the data folder named here
        return manifest

    monkeypatch.setattr(gallery_module, "read_manifest", old_manifest_first)
    assert len(Gallery.open(gallery.folder)) == 25


def test_half_precision_moves_embeddings_a_little_and_names_the_same_model(photos, pair, tmp_path):
    """The towers compute in bfloat16, the embeddings are float32 of unit norm, and the gallery is that of the model."""
    built = {name: Gallery.build(photos, *pair, tmp_path / name, precision=name, progress=False) for name in PRECISIONS}
    found = {name: gallery.vectors(np.arange(len(gallery))) for name, gallery in built.items()}
    exact, half = found["fp32"], found["bf16"]
    assert built["auto"].manifest["fingerprint"] == built["bf16"].manifest["fingerprint"]
    assert np.array_equal(found["auto"], half if torch.cuda.is_available() else exact)
    assert half.dtype == np.float32 and not np.array_equal(half, exact)
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, rtol=0, atol=1e-5)
    assert (half * exact).sum(axis=1).min() > 0.999
    with pytest.raises(ValueError, match=r"precision must be one of auto, fp32, bf16, got 'fp16'\."):
        Gallery.build(photos, *pair, tmp_path / "other", precision="fp16")


def test_threads_by_the_device(monkeypatch):
    monkeypatch.setattr(encode, "cores", lambda: 40)
    assert encode.decoding_threads("cpu") == 8 and encode.decoding_threads("cuda:1") == 40
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert [encode.computes_half(name, "cuda") for name in PRECISIONS] == [True, False, True]
    assert [encode.computes_half(name, "cpu") for name in PRECISIONS] == [False, False, True]
