"""The drawn world: the same for everybody, balanced folds, sketches with their photo's geometry, a fitting backbone."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL
import pytest
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from datasets_scripts.mini import UNSEEN, Mini, contact_sheet
from datasets_scripts.prepare import prepare
from datasets_scripts.schema import features
from datasets_scripts.world.instances import (
    CATEGORY_NAMES,
    FOLDS,
    KNOBS,
    TUNING,
    WORLD_VERSION,
    caption,
    generator,
    make_instance,
    vocabulary,
    world_hash,
)
from datasets_scripts.world.parts import CATEGORIES
from datasets_scripts.world.render import SIZE, draw_photo, draw_sketch, pixel_hash
from modeling_splip.fingerprints import weights_fingerprint

ROOT = Path(__file__).resolve().parents[2]
BACKBONE = ROOT / "modeling_splip" / "pretrained" / "mini_clip"
SHEET = ROOT / "docs" / "images" / "world_contact_sheet.png"

# Changing any means a new world: raise WORLD_VERSION, pretrain mini_clip again, draw the contact sheet again.
WORLD_HASH = "256a5b71d4ab9e20"
BACKBONE_HASH = "47f4ad152019b6a0"
PIXEL_HASH = ("ba97c2b8ec0b191d", "12.3")  # the hash and the release of Pillow that it was made with


def small(name: str) -> Mini:
    """Return a builder of few pictures."""
    return Mini(name, train_photos=2, gallery_photos=3, fine_photos=2, fine_sketches=2)


def test_the_world_is_pinned():
    assert world_hash() == WORLD_HASH


def test_pixels_are_pinned_for_the_pillow_release_that_drew_them():
    expected, release = PIXEL_HASH
    if not PIL.__version__.startswith(release + "."):
        pytest.skip(f"pixels are pinned for Pillow {release}; the contact sheet is compared in another test")
    assert pixel_hash() == expected


def test_the_contact_sheet_in_the_docs_shows_this_world():
    with Image.open(SHEET) as file:
        shown = np.asarray(file.convert("RGB"), dtype=float)
    drawn = np.asarray(contact_sheet(), dtype=float)
    assert shown.shape == drawn.shape
    # The stored picture has a reduced palette, and outlines may move by a pixel between versions of Pillow.
    assert np.abs(shown - drawn).mean() < 12
    assert SHEET.stat().st_size < 400_000


def test_another_process_draws_the_same_pixels():
    code = "from datasets_scripts.world.render import pixel_hash; print(pixel_hash())"
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == pixel_hash()


def test_categories_are_split_without_overlap():
    assert len(CATEGORY_NAMES) == len(set(CATEGORY_NAMES)) == 40
    assert set(CATEGORY_NAMES) == set(CATEGORIES)
    assert [len(group) for group in (TUNING, *FOLDS)] == [10, 10, 10, 10]
    for name in UNSEEN:
        plan = Mini(name).plan()
        assert len(plan.unseen) == 10 and len(plan.seen) == 30
        assert not set(plan.seen) & set(plan.unseen)
    assert not set(TUNING) & {name for fold in FOLDS for name in fold}


@pytest.mark.parametrize("name", CATEGORY_NAMES)
def test_every_category_draws_within_its_frame_and_varies(name):
    pictures = []
    for number in range(4):
        instance = make_instance(name, number, "test")
        points = np.array([point for part in CATEGORIES[name].draw(*instance.values) for point in part.points])
        assert np.abs(points).max() < 1.6
        photo, sketch = draw_photo(instance), draw_sketch(instance, 0)
        assert photo.shape == sketch.shape == (SIZE, SIZE, 3)
        assert photo.dtype == sketch.dtype == np.uint8
        share = (sketch < 250).any(axis=2).mean()
        assert 0.02 < share < 0.5, "a sketch is strokes on paper"
        pictures.append(sketch)
    assert all((pictures[0] != other).any() for other in pictures[1:])


def test_instances_do_not_depend_on_what_was_drawn_before():
    first = make_instance("mug", 7, "gallery")
    draw_photo(make_instance("cat", 1, "gallery"))
    again = make_instance("mug", 7, "gallery")
    assert first == again
    assert (draw_photo(first) == draw_photo(again)).all()
    assert first != make_instance("mug", 7, "train")
    assert first != make_instance("mug", 7, "gallery", seed=1)


def test_an_unknown_category_is_named():
    with pytest.raises(ValueError, match="There is no category 'rhinoceros'"):
        make_instance("rhinoceros", 0, "test")


def _ink(sketch: np.ndarray) -> np.ndarray:
    """Return a thumbnail of where the ink is, (256,), unit norm: compares poses, tolerates strokes that moved."""
    dark = 255.0 - np.asarray(Image.fromarray(sketch).convert("L").resize((16, 16), Image.Resampling.BOX))
    dark -= dark.mean()
    return (dark / np.linalg.norm(dark)).ravel()


def test_sketches_share_the_pose_of_their_own_instance():
    own, mirrored, tilted, other = [], [], [], []
    for name in ("teapot", "hammer", "guitar", "truck", "flower"):
        for number in range(10):
            instance = make_instance(name, number, "test")
            instance = dataclasses.replace(instance, tilt=10.0)
            clean = _ink(draw_sketch(instance, 0, KNOBS.web))
            flipped = dataclasses.replace(instance, mirrored=not instance.mirrored)
            turned = dataclasses.replace(instance, tilt=-40.0)
            own.append(clean @ _ink(draw_sketch(instance, 1)))
            mirrored.append(clean @ _ink(draw_sketch(flipped, 1)))
            tilted.append(clean @ _ink(draw_sketch(turned, 1)))
            other.append(clean @ _ink(draw_sketch(make_instance(name, number + 1, "test"), 1)))
    assert np.mean(own) > np.mean(mirrored) + 0.15
    assert np.mean(own) > np.mean(tilted) + 0.15
    assert np.mean(own) > np.mean(other) + 0.15


def test_an_instance_has_different_sketches_and_human_ones_are_fainter_than_clean_ones():
    instance = make_instance("house", 3, "test")
    assert (draw_sketch(instance, 0) != draw_sketch(instance, 1)).any()
    clean = np.mean([255 - draw_sketch(make_instance("house", n, "test"), 0, KNOBS.web).mean() for n in range(10)])
    human = np.mean([255 - draw_sketch(make_instance("house", n, "test"), 0).mean() for n in range(10)])
    assert human < 0.5 * clean


def test_hardness_leaves_the_object_alone_but_not_its_picture():
    hard, easy = make_instance("car", 2, "test"), make_instance("car", 2, "test", hard=0.0)
    assert dataclasses.replace(hard, hard=0.0) == easy
    assert (draw_photo(hard) != draw_photo(easy)).any()
    assert (draw_sketch(hard, 0) == draw_sketch(easy, 0)).all()


def test_captions_name_what_tells_instances_apart():
    instance = make_instance("mug", 0, "test")
    full = caption(instance)
    assert full.startswith(f"photo of a {instance.texture} {instance.colour} mug ")
    assert f"on {instance.background} {instance.background_colour} background" in full
    assert "handle" in full and ("facing left" in full or "facing right" in full)
    drawing = caption(instance, "sketch")
    assert drawing.startswith("sketch of a mug ") and "background" not in drawing
    short = caption(instance, rng=generator("test"), keep=0.0)
    assert short == "photo of a mug"
    different = {caption(make_instance("mug", number, "test")) for number in range(50)}
    assert len(different) == 50


def test_splits_have_the_promised_pictures():
    plan = small("mini-tuning").plan()
    train, query, gallery = (plan.rows[split] for split in ("train", "query", "gallery"))
    assert len({row.picture.path for row in train}) == len(train) == 30 * (2 + 1 + 2)
    assert {row.label for row in train} == set(plan.seen)
    assert len(query) == 10 * 2 * 2 and {row.modality for row in query} == {"sketch"}
    assert len(gallery) == 10 * 3 and {row.modality for row in gallery} == {"photo"}
    photos = {row.instance_id for row in gallery}
    assert {row.instance_id for row in query} < photos
    # What one configuration trains on is not what another one searches.
    elsewhere = small("mini-fold0").plan().rows["train"]
    assert not photos & {row.instance_id for row in elsewhere}
    assert not {row.picture.read() for row in gallery} & {row.picture.read() for row in elsewhere}


def test_default_sizes_allow_category_and_instance_retrieval():
    builder = Mini("mini-fold1")
    assert builder.gallery_photos >= 120 and builder.fine_photos == 20 and builder.fine_sketches >= 3


def test_builder_writes_parquet_that_loads(tmp_path):
    builder = small("mini-tuning")
    summary = prepare(builder, tmp_path / "out")
    assert summary["version"] == f"{WORLD_VERSION}-{world_hash()}" and summary["problems"] == {}
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features == features(builder.plan().class_names)
    row = loaded["gallery"][0]
    name = loaded["gallery"].features["label"].int2str(row["label"])
    expected = draw_photo(make_instance(name, 0, "gallery"))
    assert (np.asarray(row["image"]) == expected).all()


def test_backbone_names_this_world():
    record = json.loads((BACKBONE / "record.json").read_text())
    assert record["world_version"] == WORLD_VERSION
    assert record["world_hash"] == WORLD_HASH
    assert {"steps", "loss", "zero_shot_accuracy", "seed"} <= set(record)
    # Other weights are another backbone: results of the two never share a table.
    assert weights_fingerprint(CLIPModel.from_pretrained(BACKBONE).state_dict()) == BACKBONE_HASH


def test_backbone_loads_offline_and_knows_every_word():
    model = CLIPModel.from_pretrained(BACKBONE)
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    processor = CLIPImageProcessorPil.from_pretrained(BACKBONE)
    assert (BACKBONE / "model.safetensors").stat().st_size <= 8 * 2**20
    text = model.config.text_config
    assert text.hidden_size != model.config.vision_config.hidden_size
    assert text.eos_token_id == tokenizer.eos_token_id < text.vocab_size and text.eos_token_id != 2
    assert [word for word in vocabulary() if len(tokenizer.tokenize(word)) != 1] == []
    pieces = tokenizer.tokenize("rhinoceros é")
    assert len(pieces) > 3 and tokenizer.eos_token not in pieces
    longest = max(
        len(tokenizer(caption(make_instance(n, k, "test"))).input_ids) for n in CATEGORY_NAMES for k in range(5)
    )
    assert longest <= text.max_position_embeddings
    photo = Image.fromarray(draw_photo(make_instance("cat", 0, "test")))
    assert processor(photo, return_tensors="pt")["pixel_values"].shape == (1, 3, SIZE, SIZE)
