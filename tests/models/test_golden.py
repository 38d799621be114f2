"""Checkpoints that users may have load in this version and give what they gave (golden_files.py)."""

import json

import pytest
import torch
from golden_files import BASE, CHECKPOINTS, GOLDEN, outputs
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_splip import MODELS
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training.methods import METHODS

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}  # machines sum in different orders


def load(name: str):
    """Return a golden model and its processor; adapters take their base from beside them."""
    config = json.loads((GOLDEN / name / "config.json").read_text("utf-8"))
    base = {"base_model": str(GOLDEN / BASE)} if config.get("checkpoint") == "adapter" else {}
    return AutoModel.from_pretrained(GOLDEN / name, **base), SplipProcessor.from_pretrained(GOLDEN / name)


def test_every_method_and_form_is_here():
    kept = {path.name for path in GOLDEN.iterdir() if path.is_dir()} - {BASE}
    assert kept >= set(CHECKPOINTS)
    configs = [json.loads((GOLDEN / name / "config.json").read_text("utf-8")) for name in kept]
    made = {(config["model_type"], config.get("checkpoint")) for config in configs}
    assert made >= {(name, form) for name in METHODS for form in ("adapter", "full")}
    assert {config["model_type"] for config in configs} == set(MODELS) and any(c.get("peft") for c in configs)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name != BASE))
def test_what_was_saved_gives_what_it_gave(name):
    model, processor = load(name)
    expected, found = load_file(GOLDEN / name / "outputs.safetensors"), outputs(model, processor)
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, **TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")
    assert model.fingerprint(processor) == (GOLDEN / name / "fingerprint.txt").read_text("utf-8").strip()
