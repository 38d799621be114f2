"""The pretraining of `mini_clip`, and what its record says of the packaged weights."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from datasets_scripts.world.instances import vocabulary
from modeling_splip.clip_base import MINI_CLIP, resolve_base
from pretraining.mini_clip import main, zero_shot_accuracy

BACKBONE = Path(resolve_base(MINI_CLIP))


def test_backbone_repeats_its_recorded_zero_shot_accuracy():
    record = json.loads((BACKBONE / "record.json").read_text("utf-8"))
    model, tokenizer = CLIPModel.from_pretrained(BACKBONE), AutoTokenizer.from_pretrained(BACKBONE)
    # 5 of the 25 photos a category: within three standard errors of a share over 200 photos.
    assert zero_shot_accuracy(model, tokenizer, 5) == pytest.approx(record["zero_shot_accuracy"], abs=0.11)


def test_two_steps_save_a_backbone_that_loads(tmp_path):
    few = ["--steps", "2", "--batch", "16", "--pool", "80", "--threads", "1", "--workers", "1"]
    record = main(["--out", str(tmp_path / "mini"), *few])
    assert json.loads((tmp_path / "mini" / "record.json").read_text("utf-8")) == record
    assert record["images"] == 32
    model, tokenizer = CLIPModel.from_pretrained(tmp_path / "mini"), AutoTokenizer.from_pretrained(tmp_path / "mini")
    # Which of two equally frequent pieces comes first is the tokenizers library's free choice.
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(BACKBONE))
    assert [word for word in vocabulary() if len(tokenizer.tokenize(word)) != 1] == []
    assert model.config.to_diff_dict() == CLIPModel.from_pretrained(BACKBONE).config.to_diff_dict()
    own, theirs = (CLIPImageProcessorPil.from_pretrained(folder) for folder in (tmp_path / "mini", BACKBONE))
    assert own.to_dict() == theirs.to_dict()


def test_a_folder_of_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files than a backbone's"):
        main(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
