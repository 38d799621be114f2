"""The models that come with the package, and what is said of them."""

import json
from types import SimpleNamespace

import pytest
import torch

from datasets_scripts.splits import load_split
from modeling_splip.clip_base import packaged_folder
from modeling_splip.common.text import spelling_key
from modeling_splip.loading import DEFAULT_MODEL, about_default, drawn_world_note, load_retriever


@pytest.fixture(scope="module")
def default():
    return load_retriever(DEFAULT_MODEL)


def test_the_default_model_is_an_adapter_on_the_packaged_backbone(default):
    model, processor = default
    assert (model.config.base_model, model.config.checkpoint) == ("small_clip", "adapter")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded = model.for_search()
    assert folded.fingerprint(processor) == model.fingerprint(processor)
    for modality in ("sketch", "photo"):
        torch.testing.assert_close(folded.encode(pixels, modality), model.encode(pixels, modality))
        plain = load_retriever("clip")[0].encode(pixels, modality)
        assert (model.encode(pixels, modality) - plain).abs().max() > 0.01  # it was trained


def test_it_saw_no_test_class_of_sketchy2(default):
    seen = {spelling_key(name) for name in default[0].config.class_names}
    assert len(seen) == 94 and seen.isdisjoint(map(spelling_key, load_split("sketchy2").unseen))


@pytest.mark.parametrize("name", ["small_clip", "small_splip", "mini_clip"])
def test_no_path_of_a_machine_is_packaged(name):
    for file in packaged_folder(name).glob("*.json"):
        text = file.read_text("utf-8")
        assert '"/' not in text.replace('"/"', "").replace('"/<', "") or file.name == "tokenizer.json", file
        json.loads(text)


def test_the_line_on_the_default_model_names_it_and_a_larger_one():
    assert "small_splip" in about_default() and "clip:openai/clip-vit-base-patch32" in about_default()


def test_the_drawn_backbone_is_doubted_on_real_pictures_only():
    mini, small = (SimpleNamespace(config=SimpleNamespace(base_model=f"{name}_clip")) for name in ("mini", "small"))
    assert "drawn objects only" in drawn_world_note(mini, drawn=False)
    assert [drawn_world_note(mini, True), drawn_world_note(small, False)] == ["", ""]
