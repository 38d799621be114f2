"""The benchmark builders, from miniature archives of every layout to rows."""

import hashlib
from collections import Counter
from pathlib import Path

import archives
import pytest
from preparing import rows, run

from datasets_scripts import benchmark
from datasets_scripts.sketchy import Sketchy
from datasets_scripts.splits import load_split


@pytest.fixture(scope="module")
def sketchy_tree() -> archives.Tree:
    return archives.sketchy_sake()


@pytest.fixture(scope="module")
def sketchy2(tmp_path_factory, sketchy_tree) -> tuple[Path, dict]:
    """Sketchy-2 prepared from a folder of layout 1."""
    folder = tmp_path_factory.mktemp("sketchy2")
    root = archives.write(sketchy_tree, folder / "data")
    return folder / "out", run("sketchy2", "--data-dir", root, "--out", folder / "out")


def test_sketchy_rows_of_layout_1(sketchy2):
    out, summary = sketchy2
    split = load_split("sketchy2")
    assert summary["seen"] == list(split.seen) and summary["unseen"] == list(split.unseen)
    assert summary["counts"] == {
        "train": {"photo": 104 * 3, "sketch": 104 * 3},
        "query": {"sketch": 21 * 3},
        "gallery": {"photo": 21 * 3},
    }
    gallery = rows(out, "gallery")
    assert Counter(row["source"] for row in gallery) == {"sketchy": 42, "extended": 21}
    assert Counter(row["copies"] for row in gallery) == {2: 42, 1: 21}
    drawn_of = {row["instance_id"] for row in rows(out, "query")}
    assert drawn_of == {row["instance_id"] for row in gallery if row["source"] == "sketchy"}
    assert summary["problems"]["junk"] == ["Sketchy/EXTEND_image_sketchy_ready/cat/Thumbs.db"]
    assert summary["report"]["layout"] == "SAKE and ZSE-SBIR"
    assert "Sketchy/256x256/sketch" in summary["report"]["files_outside_the_layout"]


def test_the_odd_camel_photo_is_the_original_again(sketchy2):
    out, summary = sketchy2
    camels = [row for row in rows(out, "train") if row["label"] == "camel" and row["modality"] == "photo"]
    assert sorted((row["source"], row["copies"]) for row in camels) == [("extended", 1), ("sketchy", 2), ("sketchy", 2)]
    odd = f"camel/{archives.photo_ids('camel')[1]}"
    assert odd in {row["instance_id"] for row in camels}
    assert summary["report"]["photos_merged_same_bytes"] == ["Sketchy/EXTEND_image_sketchy_ready/camel/c.jpg"]


def test_sketchy_counts_and_lists_that_are_not_the_known_ones_are_named(sketchy2):
    _, summary = sketchy2
    assert "bat: 3 sketch files, 635 known" in summary["problems"]["counts_that_differ"]
    assert "Sketchy/zeroshot0/all_photo_filelist_zero.txt" in summary["problems"]["lists_that_differ"]


