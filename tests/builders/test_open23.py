"""The packaged data set of drawings and photos: what it holds, its folds, and that it needs nothing else."""

import shutil

import pyarrow.parquet as pq
import pytest
from preparing import rows, run

from datasets_scripts import open23
from datasets_scripts.splits import load_split
from modeling_splip.common.images import open_image


@pytest.fixture(scope="module")
def fold0(tmp_path_factory):
    out = tmp_path_factory.mktemp("open23") / "out"
    return out, run("open23-fold0", "--out", out)


def test_a_fold_is_prepared_without_a_data_folder(fold0):
    out, summary = fold0
    assert summary["name"] == "open23-fold0" and summary["problems"] == {}
    assert summary["counts"] == {
        "train": {"photo": 851, "sketch": 441},
        "query": {"sketch": 152},
        "gallery": {"photo": 261},
    }
    photos, sketches = rows(out, "gallery"), rows(out, "query")
    assert {row["source"] for row in photos + sketches} == {"open23"} and {row["copies"] for row in photos} == {1}
    assert len({row["instance_id"] for row in photos}) == 261
    assert {row["instance_id"] for row in sketches} == {""}
    assert {row["label"] for row in sketches} == set(load_split("open23-fold0").unseen)


def test_the_card_names_both_sources_and_their_licence(fold0):
    card = (fold0[0] / "README.md").read_text("utf-8")
    for words in ("cc-by-4.0", "Google Creative Lab", "Quick, Draw!", "Fei-Fei", "Caltech-101", "CaltechDATA"):
        assert words in card


def test_no_picture_is_twice_or_larger_than_said():
    found = {}
    for modality, file in open23.FILES.items():
        table = pq.read_table(file).to_pylist()
        assert len({row["id"] for row in table}) == len(table)
        found[modality] = [row["image"]["bytes"] for row in table]
        assert all(max(open_image(content).size) <= 160 for content in found[modality][::25])
    assert (len(found["sketch"]), len(found["photo"])) == (593, 1112)
    assert len({*found["sketch"], *found["photo"]}) == 593 + 1112


def test_the_folds_are_those_that_were_drawn():
    unseen = [load_split(name).unseen for name in open23.FOLDS]
    classes = {*load_split("open23-fold0").seen, *unseen[0]}
    assert [list(names) for names in unseen] == open23.draw_folds(sorted(classes))
    assert [len(names) for names in unseen] == [6, 6, 5]
    assert len({name for names in unseen for name in names}) == 17 and len(classes) == 23
    for name in open23.FOLDS:
        assert set(load_split(name).seen) == classes - set(load_split(name).unseen)
        assert set(open23.BACKBONE_SAW) <= set(load_split(name).seen)


def test_the_files_can_be_made_again(tmp_path, monkeypatch):
    for modality, file in open23.FILES.items():
        for row in pq.read_table(file).to_pylist():
            place = tmp_path / modality / row["label"].replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            (place / row["image"]["path"]).write_bytes(row["image"]["bytes"])
    made = {modality: tmp_path / file.name for modality, file in open23.FILES.items()}
    packaged = dict(open23.FILES)
    monkeypatch.setattr(open23, "FILES", made)
    open23.pack(tmp_path)
    for modality, file in made.items():
        assert pq.read_table(file).equals(pq.read_table(packaged[modality]))


def test_a_data_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--data-dir does not go with 'open23-fold1'"):
        run("open23-fold1", "--data-dir", tmp_path, "--out", tmp_path / "out")


def test_it_can_be_prepared_after_the_folder_was_removed(fold0, tmp_path):
    shutil.copytree(fold0[0], tmp_path / "copy")
    assert run("open23-fold0", "--out", tmp_path / "copy", "--overwrite") == fold0[1]
