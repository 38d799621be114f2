"""The benchmark of `splip prepare` draws files of the size it says, and measures the command's own output."""

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import prepare_speed as benchmark


def test_what_is_timed_is_the_command_on_drawn_files(tmp_path):
    benchmark.draw_files(tmp_path / "files", 80)
    drawn = sorted((tmp_path / "files").rglob("*.*"))
    assert len(drawn) == 80 and {Image.open(path).size for path in drawn} == {(256, 256)}
    seconds, peak = benchmark.prepare(tmp_path / "files", tmp_path / "out", 2)
    assert seconds > 0 and peak > 50  # an interpreter with `datasets` is larger than this
    assert len(list((tmp_path / "out" / "data").glob("*.parquet"))) == 3


def test_the_rate_beyond_the_start():
    sizes = [
        {"images": n, "num_proc_1": {"seconds": s}, "num_proc_2": {"seconds": t}}
        for n, s, t in ((100, 9, 8), (500, 13, 10))
    ]
    assert benchmark.rates_beyond_start(*sizes) == {"num_proc_1": 100, "num_proc_2": 200}