def test_a_list_file_with_the_known_checksum_is_said_to_be_known(tmp_path, sketchy_tree, monkeypatch):
    name = "Sketchy/zeroshot0/all_photo_filelist_zero.txt"
    classes = benchmark.load_classes("sketchy")
    classes.lists[name] = hashlib.md5(sketchy_tree[name]).hexdigest()
    monkeypatch.setattr(benchmark, "load_classes", lambda dataset: classes)
    root = archives.write(sketchy_tree, tmp_path / "data.zip")
    summary = run("sketchy2", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["report"]["lists_as_known"] == [name]
    assert name not in summary["problems"]["lists_that_differ"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("n02437136_5405.jpg", "sketchy"),
        ("n02437136_5405-2.png", "sketchy"),
        ("ext_12.jpg", "extended"),
        ("n.jpg", "extended"),
    ],
)
def test_originals_are_known_by_their_names(name, source):
    assert Sketchy("sketchy2").source(name) == source


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_sketchy_from_packed_archives_is_the_same(tmp_path, sketchy_tree, sketchy2, suffix):
    root = archives.write(sketchy_tree, tmp_path / f"dataset{suffix}")
    summary = run("sketchy2", "--data-dir", root, "--out", tmp_path / "out", "--num-proc", "2")
    assert summary["version"] == sketchy2[1]["version"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"dataset{suffix}", "out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "data", "splip_dataset.json"]


def test_sketchy_layout_2_counts_the_extended_gallery_only(tmp_path):
    root = archives.write(archives.sketchy_sempcyc(), tmp_path / "data")
    summary = run("sketchy1-sempcyc", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["report"]["layout"] == "sem-pcyc and doodle2search"
    assert "jack-o-lantern" in summary["unseen"]
    assert {row["copies"] for row in rows(tmp_path / "out", "gallery")} == {1}
    assert {row["copies"] for row in rows(tmp_path / "out", "train")} == {1}
    ids = [row["instance_id"] for row in rows(tmp_path / "out", "query")]
    assert ids and all(ids)


def test_sketchy_without_added_photos_is_enough_for_instance_pairs(tmp_path):
    tree = {path: content for path, content in archives.sketchy_sempcyc().items() if "extended_photo" not in path}
    summary = run("sketchy2", "--data-dir", archives.write(tree, tmp_path / "data"), "--out", tmp_path / "out")
    assert summary["counts"]["gallery"] == {"photo": 42}
    assert {row["copies"] for row in rows(tmp_path / "out", "gallery")} == {1}


@pytest.mark.parametrize("make", [archives.forked, archives.clipprompt, archives.table])
def test_sketchy_layouts_3_to_5_hold_every_photo_once(tmp_path, make):
    root = archives.write(make(archives.sketchy_sempcyc()), tmp_path / "data")
    summary = run("sketchy1", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["counts"]["query"] == {"sketch": 25 * 3} and summary["counts"]["gallery"] == {"photo": 25 * 3}
    camels = [row for row in rows(tmp_path / "out", "gallery") if row["label"] == "camel"]
    assert len(camels) == 3 and "unpaired" not in summary["problems"]


def test_the_sketch_list_in_circulation_is_an_option(tmp_path, sketchy_tree, sketchy2):
    root = archives.write(sketchy_tree, tmp_path / "data")
    arguments = ("--data-dir", root, "--sketch-list", "archive", "--out", tmp_path / "out")
    summary = run("sketchy2", *arguments)
    assert summary["counts"]["train"] == {"photo": 104 * 3, "sketch": 104 * 2}
    assert summary["counts"]["query"] == {"sketch": 21 * 3}
    assert summary["report"]["sketches_not_on_the_archive_list"] == 104
    assert summary["version"] != sketchy2[1]["version"]
    with pytest.raises(ValueError, match="--sketch-list archive needs the archive's own list"):
        run("sketchy1-sempcyc", "--data-dir", root, "--sketch-list", "archive", "--out", tmp_path / "no")


def test_flawed_sketches_can_be_left_out(tmp_path, sketchy_tree):
    cat, bat = archives.photo_ids("cat")[0], archives.photo_ids("bat")[0]
    info = {"info/invalid-error.txt": f"{cat}-1\n".encode(), "info/invalid-pose.txt": f"{bat},2\n{bat}-1\n".encode()}
    root = archives.write(sketchy_tree, tmp_path / "data")
    arguments = ("sketchy2", "--data-dir", root, "--out", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"invalid-error\.txt of Sketchy's info archive is missing"):
        run(*arguments, "--drop-flawed", "error")
    with pytest.raises(ValueError, match="does not know 'ugly': take some of error, ambiguous, pose, context"):
        run(*arguments, "--drop-flawed", "ugly")
    archives.write(info, tmp_path / "info.zip")
    summary = run(*arguments, "--drop-flawed", "error,pose", "--info-dir", tmp_path / "info.zip")
    assert summary["report"]["flawed_sketches_left_out"] == 3
    assert summary["per_class"]["bat"]["sketch"] == 1 and summary["per_class"]["cat"]["sketch"] == 2


def test_photos_that_the_list_lacks_or_the_disk_lacks(tmp_path, sketchy_tree):
    extend = "EXTEND_image_sketchy_ready/bat"
    tree = dict(sketchy_tree)
    tree[f"Sketchy/{extend}/ext_9.jpg"] = archives.image("not listed")
    del tree[f"Sketchy/{extend}/ext_1.jpg"]
    root = archives.write(tree, tmp_path / "data")
    summary = run("sketchy2", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["problems"]["listed_but_missing"] == ["bat/ext_1.jpg"]
    copies = {row["image"]["path"]: row["copies"] for row in rows(tmp_path / "out", "gallery") if row["label"] == "bat"}
    assert copies["ext_9.jpg"] == 0
    assert summary["report"]["photos_on_no_list"] == [f"Sketchy/{extend}/ext_9.jpg"]


def test_without_lists_copies_are_counted_from_the_folders_of_the_archives_gallery(tmp_path, sketchy_tree):
    tree = {path: content for path, content in sketchy_tree.items() if "zeroshot" not in path}
    run("sketchy2", "--data-dir", archives.write(tree, tmp_path / "data"), "--out", tmp_path / "out")
    assert Counter(row["copies"] for row in rows(tmp_path / "out", "gallery")) == {2: 42, 1: 21}


def test_tuberlin(tmp_path):
    root = archives.write(archives.tuberlin_sake(), tmp_path / "data")
    summary = run("tuberlin", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["counts"] == {
        "train": {"photo": 440, "sketch": 220},
        "query": {"sketch": 30},
        "gallery": {"photo": 60},
    }
    gallery = rows(tmp_path / "out", "gallery")
    assert {row["source"] for row in gallery} == {"tuberlin"} and {row["copies"] for row in gallery} == {1}
    assert {row["instance_id"] for row in rows(tmp_path / "out", "query")} == {""}
    assert "listed_but_missing" not in summary["problems"]


def test_tuberlin_with_joined_and_misspelt_folders(tmp_path):
    root = archives.write(archives.tuberlin_sempcyc(), tmp_path / "data")
    summary = run("tuberlin-sempcyc", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["counts"]["gallery"] == {"photo": 30} and summary["counts"]["query"] == {"sketch": 30}
    by_label = {row["label"]: row["image"]["bytes"] for row in rows(tmp_path / "out", "gallery")}
    assert by_label["walkie talkie"] == archives.image("tu walkie talkie")
    photos = {
        row["label"]: row["image"]["bytes"] for row in rows(tmp_path / "out", "train") if row["modality"] == "photo"
    }
    assert photos["giraffe"] == archives.image("tu giraffe")
    assert photos["mouse"] == archives.image("tu mouse (animal)")


def test_quickdraw_names_its_junk(tmp_path):
    root = archives.write(archives.quickdraw(), tmp_path / "data")
    summary = run("quickdraw", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["counts"]["gallery"] == {"photo": 60} and summary["counts"]["query"] == {"sketch": 30}
    assert summary["problems"]["junk"] == ["QuickDraw/images/cactus/s.sh", "QuickDraw/images/class_labels.txt"]
    assert len(summary["problems"]["wrong_extension"]) == 110
    assert summary["per_class"]["Eiffel Tower"] == {"photo": 2, "sketch": 1}


@pytest.mark.parametrize("halves", [True, False])
def test_qmul(tmp_path, halves):
    tree = archives.qmul("shoe", halves) | archives.qmul("chair", halves)
    root = archives.write(tree, tmp_path / "data")
    summary = run("chairv2", "--data-dir", root, "--out", tmp_path / "out")
    assert summary["seen"] == summary["unseen"] == ["chair"]
    assert summary["counts"] == {"train": {"photo": 3, "sketch": 6}, "query": {"sketch": 4}, "gallery": {"photo": 2}}
    assert [name.rpartition("/")[2] for name in summary["problems"]["unpaired"]] == ["999_1.png"]
    assert "300/964 and 100/311 (the online archive)" in summary["problems"]["counts_that_differ"][0]
    gallery = {row["instance_id"]: row["image"]["bytes"] for row in rows(tmp_path / "out", "gallery")}
    assert gallery["chair/113"] == archives.image("chair 113", "PNG")
    assert Counter(row["instance_id"] for row in rows(tmp_path / "out", "query")) == {"chair/113": 2, "chair/114": 2}


def test_qmul_without_lists_or_with_vector_sketches_stops(tmp_path):
    tree = archives.qmul("shoe", False)
    lists = {path: content for path, content in tree.items() if not path.endswith("photo_test.txt")}
    with pytest.raises(ValueError, match=r"photo_test\.txt is missing"):
        run("shoev2", "--data-dir", archives.write(lists, tmp_path / "lists"), "--out", tmp_path / "out")
    vectors = {path.replace("_sketch_png/", "_sketch/").replace("_1.png", "_1.svg"): c for path, c in tree.items()}
    vectors = {path: b"<svg/>" if path.endswith("svg") else c for path, c in vectors.items() if "_2.png" not in path}
    with pytest.raises(ValueError, match="are SVG files: render them to PNG"):
        run("shoev2", "--data-dir", archives.write(vectors, tmp_path / "svg"), "--out", tmp_path / "out")


def test_benchmarks_need_a_data_folder(tmp_path):
    for name in ("sketchy2", "shoev2", "folder"):
        with pytest.raises(ValueError, match="There is no data folder: --data-dir"):
            run(name, "--out", tmp_path / "out")


def test_the_card_says_what_the_data_are(sketchy2):
    out, summary = sketchy2
    card = (out / "README.md").read_text("utf-8")
    assert "path: data/gallery-*.parquet" in card and "config_name: sketchy2" in card
    assert "| query | 63 | 0 |" in card
    assert summary["version"] in card and "skyscraper" in card and "@article{sangkloy2016sketchy" in card
