"""Which model `splip index` encodes with, and what is refused before a model is loaded."""

import json

import galleries
import pytest

from modeling_splip.commands import index
from modeling_splip.commands.main import main
from modeling_splip.loading import DEFAULT_MODEL, about_default

own_cache, photos = galleries.own_cache, galleries.photos


def test_a_new_gallery_gets_the_default_model_or_the_one_named(tmp_path):
    assert index.choose_model(str(tmp_path / "G"), None) == (DEFAULT_MODEL, about_default())
    assert index.choose_model(str(tmp_path / "G"), "clip:mini_clip") == ("clip:mini_clip", "")


def test_a_gallery_keeps_its_model_when_it_is_brought_up_to_date(photos, tmp_path, capsys):
    out = str(tmp_path / "G")
    assert main(["index", str(photos), "--model", "clip:mini_clip", "--out", out, "--quiet"]) == 0
    before = json.loads((tmp_path / "G" / "manifest.json").read_text())
    capsys.readouterr()
    assert main(["index", str(photos), "--out", out, "--quiet"]) == 0
    after = json.loads((tmp_path / "G" / "manifest.json").read_text())
    assert (after["model"], after["fingerprint"]) == ("clip:mini_clip", before["fingerprint"])
    printed = capsys.readouterr().out
    assert "Model: clip:mini_clip, as before" in printed and "(0 encoded" in printed
    name, line = index.choose_model(out, "small_splip")
    assert name == "small_splip" and "was built with 'clip:mini_clip'" in line


def test_a_wrong_path_is_refused_before_a_model_is_loaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(index, "load_retriever", lambda name: pytest.fail("a model was loaded"))
    assert main(["index", str(tmp_path / "nowhere"), "--out", str(tmp_path / "G")]) == 2
    assert "There is no folder" in capsys.readouterr().err
