"""Files and folders that are written whole or not at all."""

import json
import os

import pytest
from PIL import Image

from modeling_splip.common.files import check_writable, remove, write_json, write_text, written_whole
from modeling_splip.evaluation.pictures import retrieval_grid
from modeling_splip.evaluation.plots import per_class_bars


def content(folder) -> dict:
    """Return every file below a folder with its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_folder(path, text: str) -> None:
    path.mkdir()
    (path / "inner").write_text(text)


def test_a_file_and_the_folders_above(tmp_path):
    write_text(tmp_path / "new" / "deep" / "a.txt", "caf\u00e9")
    assert (tmp_path / "new/deep/a.txt").read_bytes() == "caf\u00e9".encode()
    write_json(tmp_path / "b.json", {"x": [1]})
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1]}
    assert sorted(content(tmp_path)) == ["b.json", "new/deep/a.txt"]


FILE, FOLDER = {"it": "old"}, {"it/inner": "old", "it/more": "old"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"it": "new"}),
        (FILE, {"it": "new"}),
        (FOLDER, {"it": "new"}),
        ({}, {"it/inner": "new"}),
        (FOLDER, {"it/inner": "new"}),
    ],
    ids=str,
)
def test_what_was_there_is_replaced_at_the_end(tmp_path, before, after):
    for name, text in before.items():
        write_text(tmp_path / name, text)
    with written_whole(tmp_path / "it") as partial:
        partial.write_text("new") if "it" in after else write_folder(partial, "new")
        assert {name: text for name, text in content(tmp_path).items() if "partial" not in name} == before
    assert content(tmp_path) == after


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "it"
    path.write_text("old") if kind == "file" else write_folder(path, "old")
    before = content(tmp_path)
    with pytest.raises(KeyboardInterrupt), written_whole(path) as partial:
        partial.write_text("half") if kind == "file" else write_folder(partial, "half")
        raise KeyboardInterrupt
    assert content(tmp_path) == before and [each.name for each in tmp_path.iterdir()] == ["it"]


def test_a_rename_that_fails_brings_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "it"
    write_folder(path, "old")
    rename, calls = os.replace, []

    def fails_at_the_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError("disk full")
        rename(source, target)

    with pytest.raises(OSError, match="disk full"), written_whole(path) as partial:
        write_folder(partial, "new")
        monkeypatch.setattr(os, "replace", fails_at_the_second)
    assert content(tmp_path) == {"it/inner": "old"} and [each.name for each in tmp_path.iterdir()] == ["it"]


def test_leftovers_of_a_killed_process_are_no_hindrance(tmp_path):
    write_folder(tmp_path / "it.partial", "torn")
    write_folder(tmp_path / "it.old", "older")
    write_folder(tmp_path / "it", "old")
    with written_whole(tmp_path / "it") as partial:
        assert not partial.exists()
        write_folder(partial, "new")
    assert content(tmp_path) == {"it/inner": "new"}


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path):
    write_folder(tmp_path / "kept", "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert content(tmp_path) == {"kept/inner": "kept"} and not (tmp_path / "link").is_symlink()


def test_writable_is_asked_before_any_work(tmp_path):
    check_writable(tmp_path / "new" / "deep" / "a.txt")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"Cannot write the file '.*': choose another path\."):
            check_writable(path)


@pytest.mark.parametrize("linked", ["{name}", "{name}.partial", "{name}.old"])
def test_nothing_is_written_through_a_link(tmp_path, linked):
    """Neither text nor JSON nor a picture changes the file that a link of the output's name points to."""
    image = Image.new("RGB", (64, 64), "white")
    writers = {
        "x.txt": lambda path: write_text(path, "new"),
        "x.json": lambda path: write_json(path, "new"),
        "retrieval.png": lambda path: retrieval_grid([image], [[image]], None, path),
        "bars.png": lambda path: per_class_bars({"cat": 0.5}, path),
    }
    for name, write in writers.items():
        (tmp_path / "mine").write_text("mine")
        link = tmp_path / linked.format(name=name)
        link.symlink_to(tmp_path / "mine")
        write(tmp_path / name)
        assert (tmp_path / "mine").read_text() == "mine", name
        assert (tmp_path / name).is_file() and not (tmp_path / name).is_symlink(), name
