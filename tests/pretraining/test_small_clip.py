"""The pretraining of `small_clip` end to end: three steps on a CPU, and what it refuses."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_folders, write_packed, write_selection
from torch import nn
from transformers import AutoTokenizer, CLIPImageProcessorPil, ResNetConfig, ResNetModel

from modeling_splip.clip_base import load_clip
from pretraining.small_clip import Best, Clock, main, parse_arguments, words_of

FEW = ["--steps", "3", "--batch", "12", "--teacher", "none"]
FORMS = {"folders": write_folders, "packed": write_packed}


@pytest.fixture(scope="module", params=FORMS)
def run(request, tmp_path_factory) -> tuple[dict, Path]:
    """The record and the folder of three steps on tiny data, in either form."""
    root = tmp_path_factory.mktemp("run")
    data = [*FORMS[request.param](root / "data"), *write_selection(root / "held")]
    return main([*data, *FEW, "--out", str(root / "backbone")]), root / "backbone"


def test_three_steps_save_a_backbone_that_loads(run):
    record, out = run
    assert json.loads((out / "record.json").read_text("utf-8")) == record
    files = {"config.json", "model.safetensors", "preprocessor_config.json", "record.json", "tokenizer.json"}
    assert {file.name for file in out.iterdir()} == files | {"tokenizer_config.json"}
    clip, tokenizer = load_clip(str(out)), AutoTokenizer.from_pretrained(out)
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float16}
    clip = clip.float()
    pixels = CLIPImageProcessorPil.from_pretrained(out)(Image.new("RGB", (90, 70)), return_tensors="pt")
    texts = tokenizer([f"a photo of a {name}" for name in record["names"]], padding=True, return_tensors="pt")
    logits = clip(**pixels, **texts).logits_per_image
    assert logits.shape == (1, len(record["names"])) and logits.isfinite().all()
    assert [word for word in words_of(record["names"]) if len(tokenizer.tokenize(word)) != 1] == []
    assert tokenizer.eos_token_id == clip.config.text_config.eos_token_id
    assert record["parameters"] == sum(parameter.numel() for parameter in clip.parameters())


def test_record_tells_counts_and_no_path(run):
    record, out = run
    assert record["steps"] == 3 and record["teacher"] is None
    left_out = record["data"]["left_out"]
    assert left_out["split"] == "sketchy2" and sorted(left_out["names"]) == ["cow", "ox", "palm tree"]
    # Of 24 photos those of the cow, the tree and the ox are out; one is held back for measuring.
    photos = 11
    assert (record["data"]["photos"], record["data"]["photos_held_back"]) == (photos, 1)
    assert (record["data"]["drawings"], record["data"]["drawings_held_back"]) == (5, 1)
    # 12 pictures are 9 photos, 2 edge maps of photos and 1 drawing.
    assert record["repeats"] == {"photos": round(3 * 9 / photos, 1), "drawings": round(3 / 5, 1)}
    assert record["select"]["classes"] == ["kite", "star"] and record["select"]["history"][-1]["step"] == 3
    assert str(out.parent) not in json.dumps(record)


def test_nothing_is_left_out_where_that_is_asked_for(tmp_path):
    record = main([*write_packed(tmp_path / "data"), *FEW, "--leave-out", "none", "--out", str(tmp_path / "out")])
    assert {"cow", "palm tree", "ox"} <= set(record["names"]) and record["data"]["left_out"] == {}


def test_a_teacher_of_transformers_is_learnt_from(tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(tmp_path / "cnn")
    data = write_packed(tmp_path / "data")
    record = main([*data, *FEW, "--teacher", str(tmp_path / "cnn"), "--out", str(tmp_path / "out")])
    assert record["teacher"] == "cnn"
    assert {"teacher", "teacher_edges"} <= set(record["losses"])


def test_a_missing_teacher_is_left_out_in_one_sentence(tmp_path, capsys):
    data = write_packed(tmp_path / "data")
    record = main([*data, *FEW, "--teacher", "nobody/no-such-cnn", "--out", str(tmp_path / "out")])
    assert record["teacher"] is None and "teacher" not in record["losses"]
    said = capsys.readouterr().out
    assert "Teacher 'nobody/no-such-cnn' is left out, since it cannot be loaded" in said


def test_best_keeps_the_weights_of_the_highest_score():
    module = nn.Linear(1, 1)
    scores = iter([0.2, 0.4, 0.3])
    best = Best(SimpleNamespace(module=module), SimpleNamespace(measure=lambda _: next(scores)))
    for step, progress in ((1, 0.1), (2, 0.5), (3, 0.65), (4, 0.66), (4, 1.0), (4, 1.0)):
        nn.init.constant_(module.weight, step)
        best.at(step, progress)
    # Not yet at a tenth; at 0.65 two moments are over at once; nothing is measured twice at the same step.
    assert best.history == [{"step": 2, "map_all": 0.2}, {"step": 3, "map_all": 0.4}, {"step": 4, "map_all": 0.3}]
    assert best.objective().weight.item() == 3


def test_without_a_held_back_folder_the_last_weights_are_kept():
    module = nn.Linear(1, 1)
    best = Best(SimpleNamespace(module=module), None)
    best.at(1, 0.6)
    nn.init.constant_(module.weight, 7)
    best.at(2, 1.0)
    assert best.history == [] and best.objective().weight.item() == 7


def test_clock_counts_minutes_from_the_start_of_the_command(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pretraining.small_clip.time.perf_counter", lambda: now[0])
    clock = Clock(started=70.0, minutes=1.0, steps=None)
    now[0] = 115.0
    assert clock.progress(10**6) == 0.5
    assert Clock(70.0, 1.0, steps=4).progress(3) == 0.75
    with pytest.raises(ValueError, match=r"took all of the 0\.5 minutes"):
        Clock(70.0, 0.5, None)


def test_defaults_leave_out_sketchy_2_and_take_nine_minutes():
    args = parse_arguments([])
    assert (args.leave_out, args.minutes, args.steps) == ("sketchy2", 9.0, None)


def no_meta(root):
    (root / "meta.json").unlink()


def meta_without_labels(root):
    (root / "meta.json").write_text('{"names": ["cat"]}')


def meta_of_other_names(root):
    meta = json.loads((root / "meta.json").read_text())
    (root / "meta.json").write_text(json.dumps(meta | {"names": ["cat"]}))


def meta_no_json(root):
    (root / "meta.json").write_text("{")


def fewer_mosaics(root):
    (root / "photos-0003.jpg").unlink()


def no_mosaics(root):
    for file in root.glob("photos-*.jpg"):
        file.unlink()


def odd_mosaic(root):
    Image.new("RGB", (100, 128)).save(root / "photos-0001.jpg")


def torn_mosaic(root):
    file = root / "photos-0001.jpg"
    file.write_bytes(file.read_bytes()[:200])


def fewer_drawings(root):
    (root / "drawings.bin.gz").write_bytes(gzip.compress(np.zeros(4096, np.uint8).tobytes()))


def torn_drawings(root):
    file = root / "drawings.bin.gz"
    file.write_bytes(file.read_bytes()[:-40])


PACKED = [
    (no_meta, OSError, "meta.json' cannot be read: No such file"),
    (meta_without_labels, ValueError, "meta.json' must be an object with the lists 'names', 'fine', 'coarse', 'draw"),
    (meta_of_other_names, ValueError, "every entry of 'fine' must be a position in its 1 names"),
    (meta_no_json, ValueError, "meta.json' is not JSON"),
    (fewer_mosaics, ValueError, "holds 20 photos, but its meta.json tells of 24"),
    (no_mosaics, OSError, "holds no photos-"),
    (odd_mosaic, ValueError, "photos-0001.jpg' is 100 x 128 pixels, which is no mosaic of 64"),
    (torn_mosaic, OSError, "photos-0001.jpg' cannot be read"),
    (fewer_drawings, ValueError, "drawings.bin.gz' holds 2 drawings, but the meta.json beside it tells of 12"),
    (torn_drawings, OSError, "drawings.bin.gz' cannot be read"),
]


@pytest.mark.parametrize(("damage", "error", "message"), PACKED, ids=[case[0].__name__ for case in PACKED])
def test_damaged_packed_data_are_named(tmp_path, damage, error, message):
    data = write_packed(tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(error, match=message):
        main([*data, *FEW, "--out", str(tmp_path / "out")])


def wordnet_ids(root):
    (root / "photos" / "cat").rename(root / "photos" / "n02123045")


def no_photo(root):
    (root / "photos" / "owl" / "0.jpg").write_text("no photo")


def no_class_folders(root):
    (root / "photos").rename(root / "elsewhere")


def no_drawing_in_line_2(root):
    with open(root / "drawings" / "cat.ndjson", "a") as lines:
        lines.write('{"word": "cat"}\n')


FOLDERS = [
    (wordnet_ids, ValueError, "no words as names \\('n02123045'\\): say them by --names"),
    (no_photo, OSError, "owl/0.jpg' cannot be read"),
    (no_class_folders, OSError, "holds no images in folders of classes: --photos wants"),
    (no_drawing_in_line_2, ValueError, "cat.ndjson', line 5, is no drawing of Quick, Draw!"),
]


@pytest.mark.parametrize(("damage", "error", "message"), FOLDERS, ids=[case[0].__name__ for case in FOLDERS])
def test_damaged_folders_are_named(tmp_path, damage, error, message):
    data = write_folders(tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(error, match=message):
        main([*data, *FEW, "--out", str(tmp_path / "out")])


def test_folders_of_wordnet_ids_take_their_names_from_a_file(tmp_path):
    data = write_folders(tmp_path / "data")
    wordnet_ids(tmp_path / "data")
    (tmp_path / "names.json").write_text('{"n02123045": "Egyptian cat"}')
    record = main([*data, *FEW, "--names", str(tmp_path / "names.json"), "--out", str(tmp_path / "out")])
    assert "egyptian cat" in record["names"]


SETTINGS = [
    ([], ValueError, "No data: give --packed DIR"),
    (["--steps", "0"], ValueError, "--steps is 0"),
    (["--batch", "2"], ValueError, "--batch 2 leaves 0 photos beside 1 edge maps"),
    (["--edge-share", "0.8"], ValueError, "lower --edge-share"),
    (["--leave-out", "nowhere"], OSError, "Split 'nowhere' is neither a file nor one of the known splits"),
    (["--names", "nowhere.json"], OSError, "'nowhere.json' cannot be read"),
    (["--select", "nowhere"], OSError, "'nowhere/sketch' holds no images in folders of classes: --select"),
]


@pytest.mark.parametrize(("extra", "error", "message"), SETTINGS, ids=[" ".join(case[0]) for case in SETTINGS])
def test_wrong_settings_are_named(tmp_path, extra, error, message):
    data = write_packed(tmp_path / "data") if extra else []
    with pytest.raises(error, match=message):
        main([*data, *FEW, *extra, "--out", str(tmp_path / "out")])


def test_too_few_pictures_are_named(tmp_path):
    data = write_folders(tmp_path / "data")
    with pytest.raises(ValueError, match="0 drawings remain to learn from, too few: add --drawings DIR"):
        main([*data[:2], *FEW, "--out", str(tmp_path / "out")])


def test_selection_wants_both_sides_of_a_class(tmp_path):
    select = write_selection(tmp_path / "held")
    (tmp_path / "held" / "photo" / "star").rename(tmp_path / "held" / "photo" / "moon")
    with pytest.raises(ValueError, match=r"has \['moon', 'star'\] as sketch or as photo only"):
        main([*write_packed(tmp_path / "data"), *FEW, *select, "--out", str(tmp_path / "out")])


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files than a backbone's"):
        main([*write_packed(tmp_path / "data"), *FEW, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "thesis.tex").is_file()


def test_a_backbone_is_replaced_and_its_card_kept(tmp_path):
    data = write_packed(tmp_path / "data")
    main([*data, *FEW, "--out", str(tmp_path / "out")])
    (tmp_path / "out" / "README.md").write_text("card")
    record = main([*data, *FEW, "--seed", "1", "--out", str(tmp_path / "out")])
    assert (
        json.loads((tmp_path / "out" / "record.json").read_text())["settings"]["seed"]
        == 1
        == record["settings"]["seed"]
    )
    assert (tmp_path / "out" / "README.md").read_text() == "card"
    assert not (tmp_path / "out.partial").exists()
