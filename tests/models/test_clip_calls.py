"""What users of CLIP and of pipelines call, over all model classes."""

import numpy as np
import pytest
import torch
from method_models import CASES, MODALITIES, build
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel, pipeline

from modeling_splip.processing_splip import SplipProcessor

MODELS = [*CASES, ("splip_encoder", {"conditioning": "domain", "share_layer_norms": False})]
MODEL = pytest.mark.parametrize(("name", "settings"), MODELS)
PHOTO_TAKEN = "No modality was passed, so images count as photos: sketches need modality='sketch'."


def make(name: str, settings: dict, base: str):
    return build("splip", settings, base).fold() if name == "splip_encoder" else build(name, settings, base).eval()


@pytest.fixture(scope="module")
def processor(tiny_clip) -> SplipProcessor:
    return SplipProcessor.from_clip(tiny_clip)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@MODEL
def test_features_of_images_and_texts(tiny_clip, processor, pixels, name, settings):
    model = make(name, settings, tiny_clip)
    for modality in MODALITIES:
        output = model(pixels, modality)
        found = model.get_image_features(pixels, modality, output_hidden_states=True)
        assert torch.equal(found.pooler_output, output.embeds) and torch.equal(found.last_hidden_state, output.tokens)
        assert len(found.hidden_states) == 5 and found.attentions is None
        assert torch.equal(model.get_image_features(pixels, modality, return_dict=False)[1], output.embeds)
    texts = processor(text=["a zebra", "hot air balloon"])
    if name == "splip_encoder":
        with pytest.raises(ValueError, match=r"SplipEncoder has no text tower \(it is folded\): embed texts before"):
            model.get_text_features(**texts)
        return
    expected = F.normalize(CLIPModel.from_pretrained(tiny_clip).get_text_features(**texts).pooler_output, dim=-1)
    assert torch.allclose(model.get_text_features(**texts).pooler_output, expected, atol=1e-6)
    alone = processor(text=["a zebra"])["input_ids"]
    assert torch.allclose(model.get_text_features(alone).pooler_output, expected[:1], atol=1e-6)


def test_the_form_for_search_embeds_texts_too(tiny_clip, processor):
    model = make("splip", {"conditioning": "domain", "share_layer_norms": False}, tiny_clip)
    texts = processor(text=["a zebra"])
    found = model.for_search().get_text_features(**texts).pooler_output
    assert torch.equal(found, model.get_text_features(**texts).pooler_output)


@MODEL
def test_the_input_embeddings_are_the_patches(tiny_clip, pixels, name, settings):
    model = make(name, settings, tiny_clip)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Conv2d) and embedding.out_channels == 32 and embedding.kernel_size == (8, 8)
    before = model.encode(pixels, "photo")
    other = nn.Conv2d(3, 32, 8, 8, bias=False)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other and not torch.equal(model.encode(pixels, "photo"), before)


@MODEL
def test_without_a_modality_images_are_photos_and_it_is_said(tiny_clip, pixels, said, name, settings):
    model = make(name, settings, tiny_clip)
    expected = model(pixels, "photo").embeds
    assert not said()
    for _ in range(2):
        output = model(pixel_values=pixels)
        assert torch.equal(output.embeds, expected) and output.class_embeds is None
    assert said() == [PHOTO_TAKEN]


@pytest.mark.parametrize(
    "images", [Image.new("RGB", (8, 8)), [Image.new("RGB", (8, 8))], "a.png", np.zeros((1, 3, 8, 8))]
)
def test_what_is_no_tensor_is_refused_in_a_sentence(tiny_clip, images):
    model = make("clip_at", {}, tiny_clip)
    for call in (model, model.encode, model.get_image_features):
        with pytest.raises(ValueError, match=rf"must be a tensor .*, got {type(images).__name__}: the processor makes"):
            call(images, "photo")


def test_encode_takes_what_the_processor_gives(tiny_clip, processor, photo):
    model = make("clip_at", {}, tiny_clip)
    for modality in MODALITIES:
        inputs = processor(images=[photo, photo], modality=modality)
        assert torch.equal(model.encode(**inputs), model.encode(inputs["pixel_values"], modality))


@MODEL
def test_pipelines(tiny_clip, processor, photo, said, tmp_path, name, settings):
    """By the folder's name, photos only; with the processor sketches too; also in batches."""
    model = make(name, settings, tiny_clip)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    expected = model.encode(**processor(images=photo, modality="photo"))
    extract = pipeline("image-feature-extraction", model=str(tmp_path))
    assert type(extract.model) is type(model)
    assert torch.equal(torch.tensor(extract(photo)), expected)
    assert said() == [PHOTO_TAKEN]
    with_processor = pipeline("image-feature-extraction", model=model, image_processor=processor)
    for each in (extract, with_processor):
        found = torch.cat(each([photo] * 3, batch_size=2, return_tensors=True))
        assert torch.allclose(found, expected.expand(3, -1), atol=1e-6)
    drawing = Image.new("RGB", (50, 30), "white")
    ImageDraw.Draw(drawing).line([(3, 3), (40, 20)], fill="black", width=2)
    found = with_processor(drawing, image_processor_kwargs={"modality": "sketch"}, return_tensors=True)
    assert torch.equal(found, model.encode(**processor(images=drawing, modality="sketch")))
    with pytest.raises(ValueError, match="one modality a call"):
        model(torch.zeros(2, 3, 32, 32), ["photo", "sketch"])
