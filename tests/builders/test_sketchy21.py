"""Sketchy-2's 21 test classes: alone as a test set, in folds, from plain folders and from whole archives."""

from collections import Counter, defaultdict
from pathlib import Path

import archives
import pytest
from preparing import rows, run

from datasets_scripts.sketchy import Sketchy
from datasets_scripts.splits import load_split
from modeling_splip.evaluation.published import published_table

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "sketchy21"
FOLDS = ("sketchy21-fold0", "sketchy21-fold1", "sketchy21-fold2")
RECORD = {
    "dataset": "sketchy2",
    "protocol": "zs",
    "gallery": "unique",
    "n_query": 12_694,
    "n_excluded": 0,
    "metrics": defaultdict(float),
}


def plain_folders() -> archives.Tree:
    """`{sketch,photo}/<class>` of the 21 classes: two originals, three sketches, one added photo, one twice."""
    unseen, tree = load_split("sketchy2").unseen, {}
    for path, content in archives.forked(archives.sketchy_sempcyc()).items():
        if path.split("/")[1] in unseen:
            tree[path] = content
    tree["photo/bat/ext_2.jpg"] = tree["photo/bat/ext_1.jpg"]
    return tree


@pytest.fixture(scope="module")
def sketchy21(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketchy21")
    root = archives.write(plain_folders(), folder / "data")
    return folder / "out", run("sketchy21", "--data-dir", root, "--out", folder / "out"), root


def test_a_test_set_has_no_seen_classes_and_says_so(sketchy21, capsys):
    out, summary, _ = sketchy21
    assert summary["name"] == "sketchy2" and summary["prepared"] == "sketchy21"
    assert summary["seen"] == [] and summary["unseen"] == list(load_split("sketchy2").unseen)
    assert summary["counts"] == {"train": {}, "query": {"sketch": 63}, "gallery": {"photo": 63}}
    assert "trains none" in summary["report"]["lacks"]
    copies = {row["image"]["path"]: row["copies"] for row in rows(out, "gallery") if row["label"] == "bat"}
    assert sorted(copies.values()) == [1, 1, 2]
    photos = {row["instance_id"] for row in rows(out, "gallery") if row["source"] == "sketchy"}
    assert {row["instance_id"] for row in rows(out, "query")} == photos


def test_the_same_from_sketchy2_and_from_a_whole_archive(sketchy21, tmp_path):
    _, summary, root = sketchy21
    assert run("sketchy2", "--data-dir", root, "--out", tmp_path / "two")["version"] == summary["version"]
    whole = archives.write(archives.sketchy_sake(), tmp_path / "whole")
    found = run("sketchy21", "--data-dir", whole, "--out", tmp_path / "out")
    assert found["seen"] == [] and found["counts"]["gallery"] == {"photo": 63}
    assert Counter(row["copies"] for row in rows(tmp_path / "out", "gallery")) == {2: 42, 1: 21}
    assert "listed_but_missing" not in found["problems"]


def test_a_benchmark_that_lacks_some_seen_classes_stops(sketchy21, tmp_path):
    tree = plain_folders() | {"sketch/cat/a-1.png": archives.image("a", "PNG"), "photo/cat/a.jpg": archives.image("a")}
    root = archives.write(tree, tmp_path / "data")
    with pytest.raises(ValueError, match="There is no sketch in a folder for 'table'"):
        run("sketchy2", "--data-dir", root, "--out", tmp_path / "out")


def test_folds_are_disjoint_and_hold_all_21_classes():
    unseen = [load_split(name).unseen for name in FOLDS]
    assert sorted(name for names in unseen for name in names) == sorted(load_split("sketchy2").unseen)
    assert all(
        {*load_split(name).seen, *load_split(name).unseen} == set(load_split("sketchy2").unseen) for name in FOLDS
    )


def test_a_fold_is_prepared(sketchy21, tmp_path):
    summary = run("sketchy21-fold1", "--data-dir", sketchy21[2], "--out", tmp_path / "out")
    assert summary["name"] == "sketchy21-fold1" and "lacks" not in summary["report"]
    assert summary["counts"] == {
        "train": {"photo": 42, "sketch": 42},
        "query": {"sketch": 21},
        "gallery": {"photo": 21},
    }


def test_the_published_gallery_is_recognised(tmp_path):
    """On the real files, which are listed and compared but not decoded."""
    if not SHARED.is_dir():
        pytest.skip(f"the test classes are not at {SHARED}")
    plan = Sketchy("sketchy21", str(SHARED)).plan()
    assert (len(plan.rows["query"]), len(plan.rows["gallery"]), len(plan.rows["train"])) == (12_694, 10_406, 0)
    assert plan.problems == {}
    assert plan.report["gallery_as_published"] == "10,453 photos, 10,406 of them different"
    assert sum(row.copies for row in plan.rows["gallery"]) == 10_453
    paired = {row.instance_id for row in plan.rows["query"]}
    assert "" not in paired and paired <= {row.instance_id for row in plan.rows["gallery"]}


def test_the_published_numbers_are_shown_beside_a_gallery_without_its_copies():
    table = published_table(RECORD | {"n_gallery": 10_406})
    assert "Not its gallery" not in table and "Not the whole benchmark" not in table
    assert "Not its gallery" in published_table(RECORD | {"n_gallery": 10_405})


@pytest.mark.parametrize("counts_off", [False, True])
def test_a_gallery_of_other_counts_is_not_taken_for_the_published_one(sketchy21, monkeypatch, counts_off):
    from datasets_scripts import benchmark

    classes = benchmark.load_classes("sketchy")
    for name in load_split("sketchy2").unseen:
        classes.counts[name]["extended"] = 4 if name == "bat" else 3
    classes.counts["cow"]["extended"] += counts_off
    monkeypatch.setattr(benchmark, "load_classes", lambda dataset: classes)
    said = Sketchy("sketchy21", str(sketchy21[2])).plan().report["gallery_as_published"]
    assert said == ("" if counts_off else "64 photos, 63 of them different")


def test_it_needs_a_data_folder(tmp_path):
    with pytest.raises(ValueError, match=r"There is no data folder: --data-dir names .* 'sketchy21'"):
        run("sketchy21", "--out", tmp_path / "out")
