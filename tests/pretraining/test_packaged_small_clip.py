"""The packaged `small_clip`: it loads, is small, and its card says what its files and its record say."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

import modeling_splip
from datasets_scripts.splits import load_split

FOLDER = Path(modeling_splip.__file__).parent / "pretrained" / "small_clip"
CARD = (FOLDER / "README.md").read_text("utf-8")
RECORD = json.loads((FOLDER / "record.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return CLIPModel.from_pretrained(FOLDER)


def test_files_are_small_enough_to_be_packaged():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 20 * 2**20


def test_it_loads_and_tells_names_apart(clip):
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float16}
    tokenizer, processor = AutoTokenizer.from_pretrained(FOLDER), CLIPImageProcessorPil.from_pretrained(FOLDER)
    texts = tokenizer(["a photo of a cat", "a photo of a piano"], padding=True, return_tensors="pt")
    pixels = processor(Image.new("RGB", (90, 70)), return_tensors="pt")
    output = CLIPModel.from_pretrained(FOLDER).float()(**texts, **pixels)
    assert output.logits_per_image.shape == (1, 2)
    assert torch.cosine_similarity(*output.text_embeds, dim=0) < 0.9


def test_card_tells_the_sizes(clip):
    vision, text = clip.config.vision_config, clip.config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    told = [
        f"{patches} patches of {vision.patch_size} x {vision.patch_size}",
        f"{vision.num_hidden_layers} layers, width {vision.hidden_size}",
        f"{text.num_hidden_layers} layers, width {text.hidden_size}, at most {text.max_position_embeddings} tokens",
        f"{text.vocab_size:,} tokens",
        f"{sum(parameter.numel() for parameter in clip.parameters()):,}",
        f"{clip.config.projection_dim} values",
    ]
    assert [words for words in told if words not in CARD] == []


def test_card_tells_what_the_record_has_measured():
    measured = RECORD["measured"]
    rows = {
        "held-back photos": measured["photos_top1"],
        "held-back drawings": measured["drawings_top1"],
        "drawings as queries: mAP@all": measured["real_mini_map"],
        "(chance: 4.6)": measured["real_mini_p10"],
    }
    for words, value in rows.items():
        (line,) = [line for line in CARD.splitlines() if line.startswith("|") and f"{words} |" in line]
        assert float(line.split("|")[2]) == pytest.approx(100 * value, abs=0.0501), words
    assert f"{RECORD['steps']:,} steps of {RECORD['batch']:,} pictures" in CARD
    assert f"{len(RECORD['names']):,} class names" in CARD and RECORD["teacher"] in CARD


def test_card_tells_which_test_classes_of_sketchy_2_were_captions():
    rows = re.findall(r"^\| ([a-z]+) \| (yes|no) \| (\d+) \| (\d+)", CARD, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(load_split("sketchy2").unseen)
    assert {name for name, caption, *_ in rows if caption == "yes"} == set(RECORD["names"]) & {row[0] for row in rows}
    drawings, photos = [int(row[2]) for row in rows], [int(row[3]) for row in rows]
    captions, drawn, seen = sum(row[1] == "yes" for row in rows), sum(map(bool, drawings)), sum(map(bool, photos))
    assert f"Names of {captions} of the classes were captions." in CARD
    assert f"{sum(drawings)} labelled drawings of {drawn} classes, and photos of {seen}." in CARD
