"""Models encode where ZeroGPU lends a GPU, with the same values; nothing but tensors goes there."""

import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from method_models import build
from splip_space.zero_gpu import SECONDS, lend_gpu

from modeling_splip.processing_splip import SplipProcessor

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def library(monkeypatch):
    """The library itself: tests have a helper of the same name."""
    monkeypatch.setitem(sys.modules, "spaces", None)
    del sys.modules["spaces"]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place).resolve() != TESTS])
    pytest.importorskip("spaces", reason="the library of Hugging Face's Spaces is not installed")


@pytest.fixture
def lent(monkeypatch) -> list:
    """Calls that ZeroGPU would run in a process of its own: it pickles arguments and results."""
    calls = []

    def gpu(task, duration):
        def run(*args, **kwargs):
            calls.append(duration)
            args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
            return pickle.loads(pickle.dumps(task(*args, **kwargs)))

        return run

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    return calls


@pytest.mark.parametrize("where", ["library", "lent"])
def test_the_values_stay(tiny_clip, pixels, request, where):
    """With the library as it is away from Hugging Face, and with calls as they are there."""
    calls = request.getfixturevalue(where)
    model, words = build("clip_at", {}, tiny_clip), SplipProcessor.from_clip(tiny_clip)(text=["a red cup", "ant"])
    expected = model.encode(pixels, "sketch"), model.encode_text(**words)
    fingerprint = model.fingerprint()
    assert lend_gpu(model)
    assert torch.equal(model.encode(pixels, "sketch"), expected[0])
    assert torch.equal(model.encode_text(**words), expected[1])
    assert model.fingerprint() == fingerprint and model.training is False
    assert calls in (None, [SECONDS] * 2)


def test_nothing_changes_without_the_library(tiny_clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)
    model = build("clip_at", {}, tiny_clip)
    assert not lend_gpu(model) and "encode" not in vars(model)
