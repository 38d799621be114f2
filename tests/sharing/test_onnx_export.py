"""`splip export`: one ONNX file encodes sketches and photos as the model does, and searching takes it for the model."""

import json
from pathlib import Path

import galleries
import numpy as np
import pytest
import torch
from galleries import draw
from method_models import MODALITIES, build

from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.search.gallery import Gallery
from modeling_splip.sharing import onnx_export

onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
own_cache, photos = galleries.own_cache, galleries.photos
DOMAIN = {"conditioning": "domain", "share_layer_norms": False}
SHARED = {"share_prompts": True, "share_layer_norms": True}


def exported(folder: Path, base: str, name: str, settings: dict, fp16: bool = False):
    model, processor = build(name, settings, base).eval(), SplipProcessor.from_clip(base)
    report = onnx_export.export_onnx(model, processor, folder / "model.onnx", fp16)
    return model, processor, str(folder / "model.onnx"), report


@pytest.fixture(scope="module")
def domain(tiny_clip, tmp_path_factory):
    """A folded SpLIP, whose sketches and photos have prompts and LayerNorms of their own."""
    return exported(tmp_path_factory.mktemp("domain"), tiny_clip, "splip", DOMAIN)


def check_same(model, processor, path, report, tolerance=1e-5):
    """Hold that the file encodes batches of any size as the model does."""
    loaded, own = load_retriever(path)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    for modality in MODALITIES:
        for batch in (images[:1], images):
            found = loaded.encode(batch, modality)
            torch.testing.assert_close(found, model.encode(batch, modality), atol=tolerance, rtol=0)
            torch.testing.assert_close(found.norm(dim=1), torch.ones(len(batch)), atol=1e-5, rtol=0)
        assert loaded.encode(images[:0], modality).shape == (0, 16)
        drawing = draw(3)
        prepared = [each(images=[drawing], modality=modality)["pixel_values"] for each in (processor, own)]
        assert torch.equal(*prepared)
    assert max(report.differences.values()) < tolerance
    return loaded, own


def test_a_folded_model(domain):
    model, processor, path, report = domain
    loaded, own = check_same(*domain)
    assert loaded.fingerprint(own) == model.fingerprint(processor) == report.fingerprint
    assert report.inputs == ["pixel_values (batch, 3, 32, 32) float32", "is_sketch bool"]
    assert loaded.config.class_names == model.config.class_names and loaded.config.projection_dim == 16
    text = Path(path).read_bytes()
    assert b"site-packages" not in text and b"modeling_splip" not in text  # nothing of this machine


def test_what_both_modalities_share_is_stored_once(domain):
    model, _, path, _ = domain
    proto = onnx.load(path)
    names = [tensor.name for tensor in proto.graph.initializer]
    assert len(set(names)) == len(names) and [node.op_type for node in proto.graph.node] == ["If"]
    size = sum(np.prod(tensor.dims) for tensor in proto.graph.initializer)
    encoder = model.fold()
    assert size < 1.1 * sum(tensor.numel() for tensor in encoder.state_dict().values())


def test_a_model_that_tells_no_modalities_apart_has_one_input(tiny_clip, tmp_path):
    made = exported(tmp_path, tiny_clip, "clip_at", SHARED)
    check_same(*made)
    assert made[3].inputs == ["pixel_values (batch, 3, 32, 32) float32"]


@pytest.mark.parametrize(("name", "settings"), [("splip", {}), ("clip_at", {}), ("cross_align", {})])
def test_every_method(tiny_clip, tmp_path, name, settings):
    model, processor, *rest = exported(tmp_path, tiny_clip, name, settings)
    loaded, own = check_same(model, processor, *rest)
    assert loaded.fingerprint(own) == model.fingerprint(processor)


def test_half_precision(tiny_clip, tmp_path, domain):
    made = exported(tmp_path, tiny_clip, "splip", DOMAIN, fp16=True)
    loaded, own = check_same(*made, tolerance=5e-3)
    assert loaded.fingerprint(own) == made[0].fingerprint(made[1])  # folded: the same in fewer bits
    assert made[3].bytes < 0.7 * domain[3].bytes and made[3].dtype == "float16"
    assert {parameter.dtype for parameter in made[0].parameters()} == {torch.float32}  # the model stays as it was


