"""Whatever holds a picture becomes the same pixels; sketches are padded, never cropped, and black on white."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import AutoProcessor, BaseImageProcessor, CLIPImageProcessorPil

from modeling_splip.modeling_splip import SplipModel
from modeling_splip.processing_splip import SplipProcessor, to_rgb


@pytest.fixture(scope="module")
def processor(tiny_clip) -> SplipProcessor:
    return SplipProcessor.from_clip(tiny_clip)


@pytest.fixture
def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))


def drawing(size: tuple[int, int] = (40, 40), ground: str = "white", ink: str = "black") -> Image.Image:
    image = Image.new("RGB", size, ground)
    ImageDraw.Draw(image).line([(3, 3), (size[0] - 4, size[1] - 4)], fill=ink, width=2)
    return image


def pixels(processor: SplipProcessor, image, modality: str = "photo") -> torch.Tensor:
    return processor(images=[image], modality=modality)["pixel_values"]


def test_every_container_of_one_picture_gives_the_same_pixels(processor, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    array = np.asarray(photo)
    tensor = torch.from_numpy(array.copy()).movedim(-1, 0)
    same = [
        photo,
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        array,
        array.astype(np.int64),
        array / 255,
        np.dstack([array, np.full((40, 40), 255, np.uint8)]),
        tensor,
        tensor.double() / 255,
    ]
    expected = pixels(processor, photo)
    assert expected.shape == (1, 3, 32, 32) and expected.dtype == torch.float32
    for image in same:
        assert torch.equal(pixels(processor, image), expected), type(image)
    # bfloat16 keeps eight bits of a number: pixels differ, but by no more than that.
    assert torch.allclose(pixels(processor, tensor.bfloat16() / 255), expected, atol=0.05)


def test_pixels_are_those_of_the_base_clip(processor, photo, tiny_clip):
    theirs = CLIPImageProcessorPil.from_pretrained(tiny_clip)(photo, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels(processor, photo), theirs)


def transparent(mode: str) -> Image.Image:
    """A black stroke on a ground that is black too but fully transparent."""
    stroke = drawing().convert("L").point(lambda grey: 255 if grey < 128 else 0)
    if mode == "LA":
        return Image.merge("LA", [Image.new("L", (40, 40), 0), stroke])
    if mode == "P":
        image = Image.new("P", (40, 40), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, mask=stroke)
        image.info["transparency"] = 0
        return image
    if mode == "L":
        image = Image.new("L", (40, 40), 1)
        image.paste(0, mask=stroke)
        image.info["transparency"] = 1
        return image
    return Image.merge("RGBA", [*Image.new("RGB", (40, 40), "black").split(), stroke])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_transparency_is_laid_on_white(processor, mode, tmp_path):
    image = transparent(mode)
    assert image.mode == mode
    expected = pixels(processor, drawing(), "sketch")
    assert torch.equal(pixels(processor, image, "sketch"), expected)
    image.save(tmp_path / "drawing.png")
    assert torch.equal(pixels(processor, tmp_path / "drawing.png", "sketch"), expected)


def test_half_transparent_ink_is_half_white():
    image = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert to_rgb(image).getpixel((0, 0)) == (127, 127, 127)


def test_grey_and_one_bit_images(processor):
    expected = pixels(processor, drawing(), "sketch")
    grey = drawing().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    bits = np.asarray(grey) > 128
    arrays = [np.asarray(grey), np.asarray(grey)[..., None], bits, torch.tensor(bits)]
    wide = [Image.fromarray(np.asarray(grey).astype(kind) * scale) for kind, scale in ((np.int32, 1), (np.int32, 257))]
    wide.append(Image.fromarray(np.asarray(grey).astype(np.float32) / 255))
    assert [image.mode for image in wide] == ["I", "I", "F"]
    for image in [grey, drawing().convert("1"), drawing().convert("P"), deep, *wide, *arrays]:
        assert torch.equal(pixels(processor, image, "sketch"), expected)


def test_greys_of_16_bits_keep_their_values():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], grey)


def test_a_colour_that_stands_for_transparency_is_white(tmp_path):
    drawing(ground="red").save(tmp_path / "keyed.png", transparency=(255, 0, 0))
    assert np.array_equal(np.asarray(to_rgb(tmp_path / "keyed.png")), np.asarray(drawing()))


def test_premultiplied_transparency():
    assert to_rgb(Image.new("La", (1, 1), (0, 128))).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("tall", [False, True])
def test_of_a_very_long_photo_the_middle_is_resized(processor, photo, tall):
    """What centre-cropping leaves is not changed by cutting the ends first."""
    long = Image.new("RGB", (40, 40 * 41) if tall else (40 * 41, 40), "white")
    long.paste(photo, (0, 40 * 20) if tall else (40 * 20, 0))
    assert processor.prepare(long, "photo").size == ((40, 640) if tall else (640, 40))
    assert torch.equal(pixels(processor, long), processor.image_processor([long], return_tensors="pt")["pixel_values"])


def test_exif_orientation_is_applied(processor, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to stand upright
    photo.save(tmp_path / "turned.png", exif=exif)
    upright = photo.transpose(Image.Transpose.ROTATE_270)
    assert torch.equal(pixels(processor, tmp_path / "turned.png"), pixels(processor, upright))


@pytest.mark.parametrize("size", [(80, 40), (40, 80), (41, 40)])
def test_sketches_are_padded_with_white_and_never_cropped(processor, size):
    image = drawing(size)
    square = processor.prepare(image, "sketch")
    assert square.size == (max(size), max(size))
    left, top = (max(size) - size[0]) // 2, (max(size) - size[1]) // 2
    assert square.crop((left, top, left + size[0], top + size[1])).tobytes() == image.tobytes()
    black = lambda picture: int((np.asarray(picture.convert("L")) < 128).sum())  # noqa: E731
    assert black(square) == black(image) > 0
    # A photo is cropped at its centre instead.
    assert processor.prepare(image, "photo").size == size


def test_is_blank(processor):
    assert processor.is_blank(Image.new("RGB", (30, 20), "white"))
    assert processor.is_blank(Image.new("RGBA", (30, 20), (0, 0, 0, 0)))
    assert processor.is_blank(np.full((20, 30), 250, np.uint8))
    assert not processor.is_blank(drawing())
    assert not processor.is_blank(transparent("RGBA"))
    assert not processor.is_blank(drawing(ground="black", ink="white"))


def test_white_on_black_is_inverted_and_said_in_one_line(processor, tiny_clip, said):
    expected = pixels(processor, drawing((60, 40)), "sketch")
    assert not said()
    dark = drawing((60, 40), ground="black", ink="white")
    for _ in range(2):
        # Inverted before it is padded: the padding is white in both.
        assert torch.equal(pixels(processor, dark, "sketch"), expected)
    (line,) = said()
    assert "white on black and is inverted" in line and "\n" not in line
    assert processor.remark(dark) == line and processor.remark(drawing()) == ""
    # Photos are never inverted.
    never = SplipProcessor.from_clip(tiny_clip, invert_sketches=False)
    assert torch.equal(pixels(never, dark, "photo"), pixels(processor, dark, "photo"))


def test_inversion_as_the_user_says(processor, tiny_clip, said):
    dark, light = drawing((60, 40), ground="black", ink="white"), drawing((60, 40))
    expected = pixels(processor, light, "sketch")
    always, never = (SplipProcessor.from_clip(tiny_clip, invert_sketches=value) for value in (True, "false"))
    assert (always.invert_sketches, never.invert_sketches) == ("true", "false")
    assert torch.equal(pixels(always, dark, "sketch"), expected)
    assert not torch.equal(pixels(always, light, "sketch"), expected)
    assert not said() and not always.remark(dark)
    assert torch.equal(pixels(never, light, "sketch"), expected)
    assert not torch.equal(pixels(never, dark, "sketch"), expected)
    assert said() == [never.remark(dark)] and "with invert_sketches=auto it would be" in said()[0]
    # Photos do not depend on it, so a gallery can be searched whatever is chosen.
    assert always.image_settings() == never.image_settings() == processor.image_settings()
    with pytest.raises(ValueError, match="invert_sketches must be auto, true or false, got 'yes'"):
        SplipProcessor.from_clip(tiny_clip, invert_sketches="yes")


def test_light_strokes_on_transparency_are_drawn(processor, said):
    """Laid on white they would be a blank page."""
    strokes = drawing().convert("L").point(lambda grey: 255 - grey)
    image = Image.merge("RGBA", [*Image.new("RGB", (40, 40), "white").split(), strokes])
    assert not processor.is_blank(image)
    assert torch.equal(pixels(processor, image, "sketch"), pixels(processor, drawing(), "sketch"))
    assert len(said()) == 1
    assert processor.is_blank(Image.new("RGBA", (40, 40), (255, 255, 255, 0)))
    assert to_rgb(Image.new("RGBA", (4, 4), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_a_line_drawing_without_a_modality_is_doubted(processor, photo, said):
    assert torch.equal(processor(images=photo)["pixel_values"], pixels(processor, photo)) and not said()
    processor(images=drawing(), modality="photo")
    assert not said()
    inputs = processor(images=[photo, drawing()])
    assert inputs["modality"] == "photo"
    assert said() == [
        "No modality was passed, so images count as photos, but one looks like a line drawing: pass modality='sketch'."
    ]
    assert "does not look drawn" in processor.remark(photo) and processor.remark(drawing()) == ""


@pytest.mark.parametrize("before", [True, False, None])
def test_what_was_saved_before_there_was_a_choice_loads(processor, before, tmp_path):
    """An ordinary sketch keeps its pixels, and the fingerprint is that of before."""
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    saved = json.loads(file.read_text())
    assert saved["invert_sketches"] == "auto"
    file.write_text(json.dumps({name: value for name, value in saved.items() if name != "invert_sketches"}))
    if before is not None:
        file.write_text(json.dumps(saved | {"invert_sketches": before}))
    loaded = SplipProcessor.from_pretrained(tmp_path)
    assert loaded.invert_sketches == "auto"
    assert loaded.image_settings()["invert_sketches"] is False
    assert torch.equal(pixels(loaded, drawing(), "sketch"), pixels(processor, drawing(), "sketch"))
    assert SplipProcessor.from_pretrained(tmp_path, invert_sketches=True).invert_sketches == "true"


def test_saved_and_loaded(tiny_clip, photo, tmp_path, said):
    before = SplipProcessor.from_clip(tiny_clip, invert_sketches=True)
    before.save_pretrained(tmp_path)
    after = SplipProcessor.from_pretrained(tmp_path)
    assert not said()
    assert after.invert_sketches == "true"
    assert after.image_settings() == before.image_settings()
    assert torch.equal(pixels(after, photo), pixels(before, photo))
    text = ["a zebra", "an ant"]
    assert torch.equal(after(text=text)["input_ids"], before(text=text)["input_ids"])
    assert SplipProcessor.from_pretrained(tmp_path, invert_sketches=False).invert_sketches == "false"
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), SplipProcessor)


def test_pixels_are_always_those_of_pil(processor, photo):
    class CLIPImageProcessor(BaseImageProcessor):
        """Another class with the same settings, as is loaded where torchvision is installed."""

    other = SplipProcessor(CLIPImageProcessor(**processor.image_processor.to_dict()), processor.tokenizer)
    assert type(other.image_processor) is CLIPImageProcessorPil
    assert other.image_settings() == processor.image_settings()
    assert torch.equal(pixels(other, photo), pixels(processor, photo))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_mean", [0.0] * 3),
        ("image_std", [1.0] * 3),
        ("size", {"shortest_edge": 36}),
        ("crop_size", {"height": 16, "width": 16}),
        ("resample", 0),
        ("do_resize", False),
        ("do_rescale", False),
        ("rescale_factor", 1.0),
        ("do_normalize", False),
    ],
)
def test_every_setting_that_changes_pixels_is_in_the_fingerprint(processor, tiny_clip, photo, name, value):
    changed = SplipProcessor(CLIPImageProcessorPil.from_pretrained(tiny_clip, **{name: value}), processor.tokenizer)
    assert not torch.equal(pixels(changed, photo), pixels(processor, photo))
    assert changed.image_settings() != processor.image_settings()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((2, 40, 40, 3)), r"An image array must be \(H, W\)"),
        (np.zeros((40, 40, 2)), r"An image array must be \(H, W\)"),
        (np.zeros((0, 4)), r"An image array must be \(H, W\)"),
        (np.full((4, 4), 300), r"An image array of int64 must lie in 0..255, got 300..300"),
        (np.full((4, 4), -1), r"must lie in 0..255, got -1..-1"),
        (np.full((4, 4), 2.0), r"An image array of float64 must lie in 0..1, got 2.0..2.0"),
        (np.full((4, 4), np.nan), r"must lie in 0..1, got nan"),
        (torch.zeros(2, 3, 4, 4), r"An image tensor must be \(channels, H, W\).*pass a list"),
        (np.full((4, 4), None), r"An image array must hold numbers, got object"),
        (np.zeros((4, 4), complex), r"An image array must hold numbers, got complex128"),
        (Image.new("RGB", (0, 3)), r"An image must have pixels, got one of 0 x 3"),
        (3, r"An image must be a PIL image, a path"),
        ("nowhere.png", r"There is no image file 'nowhere.png'"),
    ],
)
def test_bad_images(processor, image, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        pixels(processor, image)


def test_bad_files_and_calls(processor, tmp_path, photo):
    (tmp_path / "text.png").write_text("no image")
    photo.save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:-200])
    photo.save(tmp_path / "page.eps")
    os.mkfifo(tmp_path / "pipe.png")
    for path in [tmp_path, *(tmp_path / name for name in ("text.png", "torn.png", "page.eps", "pipe.png"))]:
        with pytest.raises(ValueError, match="is not a readable image"):
            pixels(processor, path)
    with pytest.raises(ValueError, match="modality must be 'sketch' or 'photo'"):
        pixels(processor, photo, "drawing")
    with pytest.raises(ValueError, match="images is empty"):
        processor(images=[])
    with pytest.raises(ValueError, match="text is empty"):
        processor(text=[])
    with pytest.raises(TypeError, match=r"takes no argument 'modalty' \(nearest: 'modality'\)\.$"):
        processor(images=photo, modalty="sketch")
    with pytest.raises(TypeError, match=r"takes no argument 'padding' \(nearest: "):
        processor(images=photo, images_kwargs={"padding": True})
    with pytest.raises(ValueError, match="Nothing to process"):
        processor()


def test_a_base_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="Base CLIP 'someone/no-clip' is no local folder and not on the Hub") as error:
        SplipProcessor.from_clip("someone/no-clip")
    assert "\n" not in str(error.value)
    with pytest.raises(OSError, match="has no loadable image processor and tokenizer"):
        SplipProcessor.from_clip(str(tmp_path))


@pytest.mark.parametrize("modality", ["sketch", "photo"])
def test_the_output_is_what_a_model_takes(processor, tiny_clip, photo, modality):
    model = SplipModel.from_clip(tiny_clip, ["cup", "zebra"])
    inputs = processor(images=[photo], modality=modality).to("cpu", torch.float32)
    assert torch.equal(model(**inputs).embeds, model(inputs["pixel_values"], modality).embeds)
    assert model(**processor(images=photo, modality=modality).to(dtype=torch.float32)).embeds.shape == (1, 16)
    assert "modality" not in processor(text="a cup")


def test_arguments_of_every_processor(processor, photo):
    """Flat or by what they are for, those of the image processor and of the tokenizer."""
    plain = processor(images=photo, text=["cat", "hot dog"], modality="sketch")
    arrays = processor(images=photo, text=["cat", "hot dog"], modality="sketch", return_tensors="np")
    assert arrays["modality"] == "sketch" and plain.keys() == arrays.keys() == set(processor.model_input_names)
    for name in ("pixel_values", "input_ids", "attention_mask"):
        assert isinstance(arrays[name], np.ndarray) and np.array_equal(arrays[name], plain[name].numpy())
    grey = processor(images=photo, do_normalize=False)["pixel_values"]
    assert torch.equal(grey, processor(images=photo, images_kwargs={"do_normalize": False})["pixel_values"])
    image = torch.from_numpy(np.asarray(photo.resize((32, 32), Image.Resampling.BICUBIC)).copy()).movedim(-1, 0)
    torch.testing.assert_close(grey[0], image / 255)
    padded = {"padding": "max_length", "max_length": 12}
    for given in (padded, {"text_kwargs": padded}, {"text_kwargs": padded, "common_kwargs": {"return_tensors": "pt"}}):
        ids = processor(text="cat", **given)["input_ids"]
        assert ids.shape == (1, 12) and torch.equal(ids[0, :5], processor(text="cat")["input_ids"][0])
    assert processor(text=["cat", "hot dog"], max_length=4)["input_ids"].shape == (2, 4)
    lists = processor(text=["cat", "hot dog"], padding=False, return_tensors=None)["input_ids"]
    assert [len(ids) for ids in lists] == [5, 8]
    with pytest.raises(ValueError, match="padding was passed two times"):
        processor(text="cat", padding=True, text_kwargs={"padding": True})
