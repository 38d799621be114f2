"""Loading by name: a model or processor that computes no numbers is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

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
