"""Loading by name: a model or processor that computes no numbers is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.processing_splip import SplipProcessor


@pytest.fixture
def folder(tiny_clip, tmp_path):
    SplipModel.from_clip(tiny_clip, class_names=["cup", "ant"]).save_pretrained(tmp_path)
    SplipProcessor.from_clip(tiny_clip).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value, folder):
    load_retriever(str(folder))
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"has weights that are not finite \(.*\): save or train the model again\.$"):
        load_retriever(str(folder))


@pytest.mark.parametrize(("key", "value"), [("image_std", 0.0), ("image_mean", float("nan")), ("image_std", -0.5)])
def test_pixels_that_become_no_numbers_are_refused(key, value, folder):
    path = next(folder.glob("*processor_config.json"))
    text = json.loads(path.read_text())
    values = text if key in text else text["image_processor"]
    values[key] = [values[key][0], value, values[key][2]]
    path.write_text(json.dumps(text))
    with pytest.raises(ValueError, match=rf"^The processor of '.*' has image_mean .* {value}.*: save it again\.$"):
        load_retriever(str(folder))


ABSURD = [
    ("clip_config.vision_config.num_hidden_layers", 10**9),
    ("clip_config.text_config.num_hidden_layers", 10**6),
    ("clip_config.text_config.hidden_size", 10**9),
    ("clip_config.vision_config.intermediate_size", 10**6),
    ("clip_config.text_config.vocab_size", 10**8),
    ("clip_config.vision_config.image_size", 10**7),
    ("clip_config.vision_config.num_attention_heads", 10**6),
    ("clip_config.projection_dim", 10**9),
    ("m", 10**9),
    ("bottleneck", 9_999),
]


@pytest.mark.parametrize(("field", "value"), ABSURD)
def test_a_configuration_of_absurd_size_is_refused_at_once(field, value, folder, capsys):
    """Nothing of that size is made: layers without end, or more weights than the memory holds."""
    config = json.loads((folder / "config.json").read_text())
    *path, last = field.split(".")
    inner = config
    for name in path:
        inner = inner[name]
    assert last in inner
    inner[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"damaged or of no known method|does not fit its weights|more than"):
        load_retriever(str(folder))
    assert main(["index", str(folder), "--model", str(folder), "--out", str(folder / "G")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("splip: ")


def test_a_base_of_absurd_size_is_refused_at_once(tiny_clip, tmp_path):
    shutil.copytree(tiny_clip, tmp_path / "clip")
    file = tmp_path / "clip" / "config.json"
    config = json.loads(file.read_text())
    for change, sentence in (
        ({"num_hidden_layers": 10**9}, r"The configuration asks for 1,000,000,000 layers, and no CLIP has more"),
        ({"intermediate_size": 10**9}, r"weights, more than 20,000,000,000"),
        ({"num_attention_heads": 10**9}, "is damaged"),
    ):
        file.write_text(json.dumps(config | {"vision_config": config["vision_config"] | change}))
        with pytest.raises(ValueError, match=sentence):
            load_retriever(f"clip:{tmp_path / 'clip'}")


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "model.safetensors.index.json"])
def test_json_that_nests_too_deep_is_one_sentence(file, folder, capsys):
    if file.startswith("model"):
        (folder / "model.safetensors").unlink()
    (folder / file).write_text("[" * 100_000)
    with pytest.raises((ValueError, OSError), match=r"damaged|no processor"):
        load_retriever(str(folder))
    assert main(["index", str(folder), "--model", str(folder), "--out", str(folder / "G")]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("splip: ") and "Traceback" not in said
