"""`splip prepare`: from miniature archives and real pictures to Parquet that `datasets` reads."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path

import archives
import datasets
import numpy as np
import pytest
from PIL import Image
from preparing import rows, run, tree_of

from datasets_scripts import archive as archive_module
from datasets_scripts import pictures, prepare, writing
from datasets_scripts.archive import Member, list_files
from datasets_scripts.base import Plan, Row
from datasets_scripts.folder import Folder
from datasets_scripts.mini import Mini
from datasets_scripts.pictures import photo_id_of
from modeling_splip.commands.main import main
from modeling_splip.common.files import remove
from modeling_splip.data.dataset import open_dataset
from modeling_splip.data.protocols import PROTOCOLS, protocol_view

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
COLUMNS = ["image", "modality", "label", "instance_id", "source", "copies"]


@pytest.fixture
def own_folder(tmp_path) -> Path:
    """Three classes as a user may have them: two spellings of one class, no pairs."""
    tree = {}
    for name in ("cat", "stop_sign", "T-Rex"):
        tree |= {f"photo/{name}/{k}.jpg": archives.image(f"{name} {k}") for k in range(3)}
        sketches = name.replace("_", " ")
        tree |= {f"sketch/{sketches}/s{k}.png": archives.image(f"{name} s{k}", "PNG") for k in range(2)}
    return archives.write(tree, tmp_path / "own")


# Anyone's own folder


def test_a_folder_becomes_three_splits(own_folder, tmp_path):
    summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "Stop-Sign")
    assert summary["name"] == "own"
    assert summary["seen"] == ["T-Rex", "cat"] and summary["unseen"] == ["stop sign"]
    assert summary["counts"] == {"train": {"photo": 6, "sketch": 4}, "query": {"sketch": 2}, "gallery": {"photo": 3}}
    assert summary["problems"] == {}
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(data) for split, data in loaded.items()} == {"train": 10, "query": 2, "gallery": 3}
    assert loaded["train"].column_names == COLUMNS
    assert loaded["query"].features["label"].names == ["T-Rex", "cat", "stop sign"]
    assert isinstance(loaded["gallery"][0]["image"], Image.Image)
    assert {row["instance_id"] for row in rows(tmp_path / "out", "gallery")} == {f"stop sign/{k}" for k in range(3)}
    assert {row["instance_id"] for row in rows(tmp_path / "out", "query")} == {""}


def test_swapped_folders_are_doubted_in_one_line(tmp_path, capsys):
    """And in what is recorded; nothing is refused."""
    for name in ("sketch", "photo"):
        for label in ("cat", "dog"):
            (tmp_path / "right" / name / label).mkdir(parents=True)
            for number in range(3):
                picture = Image.effect_noise((60, 40), 90) if name == "photo" else Image.new("L", (60, 40), 255)
                if name == "sketch":
                    picture.paste(0, (5 + number, 5, 7 + number, 35))
                picture.save(tmp_path / "right" / name / label / f"{number}.png")
    shutil.copytree(tmp_path / "right" / "sketch", tmp_path / "wrong" / "photo")
    shutil.copytree(tmp_path / "right" / "photo", tmp_path / "wrong" / "sketch")
    line = (
        "6 of 6 sketches do not look drawn and 6 of 6 photos look like line drawings: are sketches and photos swapped?"
    )
    summary = run("folder", "--data-dir", tmp_path / "right", "--out", tmp_path / "a", "--unseen", "cat")
    assert "doubt" not in summary["report"] and "  doubt: " not in capsys.readouterr().out
    summary = run("folder", "--data-dir", tmp_path / "wrong", "--out", tmp_path / "b", "--unseen", "cat")
    assert summary["report"]["doubt"] == line and f"  doubt: {line}\n" in capsys.readouterr().out


def test_a_prepared_dataset_streams_by_its_name(own_folder, tmp_path):
    run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat", "--title", "mine")
    stream = datasets.load_dataset(str(tmp_path / "out"), "mine", split="train", streaming=True)
    examples = list(stream)
    assert len(examples) == 10
    assert {example["image"].size for example in examples} == {(8, 8)}


def test_load_dataset_never_takes_another_content_from_its_cache(own_folder, tmp_path):
    read = []
    for place in ("one", "two"):
        (own_folder / "photo" / "cat" / "0.jpg").write_bytes(archives.image(place))
        out = tmp_path / place / "same"
        out.parent.mkdir()
        run("folder", "--data-dir", own_folder, "--out", out, "--unseen", "cat", "--title", "same")
        photos = datasets.load_dataset(str(out), "same", split="gallery", cache_dir=str(tmp_path / "cache"))
        read.append(photos[0]["image"].tobytes())
    assert read[0] != read[1]


def test_bytes_are_stored_as_they_are_on_disk(own_folder, tmp_path):
    run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    stored = {row["image"]["bytes"] for split in ("train", "query", "gallery") for row in rows(tmp_path / "out", split)}
    assert stored == set(tree_of(own_folder).values())


def test_bytes_are_stored_even_where_the_current_folder_has_such_files(own_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(own_folder)
    (own_folder / "0.jpg").write_bytes(b"not this one")
    run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    photos = [row["image"]["bytes"] for row in rows(tmp_path / "out", "gallery")]
    assert photos == [archives.image(f"cat {k}") for k in range(3)]


def test_a_split_file_may_leave_classes_out(own_folder, tmp_path):
    (tmp_path / "s.json").write_text('{"name": "two", "seen": ["t rex"], "unseen": ["cat"]}')
    summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--split-file", tmp_path / "s.json")
    assert (summary["name"], summary["seen"], summary["unseen"]) == ("two", ["T-Rex"], ["cat"])
    assert summary["problems"] == {"classes_in_no_list": ["stop sign"]}
    assert summary["counts"]["train"] == {"photo": 3, "sketch": 2}


@pytest.fixture
def pairs_folder(tmp_path) -> Path:
    tree = {f"photo/{c}/a{k}.jpg": archives.image(f"{c} {k}") for c in ("cat", "dog") for k in range(2)}
    tree["photo/dog/a1.png"] = archives.image("dog 1", "PNG")
    for c in ("cat", "dog"):
        tree |= {
            f"sketch/{c}/a{k}-{n}.png": archives.image(f"{c} {k} {n}", "PNG") for k in range(2) for n in (1, 2, 12)
        }
    tree["sketch/dog/lost-1.png"] = archives.image("lost", "PNG")
    return archives.write(tree, tmp_path / "pairs")


def test_instance_pairs_are_found_out(pairs_folder, tmp_path):
    summary = run("folder", "--data-dir", pairs_folder, "--out", tmp_path / "out", "--unseen", "dog")
    assert summary["report"]["instance_pairs"] is True
    assert summary["problems"] == {"unpaired": ["sketch/dog/lost-1.png"]}
    drawn_of = {row["image"]["path"]: row["instance_id"] for row in rows(tmp_path / "out", "query")}
    assert drawn_of["a1-12.png"] == "dog/a1" and drawn_of["lost-1.png"] == ""
    photos = [row["instance_id"] for row in rows(tmp_path / "out", "gallery")]
    assert sorted(photos) == ["dog/a0", "dog/a1", "dog/a1.png"]


def test_equal_photos_are_one_row_that_pairs_know_by_both_names(pairs_folder, tmp_path):
    (pairs_folder / "photo" / "dog" / "b.jpg").write_bytes(archives.image("dog 1"))
    (pairs_folder / "sketch" / "dog" / "b-1.png").write_bytes(archives.image("b", "PNG"))
    (pairs_folder / "photo" / "dog" / "deep").mkdir()
    (pairs_folder / "photo" / "dog" / "deep" / "c.jpg").write_bytes(archives.image("c"))
    summary = run("folder", "--data-dir", pairs_folder, "--out", tmp_path / "out", "--unseen", "dog")
    assert summary["report"]["photos_merged_same_bytes"] == ["photo/dog/b.jpg"]
    assert summary["problems"]["too_deep"] == ["photo/dog/deep/c.jpg"]
    copies = {row["instance_id"]: row["copies"] for row in rows(tmp_path / "out", "gallery")}
    assert copies == {"dog/a0": 1, "dog/a1": 2, "dog/a1.png": 1}
    assert {row["image"]["path"]: row["instance_id"] for row in rows(tmp_path / "out", "query")}["b-1.png"] == "dog/a1"


def test_several_places_stop(own_folder, tmp_path):
    shutil.copytree(own_folder / "photo", own_folder / "more" / "images")
    with pytest.raises(ValueError, match=r"photo folders in several places \('more/images', 'photo'\): keep one"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")


def test_names_that_no_configuration_may_have(own_folder, tmp_path):
    with pytest.raises(ValueError, match="--title 'my/data' holds one of"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat", "--title", "my/data")
    odd = own_folder.rename(tmp_path / "a:b")
    assert run("folder", "--data-dir", odd, "--out", tmp_path / "out", "--unseen", "cat")["name"] == "a-b"


def test_instance_pairs_can_be_refused_and_demanded(pairs_folder, own_folder, tmp_path):
    run("folder", "--data-dir", pairs_folder, "--out", tmp_path / "out", "--unseen", "dog", "--no-pairs")
    assert {row["instance_id"] for row in rows(tmp_path / "out", "query")} == {""}
    with pytest.raises(ValueError, match="--pairs finds no sketch that names a photo"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "no", "--unseen", "cat", "--pairs")


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--unseen", "catt"], ValueError, r"'catt' \(nearest known: 'cat'\)"),
        ([], ValueError, "There is no split: give --unseen"),
        (["--unseen", "cat", "--split", "real-mini"], ValueError, "Give either a split or --unseen"),
        (["--split", "nowhere.json"], FileNotFoundError, r"Split 'nowhere\.json' is neither a file nor"),
        (["--unseen", "cat", "--num-proc", "0"], ValueError, "--num-proc is 0"),
        (["--unseen", "cat", "--sketch-list", "all"], ValueError, "--sketch-list does not go with 'folder'"),
    ],
)
def test_wrong_arguments_stop_with_nothing_written(own_folder, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == [own_folder]


def test_an_unknown_dataset_names_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"There is no dataset 'sketchy3'; did you mean 'sketchy2'"):
        run("sketchy3", "--out", tmp_path / "out")


def test_missing_photos_and_sketches_stop(own_folder, tmp_path):
    shutil.rmtree(own_folder / "photo" / "cat")
    with pytest.raises(ValueError, match="There are no photos for 'cat'"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "T-Rex")
    shutil.rmtree(own_folder / "sketch" / "T-Rex")
    shutil.rmtree(own_folder / "sketch" / "cat")
    with pytest.raises(ValueError, match="There are no sketches for seen 'T-Rex'"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "stop sign")
    shutil.rmtree(own_folder / "photo")
    with pytest.raises(ValueError, match="There are no images in photo/<class>/"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    assert list(tmp_path.iterdir()) == [own_folder]


def test_an_unseen_class_without_sketches_is_named(own_folder, tmp_path):
    shutil.rmtree(own_folder / "sketch" / "cat")
    summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat,stop sign")
    assert summary["problems"] == {"classes_without_sketches": ["cat"]}
    assert summary["counts"]["gallery"] == {"photo": 6}


@pytest.mark.parametrize(("unseen", "empty"), [("cat", "query")])
def test_an_empty_split_stops(own_folder, tmp_path, unseen, empty):
    shutil.rmtree(own_folder / "sketch" / "cat")
    with pytest.raises(ValueError, match=f"There are no images for '{empty}'.*Nothing was written"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", unseen)
    assert list(tmp_path.iterdir()) == [own_folder]


def test_a_test_set_is_prepared_opened_and_trains_nothing(pairs_folder, tmp_path, capsys):
    summary = run("folder", "--data-dir", pairs_folder, "--out", tmp_path / "out", "--unseen", "all")
    assert summary["seen"] == [] and summary["unseen"] == ["cat", "dog"]
    assert summary["counts"]["train"] == {} and not list((tmp_path / "out/data").glob("train*"))
    assert "lacks: pictures of seen classes: it tests models" in capsys.readouterr().out
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"query", "gallery"}
    dataset = open_dataset(tmp_path / "out")
    assert len(dataset.train) == 0 and dataset.class_names == ["cat", "dog"]
    queries = {name: len(protocol_view(dataset, name).query[0].rows) for name in ("zs", "fg-class")}
    assert queries == {"zs": 13, "fg-class": 12}
    for protocol in PROTOCOLS:
        if protocol.startswith("gzs"):
            with pytest.raises(ValueError, match=f"'pairs' is a test set .* and '{protocol}' adds seen photos"):
                protocol_view(dataset, protocol)
    with pytest.raises(ValueError, match="'pairs' is a test set without seen classes, so nothing can be trained on it"):
        dataset.hold_back(0, seed=0)


def test_what_a_kill_between_the_renames_leaves_is_put_back(own_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ("folder", "--data-dir", own_folder, "--out", out, "--unseen")
    run(*arguments, "cat")
    before, real = tree_of(out), os.replace

    def killed(source, target):
        if Path(source).name == "out.partial":
            raise KeyboardInterrupt
        real(source, target)

    for overwrite in ((), ("--overwrite",)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(prepare.os, "replace", killed)
            run(*arguments, "T-Rex", "--overwrite")
        assert not out.exists()
        if not overwrite:
            with pytest.raises(ValueError, match="exists: choose another --out"):
                run(*arguments, "T-Rex")
            assert tree_of(out) == before
        else:
            assert run(*arguments, "T-Rex", "--overwrite")["unseen"] == ["T-Rex"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]
    assert not (out / "old").exists()


def test_what_a_kill_after_the_renames_leaves_goes_with_the_next_run(own_folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ("folder", "--data-dir", own_folder, "--out", out, "--overwrite", "--unseen")
    run(*arguments, "cat")

    def killed(path):
        if path == out / "old":
            raise KeyboardInterrupt
        remove(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "remove", killed)
        run(*arguments, "T-Rex")
    assert (out / "old").is_dir()
    run(*arguments, "T-Rex")
    assert not (out / "old").exists()


def test_side_files_of_file_managers_do_not_fill_a_folder(own_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").write_bytes(b"")
    run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    assert not (tmp_path / "out" / ".DS_Store").exists()


def test_only_the_formats_that_everything_reads_are_taken(own_folder, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n0 0 40 40 rectfill\nshowpage\n%%EOF\n"
    cat = own_folder / "photo" / "cat"
    (cat / "e.jpg").write_bytes(eps)
    (cat / "e.eps").write_bytes(eps)
    for name, kind in (("i.ico", "ICO"), ("t.tga", "TGA"), ("p.pcx", "PCX")):
        Image.new("RGB", (32, 32), "red").save(cat / name, kind)
    for name, high in (("bright.tif", 255.0), ("fine.tif", 1.0)):
        Image.fromarray(np.linspace(0, high, 64, dtype=np.float32).reshape(8, 8)).save(cat / name)
    summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    assert not (tmp_path / "started").exists()
    assert summary["problems"] == {
        "junk": [f"photo/cat/{name}" for name in ("e.eps", "i.ico", "p.pcx", "t.tga")],
        "unreadable": [
            "photo/cat/bright.tif (Floats must lie in 0..1, got 0.0..255.0.)",
            "photo/cat/e.jpg (no image of a known kind)",
        ],
    }
    assert summary["counts"]["gallery"] == {"photo": 4}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_file_whose_name_is_no_text_is_named_and_left_out(own_folder, tmp_path):
    (own_folder / "photo" / "cat" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(archives.image("x"))
    summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    assert summary["problems"] == {"junk": ["photo/cat/caf?.jpg"]}


@pytest.fixture
def damaged_folder(own_folder) -> Path:
    """With an image cut short, an empty one, a PNG called .jpg, a text file, and an image without extension."""
    (own_folder / "photo/cat/0.jpg").write_bytes(archives.image("cut short", size=64)[:-500])
    (own_folder / "sketch/cat/s0.png").write_bytes(b"")
    (own_folder / "photo/cat/1.jpg").write_bytes(archives.image("a PNG", "PNG"))
    (own_folder / "photo/cat/notes.txt").write_text("not an image")
    (own_folder / "photo/Thumbs.db").write_text("junk")
    (own_folder / "photo/cat/a cat in the sun").write_bytes(archives.image("free name"))
    return own_folder


def test_bad_files_are_named_and_the_rest_goes_on(damaged_folder, tmp_path):
    summary = run("folder", "--data-dir", damaged_folder, "--out", tmp_path / "out", "--unseen", "cat")
    assert summary["problems"] == {
        "junk": ["photo/Thumbs.db", "photo/cat/notes.txt"],
        "unreadable": [
            "photo/cat/0.jpg (image file is truncated (113 bytes not processed))",
            "sketch/cat/s0.png (no image of a known kind)",
        ],
        "wrong_extension": ["photo/cat/1.jpg (PNG)", "photo/cat/a cat in the sun (JPEG)"],
    }
    assert summary["counts"]["query"] == {"sketch": 1} and summary["counts"]["gallery"] == {"photo": 3}


def test_pipes_and_devices_are_named_and_never_read(own_folder, tmp_path):
    os.mkfifo(own_folder / "photo" / "cat" / "pipe.jpg")
    os.mkfifo(own_folder / "photo" / "cat" / "pipe")
    (own_folder / "photo" / "cat" / "zero.jpg").symlink_to("/dev/zero")
    summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "T-Rex")
    assert summary["counts"]["train"]["photo"] == 6
    assert summary["problems"]["unreadable"] == [f"photo/cat/{name}.jpg (no regular file)" for name in ("pipe", "zero")]
    assert summary["problems"]["junk"] == ["photo/cat/pipe"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_an_archive_that_unpacks_to_many_times_its_size_is_refused(own_folder, tmp_path, kind, monkeypatch, capsys):
    """One that is small when unpacked may do so."""
    tree = tree_of(own_folder) | {"photo/cat/bomb.jpg": bytes(8_000_000)}
    bomb = tmp_path / f"bomb.{kind}"
    if kind == "tar.xz":
        with tarfile.open(bomb, "w:xz") as archive:
            archive.add(archives.write(tree, tmp_path / "tree"), ".")
    else:
        archives.write(tree, bomb)
    assert bomb.stat().st_size < 80_000
    arguments = ["prepare", "folder", "--data-dir", str(bomb), "--unseen", "T-Rex", "--out"]
    assert main([*arguments, str(tmp_path / "small")]) == 0  # 8 MB
    monkeypatch.setattr(archive_module, "ALWAYS_BYTES", 1_000_000)
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"splip: '{bomb}' unpacks to more than 100 times its size, which no archive of pictures does: if you trust it, "
        "unpack it yourself and name its folder."
    )
    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_larger_than_the_disk_is_refused_before_it_is_full(own_folder, tmp_path, monkeypatch):
    archive = archives.write(tree_of(own_folder), tmp_path / "own.tar.gz")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda path: usage._replace(free=3000))
    with pytest.raises(ValueError, match=r"unpacks to more than the 3,000 bytes that are free beside --out"):
        run("folder", "--data-dir", archive, "--unseen", "T-Rex", "--out", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_picture_that_is_larger_than_any_is_named_and_not_read(own_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 100_000)
    tree = tree_of(own_folder) | {"photo/cat/large.jpg": bytes(100_001), "photo/cat/large": bytes(100_001)}
    monkeypatch.setattr(
        Member, "read", lambda it, read=Member.read: pytest.fail(it.path) if "large" in it.path else read(it)
    )
    archive = archives.write(tree, tmp_path / "own.zip")
    summary = run("folder", "--data-dir", archive, "--unseen", "T-Rex", "--out", tmp_path / "out")
    assert summary["problems"] == {
        "junk": ["photo/cat/large"],
        "unreadable": ["photo/cat/large.jpg (100,001 bytes, more than 100,000)"],
    }


def test_strict_stops_and_leaves_nothing(damaged_folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"--strict found 2 junk.*2 unreadable: 'photo/cat/0\.jpg.*Nothing was written"
    ):
        run("folder", "--data-dir", damaged_folder, "--out", tmp_path / "out", "--unseen", "cat", "--strict")
    assert list(tmp_path.iterdir()) == [damaged_folder]


def test_an_output_that_exists_is_not_touched(own_folder, tmp_path):
    out = tmp_path / "out"
    arguments = ("folder", "--data-dir", own_folder, "--out", out, "--unseen")
    first = run(*arguments, "cat")
    before = tree_of(out)
    with pytest.raises(ValueError, match="exists: choose another --out"):
        run(*arguments, "cat")
    assert tree_of(out) == before
    assert run(*arguments, "T-Rex", "--overwrite")["version"] != first["version"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]
    (out / "splip_dataset.json").unlink()
    with pytest.raises(ValueError, match="not a prepared dataset"):
        run(*arguments, "cat", "--overwrite")


def test_an_output_that_cannot_be_written_stops(own_folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Cannot write to.*file'.*choose another --out"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "file" / "out", "--unseen", "cat")


# Restart, processes, memory, version


def test_an_interrupted_run_goes_on_where_it_stopped(own_folder, tmp_path, monkeypatch):
    arguments = ("folder", "--data-dir", own_folder, "--unseen", "cat", "--title", "x", "--out")
    whole = run(*arguments, tmp_path / "whole")
    real, calls = writing._write_shard, []

    def interrupted(columns, job, path, update):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job.split)
        return real(columns, job, path, update)

    monkeypatch.setattr(writing, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*arguments, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.partial/data").glob("*.parquet")}
    assert len(kept) == 2
    monkeypatch.setattr(writing, "_write_shard", lambda *a: calls.append(a[1].split) or real(*a))
    again = run(*arguments, tmp_path / "out")
    assert calls == ["train", "query", "gallery"]
    assert again == whole
    assert (tmp_path / "out/data/train-00000-of-00001.parquet").stat().st_mtime_ns in kept.values()
    assert sorted(tree_of(tmp_path / "out")) == sorted(tree_of(tmp_path / "whole"))


def test_workers_end_with_a_main_process_that_is_killed(own_folder, tmp_path):
    # As by a scheduler or for want of memory. Every worker writes one file and then works on, here by sleeping.
    hold = "writing._write_shard = lambda *a, write=writing._write_shard: write(*a) and time.sleep(600)"
    script = f"import sys, time; from datasets_scripts import writing; {hold}; "
    script += "from modeling_splip.commands.main import main; main(sys.argv[1:])"
    arguments = ["prepare", "folder", "--data-dir", own_folder, "--unseen", "cat", "--title", "x", "--num-proc", "2"]
    arguments = [*map(str, arguments), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as main:
        while main.poll() is None and len(list((tmp_path / "out.partial/data").glob("*.json"))) < 2:
            time.sleep(0.05)
        assert main.poll() is None, main.stdout.read()
        main.kill()
        main.communicate(timeout=60)  # ends when the last process that holds the pipe does
    whole = run("folder", "--data-dir", own_folder, "--unseen", "cat", "--title", "x", "--out", tmp_path / "whole")
    assert run(*arguments[1:]) == whole


def test_an_interrupted_run_of_other_data_is_not_continued(own_folder, tmp_path, monkeypatch):
    arguments = ("folder", "--data-dir", own_folder, "--out", tmp_path / "out", "--unseen", "cat")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writing, "_finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        run(*arguments)
    (own_folder / "photo/cat/9.jpg").write_bytes(archives.image("new"))
    assert run(*arguments)["counts"]["gallery"] == {"photo": 4}


def test_the_version_tells_data_apart_but_not_where_they_lie(own_folder, tmp_path):
    arguments = ("--unseen", "cat", "--title", "x", "--out")
    first = run("folder", "--data-dir", own_folder, *arguments, tmp_path / "1")["version"]
    archives.write(tree_of(own_folder), tmp_path / "packed.zip")
    assert run("folder", "--data-dir", tmp_path / "packed.zip", *arguments, tmp_path / "2")["version"] == first
    (own_folder / "photo/cat/0.jpg").write_bytes(archives.image("other"))
    assert run("folder", "--data-dir", own_folder, *arguments, tmp_path / "3")["version"] != first


def test_two_processes_write_the_same(damaged_folder, tmp_path):
    arguments = ("folder", "--data-dir", damaged_folder, "--unseen", "cat", "--title", "x", "--out")
    one = run(*arguments, tmp_path / "one")
    two = run(*arguments, tmp_path / "two", "--num-proc", "2")
    assert one == two
    assert [rows(tmp_path / "one", s) for s in ("train", "query")] == [
        rows(tmp_path / "two", s) for s in ("train", "query")
    ]


@pytest.mark.parametrize(
    ("name", "photo"),
    [("n02691156_58-1.png", "n02691156_58"), ("a-b-12.png", "a-b"), ("a-b.png", ""), ("plain.png", "")],
)
def test_the_photo_of_a_sketch(name, photo):
    assert photo_id_of(name) == photo


def test_shards_are_cut_by_bytes_and_rows():
    sizes = [5, 5, 5, 20, 1, 1, 1, 1]
    made = [Row(Member(str(i), size, "", ""), "photo", "x", "", "user", 1) for i, size in enumerate(sizes)]
    shards = writing.make_shards(made, most_bytes=10, most_rows=3)
    assert [[row.picture.size for row in shard] for shard in shards] == [[5, 5], [5], [20], [1, 1, 1], [1]]


def test_memory_does_not_grow_with_the_data(tmp_path):
    photo = tmp_path / "large.png"
    photo.write_bytes(archives.image("large", "PNG", 256))
    member = list_files(tmp_path)[0]
    count = 600
    assert member.size > 190_000

    many = [Row(member._replace(path=f"{i}.png"), "photo", "x", str(i), "user", 1) for i in range(count)]
    plan = Plan(["x"], [], {"train": many, "query": [], "gallery": []})
    (tmp_path / "data").mkdir()
    tracemalloc.start()
    writing.write_shards(plan, tmp_path / "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * member.size / 2


# Real pictures, the drawn world, the builder by itself, the Hub


def test_real_categories(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"the real drawings and photos are not at {SHARED}")
    summary = run("folder", "--data-dir", SHARED / "real_mini", "--out", tmp_path / "out", "--split", "real-mini")
    assert summary["name"] == "real-mini" and summary["problems"] == {}
    assert summary["counts"] == {
        "train": {"photo": 821, "sketch": 724},
        "query": {"sketch": 262},
        "gallery": {"photo": 339},
    }
    assert summary["report"]["instance_pairs"] is False


def test_real_pairs(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"the real drawings and photos are not at {SHARED}")
    summary = run("folder", "--data-dir", SHARED / "real_fg", "--out", tmp_path / "out", "--split", "real-fg")
    assert summary["report"]["instance_pairs"] is True and summary["problems"] == {}
    assert summary["counts"]["query"] == {"sketch": 421} and summary["counts"]["gallery"] == {"photo": 79}
    photos = {row["instance_id"] for row in rows(tmp_path / "out", "gallery")}
    assert {row["instance_id"] for row in rows(tmp_path / "out", "query")} <= photos


def test_the_drawn_world_is_prepared_by_name():
    args = argparse.Namespace(name="mini", **dict.fromkeys(prepare.OPTIONS))
    builder = prepare.make_builder(args)
    plan = builder.plan()
    assert builder.title == "mini-fold0"
    assert set(plan.seen).isdisjoint(plan.unseen)
    args.name = "mini-fold9"
    with pytest.raises(ValueError, match="There is no dataset 'mini-fold9'; did you mean 'mini-fold2'"):
        prepare.make_builder(args)


def test_the_builder_works_without_the_command(own_folder, tmp_path):
    summary = prepare.prepare(Folder("folder", str(own_folder), unseen=["cat"], own_title="x"), tmp_path / "out")
    by_command = run("folder", "--data-dir", own_folder, "--unseen", "cat", "--title", "x", "--out", tmp_path / "two")
    assert summary == by_command
    small = Mini("mini-tuning", train_photos=1, gallery_photos=1, fine_photos=1, fine_sketches=1)
    assert prepare.prepare(small, tmp_path / "small")["counts"]["query"] == {"sketch": 10}


def test_pushing_creates_a_repository_and_uploads_the_folder(own_folder, tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Hub:  # the real one needs a network
        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options["repo_type"], options["private"]))

        def upload_folder(self, folder_path, repo_id, repo_type):
            calls.append((repo_id, repo_type, sorted(tree_of(Path(folder_path)))))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    arguments = ("--out", tmp_path / "out", "--unseen", "cat", "--push-to-hub", "me/data", "--private")
    run("folder", "--data-dir", own_folder, *arguments)
    assert calls[0] == ("me/data", "dataset", True)
    assert calls[1] == ("me/data", "dataset", sorted(tree_of(tmp_path / "out")))


def test_a_failed_push_keeps_the_dataset_and_says_so(own_folder, tmp_path):
    arguments = ("--out", tmp_path / "out", "--unseen", "cat", "--push-to-hub", "not a repository id")
    with pytest.raises(OSError, match=r"out' is prepared, but pushing it to 'not a repository id' failed: \w+"):
        run("folder", "--data-dir", own_folder, *arguments)
    assert (tmp_path / "out" / "splip_dataset.json").is_file()


def test_the_page_about_data_names_every_benchmark_and_option():
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text("utf-8")
    for name in prepare.benchmarks():
        assert f"splip prepare {name}" in page or f"`{name} ...`" in page
    parser = argparse.ArgumentParser()
    prepare.add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings}
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", page):
        assert option in known | {"--gallery"}


def test_class_names_with_commas_can_be_passed(own_folder, tmp_path):
    for modality in ("sketch", "photo"):
        (own_folder / modality / "cat").rename(own_folder / modality / "cat, wild")
    names = tmp_path / "names.txt"
    names.write_text("cat, wild\nT-Rex\n", "utf-8")
    for number, words in enumerate((["--unseen", "cat, wild", "--unseen", "T-Rex"], ["--unseen", f"@{names}"])):
        summary = run("folder", "--data-dir", own_folder, "--out", tmp_path / f"out{number}", *words)
        assert set(summary["unseen"]) == {"cat, wild", "T-Rex"} and summary["seen"] == ["stop sign"]
    with pytest.raises(ValueError, match=r"file of names '.*nowhere' cannot be read"):
        run("folder", "--data-dir", own_folder, "--out", tmp_path / "no", "--unseen", f"@{tmp_path / 'nowhere'}")
