"""The form in which a model searches: folded where it can be, with the same results and the same words."""

import galleries
import pytest
import torch
from galleries import draw, same

from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.modeling_splip_encoder import SearchEncoder
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.search.gallery import Gallery

own_cache, photos = galleries.own_cache, galleries.photos


@pytest.fixture(scope="module")
def domain(tiny_clip, tmp_path_factory):
    """Folder of a domain-conditioned model whose sketches and photos are prompted differently."""
    torch.manual_seed(0)
    model = SplipModel.from_clip(tiny_clip, class_names=["cup", "ant"], conditioning="domain")
    with torch.no_grad():
        for parameter in model.adapter_state().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    for modality in ("sketch", "photo"):
        model.set_domain_mean(modality, torch.randn(32))
    folder = tmp_path_factory.mktemp("domain")
    model.save_pretrained(folder)
    SplipProcessor.from_clip(tiny_clip).save_pretrained(folder)
    return str(folder)


def test_it_is_the_same_model_with_one_vision_tower(domain, pixels):
    model, processor = SplipModel.from_pretrained(domain).eval(), SplipProcessor.from_pretrained(domain)
    folded = model.for_search()
    assert isinstance(folded, SearchEncoder) and folded.fingerprint(processor) == model.fingerprint(processor)
    assert folded.name_or_path == domain and folded.for_search() is folded
    for modality in ("sketch", "photo"):
        torch.testing.assert_close(folded.encode(pixels, modality), model.encode(pixels, modality))
    words = processor(text=["red", "a hot air balloon"])
    assert torch.equal(folded.encode_text(**words), model.encode_text(**words))
    # What it holds beside the folded form is the text tower, which is not copied.
    more = set(folded.state_dict()) - set(model.fold().state_dict())
    assert {name.partition(".")[0] for name in more} == {"text_model", "text_projection"}
    assert folded.text_model is model.clip.text_model


def test_other_models_stay_as_they_are(tiny_clip):
    for model in (SplipModel.from_clip(tiny_clip, class_names=["cup"]), load_retriever(f"clip:{tiny_clip}")[0]):
        assert model.for_search() is model


def test_galleries_of_both_forms_find_the_same(domain, photos, tmp_path, monkeypatch):
    pair = SplipModel.from_pretrained(domain).eval(), SplipProcessor.from_pretrained(domain)
    folded = Gallery.build(photos, *pair, tmp_path / "folded", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(SplipModel, "for_search", lambda model: model)
        plain = Gallery.build(photos, *pair, tmp_path / "plain", progress=False)
    assert isinstance(folded.model, SearchEncoder) and plain.model is pair[0]
    for options in ({}, {"text": "red"}, {"where": {"label": "cup"}}):
        assert same(folded.search(draw(100), 24, **options), plain.search(draw(100), 24, **options))
    assert Gallery.open(tmp_path / "plain").manifest["fingerprint"] == folded.manifest["fingerprint"]


def test_the_commands_encode_by_the_folded_form(domain, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SplipModel, "forward", lambda *_, **__: pytest.fail("the unfolded model was run"))
    draw(100).save(tmp_path / "sketch.png")
    assert main(["index", str(photos), "--model", domain, "--out", str(tmp_path / "G"), "--quiet"]) == 0
    assert main(["search", str(tmp_path / "sketch.png"), "--gallery", str(tmp_path / "G"), "--text", "red"]) == 0
    assert "rank  score  label" in capsys.readouterr().out
