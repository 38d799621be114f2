"""Telling a Hub id from a path."""

import pytest

from modeling_splip.common.hub import is_hub_id


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch32", "a/b", "me/my.model_2"])
def test_hub_ids(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["mini_clip", "/a/b", "./a/b", "a/b/c", "~/b", "a/", "-a/b", "a b/c"])
def test_paths_and_plain_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_hub_id(name)


def test_a_folder_that_is_there_is_a_path_and_so_is_its_misspelt_neighbour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "model").mkdir(parents=True)
    assert not is_hub_id("runs/model") and not is_hub_id("runs/modle")
    assert is_hub_id("other/model")
