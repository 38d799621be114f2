"""The card says what the records say: nothing by hand, nothing of another model, nothing of this machine."""

import re
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from method_models import build

import modeling_splip
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.sharing.model_card import CardFacts, render_card
from modeling_splip.sharing.peft_export import export_peft

RECORD = {
    "fingerprint": "f" * 16, "method": "splip", "dataset": "mini-fold0", "dataset_version": "1-abc", "split": "unseen",
    "protocol": "zs", "gallery": "unique", "seed": 0, "n_query": 30, "n_gallery": 20, "seen_classes_kept": [],
    "classes_removed": [], "metrics": {"map_all": 0.4321, "p_100": 0.25, "acc_1": None},
}  # fmt: skip


@pytest.fixture
def run(tmp_path) -> dict:
    (tmp_path / "data").mkdir()
    page = (
        "---\nlicense: cc-by-4.0\n---\n# Data\n\n## Licence\n\nThe sketches are theirs.\nAsk them.\n\n## Citation\nx\n"
    )
    (tmp_path / "data" / "README.md").write_text(page)
    arguments = {"method": "splip", "base": "someone/clip", "dataset": str(tmp_path / "data"), "output": str(tmp_path)}
    return {
        "arguments": arguments | {"learning_rate": 0.001, "loss": {"alpha": 0.5}, "model": {}},
        "dataset": {"name": "mini-fold0", "version": "1-abc"},
        "classes": {"trained": ["cup", "ant"], "validation": ["zebra"]},
        "trainable_parameters": 12345, "processes": 1, "steps": 7, "seconds": 9.0, "best_validation": 0.5,
        "versions": {"torch": "2.6"},
    }  # fmt: skip


def facts(base: str, **fields) -> CardFacts:
    model = build("splip", {}, base)
    model.config.base_model = "someone/clip"
    return CardFacts("someone/sketches", type(model), model.config, "f" * 16, **fields)


def test_a_card_of_a_run_with_results(tiny_clip, tmp_path, run):
    other = RECORD | {"protocol": "gzs-distractors", "metrics": {"map_all": 0.2}, "seen_classes_kept": ["cup"]}
    text = render_card(facts(tiny_clip, run=run, records=[RECORD, other], license="apache-2.0"))
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "someone/clip", "transformers")
    found = {(each.dataset_config.split(",")[0], each.metric_type): each.metric_value for each in data.eval_results}
    assert found == {("zs", "map_all"): 0.4321, ("zs", "p_100"): 0.25, ("gzs-distractors", "map_all"): 0.2}
    assert {each.dataset_revision for each in data.eval_results} == {"1-abc"}
    for said in (
        "43.21",
        "25.00",
        "| `learning_rate` | `0.001` |",
        '| `loss` | `{"alpha": 0.5}` |',
        "12,345 trainable",
    ):
        assert said in " ".join(text.split()), said
    assert "Held back: zebra; best score there 50.00 %." in text and "Trained on 2 classes: cup, ant." in text
    assert "`mini-fold0`: The sketches are theirs. Ask them." in text and "Not zero-shot: cup" in text
    assert "say nothing about real photos" in text and "## Limits" in text
    assert str(tmp_path) not in text and "`output`" not in text


def test_a_card_without_records_says_so(tiny_clip):
    text = render_card(facts(tiny_clip))
    assert ModelCard(text).data.eval_results is None
    assert "No record of its training is known." in text and "No results were recorded" in text


@pytest.mark.parametrize("kind", modeling_splip.MODELS)
def test_every_method_names_its_paper(tiny_clip, kind):
    own = facts(tiny_clip)
    model = getattr(modeling_splip, modeling_splip.MODELS[kind][-1])
    text = render_card(own._replace(method=model, config=SimpleNamespace(**vars(own.config), model_type=kind)))
    link = f"find the photo: {model.title}, [arXiv {model.arxiv}](https://arxiv.org/abs/{model.arxiv})"
    assert link in text and kind in ModelCard(text).data.tags and text.endswith(".\n")


def test_a_new_method_needs_no_change_here(tiny_clip):
    own, method = facts(tiny_clip), SimpleNamespace(title="Mine (2030)", arxiv="3001.00001")
    text = render_card(own._replace(method=method, config=SimpleNamespace(class_names=["ant"], model_type="mine")))
    assert "Mine (2030), [arXiv 3001.00001](https://arxiv.org/abs/3001.00001)" in text and "ant" in text


def test_where_the_base_comes_from(tiny_clip):
    own = facts(tiny_clip)
    own.config.checkpoint = "adapter"
    assert "the base CLIP, `someone/clip`, is loaded beside it" in render_card(own)
    own.config.base_model = "mini_clip"
    assert "the base CLIP, `mini_clip`, comes with the installed package" in render_card(own)


def test_results_of_another_model_are_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"^A result on 'mini-fold0' has fingerprint e+, but the model has f+: pass"):
        render_card(facts(tiny_clip, records=[RECORD | {"fingerprint": "e" * 16}]))


def test_its_snippets_run(tiny_clip, prepared, tmp_path):
    model = build("splip", {"layer_norms": "vision"}, tiny_clip)
    model.save_pretrained(tmp_path)
    SplipProcessor.from_clip(tiny_clip).save_pretrained(tmp_path)
    exported = [path.relative_to(tmp_path).as_posix() for path in export_peft(model, tmp_path)]
    text = render_card(facts(tiny_clip, peft=exported))
    images = {kind: next(prepared.parent.parent.glob(f"raw*/{kind}/owl/*")) for kind in ("sketch", "photo")}
    places = {"someone/sketches": tmp_path, "someone/clip": tiny_clip}
    places |= {"drawing.png": images["sketch"], "photo.jpg": images["photo"]}
    snippets = re.findall("```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    for snippet in snippets:
        for name, place in places.items():
            snippet = snippet.replace(f'"{name}"', repr(str(place)))
        exec(snippet, names)
    assert len(snippets) == 2 and names["scores"].shape == (1, 1)
    assert torch.equal(
        names["clip"].base_model.model.vision_model.post_layernorm.ln_tuning_layers["default"].weight,
        next(iter(model.vision_adapters.values()))[-1].weight,
    )