def test_a_file_that_was_changed_is_another_model(domain, tmp_path):
    _, _, path, report = domain
    proto = onnx.load(path)
    weights = next(each for each in proto.graph.initializer if len(each.dims) == 2)
    weights.raw_data = (np.frombuffer(weights.raw_data, np.float32) * 1.01).tobytes()
    onnx.save(proto, tmp_path / "changed.onnx")
    loaded, own = load_retriever(str(tmp_path / "changed.onnx"))
    assert loaded.fingerprint(own) not in (report.fingerprint, "")


def test_index_and_search_take_the_file_for_its_model(domain, photos, tmp_path, monkeypatch, capsys):
    model, processor, path, _ = domain
    monkeypatch.chdir(Path(path).parent)
    out, sketch = str(tmp_path / "G"), tmp_path / "sketch.png"
    draw(100).save(sketch)
    assert main(["index", str(photos), "--model", "model.onnx", "--out", out, "--quiet"]) == 0
    monkeypatch.chdir(tmp_path)  # the gallery finds the file again
    capsys.readouterr()
    assert main(["search", str(sketch), "--gallery", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["queries"][0]["results"]
    wanted = Gallery.open(out, (model, processor)).search(sketch)
    assert [each["path"] for each in found] == [each.path for each in wanted]
    assert [each["score"] for each in found] == pytest.approx([each.score for each in wanted], abs=1e-5)
    assert Gallery.open(out).processor.invert_sketches == "auto"
    assert main(["search", "--text", "red", "--gallery", out]) == 2
    assert "has no text tower (it is folded, or an ONNX file): search without words." in capsys.readouterr().err


def test_a_precision_that_the_file_does_not_have_is_refused(domain, photos, tmp_path, capsys):
    _, _, path, _ = domain
    index = ["index", str(photos), "--model", str(path), "--out", str(tmp_path / "G")]
    evaluate = ["evaluate", "--model", str(path), "--dataset", str(photos), "--protocol", "zs"]
    for words in (index, evaluate):
        assert main([*words, "--precision", "bf16"]) == 2
        assert "an ONNX file computes as it was exported, so leave it out." in capsys.readouterr().err
    assert not (tmp_path / "G").exists()


def test_the_command_prints_what_it_wrote(tiny_clip, tmp_path, capsys):
    out = tmp_path / "new" / "clip.onnx"
    assert main(["export", f"clip:{tiny_clip}", "--format", "onnx", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "opset" in printed and "float32, a batch of any size" in printed and "the model's own" in printed
    assert "Largest difference from PyTorch in float32: sketch " in printed
    assert [path.name for path in out.parent.iterdir()] == ["clip.onnx"]


def test_what_cannot_be_is_refused(domain, tmp_path, capsys, monkeypatch):
    model, processor, path, _ = domain
    with pytest.raises(ValueError, match=r"name must end in \.onnx"):
        onnx_export.export_onnx(model, processor, tmp_path / "model.bin")
    assert main(["export", path, "--out", str(tmp_path / "x.onnx")]) == 2
    assert "is an ONNX file already" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"^There is no file 'no\.onnx': write it with splip export\.$"):
        load_retriever("no.onnx")
    with pytest.raises(ValueError, match="takes no dtype: the file holds the model as it was exported"):
        load_retriever(path, dtype=torch.float16)
    (tmp_path / "torn.onnx").write_bytes(Path(path).read_bytes()[:5000])
    with pytest.raises(OSError, match=r"torn\.onnx' is damaged \(.*\): export the model again\.$"):
        load_retriever(str(tmp_path / "torn.onnx"))
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="does not say how images are prepared for it"):
        load_retriever(str(tmp_path / "foreign.onnx"))
    loaded, _ = load_retriever(path)
    with pytest.raises(ValueError, match=r"pixel_values must be \(batch, 3, 32, 32\), got \(1, 3, 8, 8\)\.$"):
        loaded.encode(torch.zeros(1, 3, 8, 8), "photo")
    with pytest.raises(ValueError, match="modality must be 'sketch' or 'photo'"):
        loaded.encode(torch.zeros(1, 3, 32, 32), "drawing")


def test_a_file_that_computes_something_else_is_not_written(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setitem(onnx_export.LIMITS, "float32", 0.0)
    with pytest.raises(ValueError, match=r"does not compute what PyTorch computes .* so it was not written"):
        exported(tmp_path, tiny_clip, "clip_at", SHARED)
    assert list(tmp_path.iterdir()) == []
