"""The benchmark of `splip prepare` draws files of the size it says, and measures the command's own output."""

import time

import pytest
from PIL import Image

from benchmarks import prepare_speed as benchmark


def test_what_is_timed_is_the_command_on_drawn_files(tmp_path):
    benchmark.draw_files(tmp_path / "files", 80)
    drawn = sorted((tmp_path / "files").rglob("*.*"))
    assert len(drawn) == 80 and {Image.open(path).size for path in drawn} == {(256, 256)}
    started = time.perf_counter()
    seconds, peak = benchmark.prepare(tmp_path / "files", tmp_path / "out", 2)
    assert seconds == pytest.approx(time.perf_counter() - started, abs=0.5)
    assert peak > 50  # an interpreter with `datasets` is larger than this
    assert len(list((tmp_path / "out" / "data").glob("*.parquet"))) == 3


def test_the_rate_beyond_the_start():
    sizes = [
        {"images": n, "num_proc_1": {"seconds": s}, "num_proc_2": {"seconds": t}}
        for n, s, t in ((100, 9, 8), (500, 13, 10))
    ]
    assert benchmark.rates_beyond_start(*sizes) == {"num_proc_1": 100, "num_proc_2": 200}
