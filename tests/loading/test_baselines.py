"""Frozen CLIP by the drawing and by the name of what it shows."""

import pytest
import torch
from conftest import CLASSES, byte_tokenizer
from torch.nn import functional as F
from transformers import CLIPModel

from modeling_splip.loading import load_retriever


def test_the_class_name_is_the_query(tiny_clip, pixels):
    model, processor = load_retriever(f"clip-text:{tiny_clip}", CLASSES)
    plain, _ = load_retriever(f"clip:{tiny_clip}")
    clip = CLIPModel.from_pretrained(tiny_clip).eval()
    texts = byte_tokenizer()([f"a photo of a {name}" for name in CLASSES], padding=True, return_tensors="pt")
    names = F.normalize(clip.get_text_features(**texts).pooler_output, dim=-1)
    seen = F.normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
    expected = names[(seen @ names.T).argmax(dim=1)]
    torch.testing.assert_close(model.encode(pixels, "sketch"), expected, atol=1e-6, rtol=0)
    assert torch.equal(model.encode(pixels, "photo"), plain.encode(pixels, "photo"))
    assert model.fingerprint(processor) != plain.fingerprint(processor)
    assert model.config.class_names == []  # nothing of the data set counts as seen


def test_it_wants_the_names(tiny_clip):
    with pytest.raises(ValueError, match="needs the names of the classes that a sketch may show: pass class_names"):
        load_retriever(f"clip-text:{tiny_clip}")
