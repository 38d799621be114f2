"""The parts of `splip demo`; the demo itself takes minutes, and `make demo` runs it."""

import json

import pytest

from modeling_splip.commands import demo
from modeling_splip.data.dataset import open_dataset

RECORD = {"metrics": {"map_all": 0.25, "acc_1": 0.5, "acc_10": 0.75, "acc_5": 1.0}}
METRICS = {name: dict.fromkeys(("zs", "gzs", "fg"), RECORD) for name in ("clip", "splip")}


def test_tables_hold_every_method_and_number():
    text = demo.tables(METRICS)
    rows = [line for line in text.splitlines() if line.startswith(("| clip", "| splip"))]
    assert len(rows) == 2 * len(demo.TABLES)
    assert rows[0].split("|")[2].strip() == "25.0" and rows[-1].split("|")[2].strip() == "50.0"
    assert all(title in text for title in demo.TABLES)


def test_an_earlier_demo_is_replaced_and_nothing_else(tmp_path):
    demo.prepare_output(tmp_path / "demo")
    (tmp_path / "demo" / "data").mkdir()
    demo.prepare_output(tmp_path / "demo")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == [demo.MARK]
    # A project that has a folder `data`, as a demo has.
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for other in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(ValueError, match="is no folder of an earlier demo: pass another --out"):
            demo.prepare_output(other)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_drawing_of_every_unseen_category(prepared, tmp_path):
    files = demo.save_sketches(prepared, tmp_path)
    unseen = open_dataset(prepared).unseen
    assert [file.parent.name for file in files] == list(unseen[: demo.SKETCHES])
    assert all(file.stat().st_size > 100 for file in files)


def test_a_step_that_fails_ends_the_demo(tmp_path, capsys):
    with pytest.raises(OSError, match="ended with status 2"):
        demo.splip("index", tmp_path / "nothing", "--out", tmp_path / "G")
    assert "index" in capsys.readouterr().out


def test_records_by_their_short_names(monkeypatch, tmp_path):
    def measured(*words):
        assert words[words.index("--protocol") + 1 :][:2] == ("zs", "gzs-distractors")
        file = words[words.index("--out") + 1]
        file.write_text(json.dumps([{"protocol": "zs"}, {"protocol": "gzs-distractors"}]))

    monkeypatch.setattr(demo, "splip", measured)
    found = demo.evaluate(tmp_path, tmp_path / "data", "clip:small_clip", "zs", "gzs")
    assert found == {"zs": {"protocol": "zs"}, "gzs": {"protocol": "gzs-distractors"}}
