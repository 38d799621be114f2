"""Which parts of a sketch and a photo a model sees alike, for every method, against the plain computation."""

import numpy as np
import pytest
import torch
from galleries import draw, make_photos
from method_models import CASES, build
from PIL import Image, ImageDraw
from torch.nn import functional as F
from transformers import CLIPModel

from modeling_splip.loading import load_retriever
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.search.explain import explain, seen
from modeling_splip.search.gallery import Gallery


@pytest.fixture(scope="module")
def plain(tiny_clip):
    return load_retriever(f"clip:{tiny_clip}")


def half_drawn(size=(64, 64)) -> Image.Image:
    """A sketch whose right half is blank."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for shift in (0, 9, 18):
        pen.ellipse([2 + shift, 5 + shift, 12 + shift, 40 + shift], outline="black", width=2)
    return image


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_every_method_shows_what_it_sees(tiny_clip, name, settings):
    model, processor = build(name, settings, tiny_clip), SplipProcessor.from_clip(tiny_clip)
    sketch, photo = draw(1), draw(2, "green")
    found = explain(model, processor, sketch, photo)
    embeds = [
        model.encode(processor(images=[image], modality=modality)["pixel_values"], modality)
        for image, modality in ((sketch, "sketch"), (photo, "photo"))
    ]
    assert found.score == pytest.approx(float(embeds[0] @ embeds[1].T), abs=1e-6)  # what the search ranks by
    assert found.grid == (4, 4) and found.cosines.shape == (16, 16) and np.abs(found.cosines).max() <= 1
    assert found.drawn.any() and not found.drawn.all() and found.pairs
    naive = [
        (i, j)
        for i in range(16)
        for j in range(16)
        if found.drawn[i] and found.cosines[i, j] == found.cosines[i].max() == found.cosines[:, j].max()
    ]
    pairs = [(4 * a + b, 4 * c + d) for (a, b), (c, d), _ in found.pairs]
    assert sorted(pairs) == naive
    assert [pair.cosine for pair in found.pairs] == sorted((float(found.cosines[i, j]) for i, j in naive), reverse=True)
    assert np.array_equal(found.heat(1, 2), found.cosines[6].reshape(4, 4))
    folded = model.for_search()
    if folded is not model:
        again = explain(folded, processor, sketch, photo)
        np.testing.assert_allclose(again.cosines, found.cosines, atol=1e-5)


def test_tokens_are_the_values_of_the_last_layer(tiny_clip, plain):
    processor = plain[1]
    sketch, photo = draw(1), draw(2, "green")
    clip = CLIPModel.from_pretrained(tiny_clip)
    tower, tokens = clip.vision_model, []
    for image, modality in ((sketch, "sketch"), (photo, "photo")):
        pixel_values = processor(images=[image], modality=modality)["pixel_values"]
        with torch.no_grad():
            states = tower(pixel_values, output_hidden_states=True).hidden_states[-2]
            last = tower.encoder.layers[-1]
            values = last.self_attn.out_proj(last.self_attn.v_proj(last.layer_norm1(states)))
            tokens.append(F.normalize(clip.visual_projection(tower.post_layernorm(values)), dim=-1)[0, 1:])
    np.testing.assert_allclose(explain(*plain, sketch, photo).cosines, tokens[0] @ tokens[1].T, atol=1e-5)


def test_a_picture_matches_itself_and_blank_parts_match_nothing(plain):
    sketch = half_drawn()
    found = explain(*plain, sketch, sketch)  # one model for both modalities
    assert found.score == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.diag(found.cosines), 1, atol=1e-5)
    drawn = found.drawn.reshape(4, 4)
    assert drawn[:, :2].any() and not drawn[:, 3].any()
    assert {pair.sketch for pair in found.pairs} == {(int(row), int(column)) for row, column in np.argwhere(drawn)}
    assert all(pair.sketch == pair.photo for pair in found.pairs)


@pytest.mark.parametrize(
    ("size", "modality", "box"),
    [
        ((128, 64), "photo", (32, 0, 96, 64)),
        ((64, 64), "photo", (0, 0, 64, 64)),
        ((64, 128), "sketch", (-32, 0, 96, 128)),
    ],
)
def test_the_view_is_what_the_model_sees(plain, size, modality, box):
    processor = plain[1]
    image = draw(3, "white" if modality == "sketch" else "red").resize(size)
    view = seen(processor, image, modality)
    assert view.size == (box[2] - box[0], box[3] - box[1])
    whole = Image.new("RGB", (256, 256), "white")
    whole.paste(image, (64, 64))
    assert view.tobytes() == whole.crop(tuple(64 + side for side in box)).tobytes()
    pixels = [processor(images=[each], modality=modality)["pixel_values"] for each in (image, view)]
    torch.testing.assert_close(*pixels)


def test_the_view_knows_other_ways_to_cut(tiny_clip):
    processor = SplipProcessor.from_clip(tiny_clip)
    settings, photo = processor.image_processor, draw(3, "red").resize((160, 80))
    settings.size = {"shortest_edge": 40}  # larger than the middle that is cut
    assert seen(processor, photo, "photo").size == (64, 64)
    settings.size = {"height": 32, "width": 64}
    assert seen(processor, photo, "photo").size == (80, 80)
    settings.do_center_crop = False
    assert seen(processor, photo, "photo").size == (160, 80)


def test_a_gallery_explains_its_results(plain, tmp_path):
    gallery = Gallery.build(make_photos(tmp_path / "photos", 4), *plain, tmp_path / "G", progress=False)
    result = gallery.search(draw(100), 1)[0]
    found, wanted = gallery.explain(draw(100), result), explain(*plain, draw(100), result.thumbnail)
    assert np.array_equal(found.cosines, wanted.cosines) and found.pairs == wanted.pairs
    assert np.array_equal(gallery.explain(draw(100), result.path).drawn, found.drawn)
    with pytest.raises(ValueError, match="Nothing is drawn on the sketch: draw the outline"):
        gallery.explain(Image.new("L", (9, 9), 255), result)
