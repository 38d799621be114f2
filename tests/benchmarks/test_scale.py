"""The benchmark of millions, at the size of thousands: its parts, its records, its tables."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale, scale_table, scale_updates

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(scale, "QUERIES", 20)
    monkeypatch.setattr(scale, "BLOCK", 1000)
    monkeypatch.setattr(scale_updates, "BLOCK", 1000)


def run(monkeypatch, out, work, *arguments):
    monkeypatch.chdir(ROOT)  # the processes are started from here
    monkeypatch.setattr(scale.resource, "setrlimit", lambda *limits: None)  # it would hold for the other tests, too
    monkeypatch.setattr("sys.argv", ["scale", "--out", str(out), "--work", str(work), *arguments])
    scale.main()
    return json.loads(out.read_text())


def test_an_index_is_measured_and_not_measured_twice(small, monkeypatch, tmp_path, capsys):
    out, work = tmp_path / "scale.json", tmp_path / "work"
    monkeypatch.setattr(
        scale, "child", lambda what, folder: {"build": scale.build, "search": scale.search}[what](folder)
    )
    record = run(monkeypatch, out, work, "--parts", "1m", "--count", "3000")["1m"]
    assert record["count"] == 3000 and record["recall_at_100"] >= 0.95 and record["lists"] == 54
    assert record["bytes"]["vectors.f16"] == 2 * 3000 * scale.DIM
    assert record["memory_mib"].keys() == {"anonymous", "mapped", "resident", "peak"}
    assert record["memory_mib"]["anonymous"] + record["memory_mib"]["mapped"] <= record["memory_mib"]["peak"] + 2
    assert run(monkeypatch, out, work, "--parts", "1m", "--count", "3000")["1m"] == record
    assert "measured already" in capsys.readouterr().err
    # What is in the work folder is used: here, exact answers that are none.
    np.save(work / "3000" / "exact.npy", np.zeros((20, 100), np.int64))
    out.unlink()
    assert run(monkeypatch, out, work, "--parts", "1m", "--count", "3000")["1m"]["recall_at_100"] < 0.1
    again = run(monkeypatch, out, work, "--parts", "1m", "--count", "3000", "--again")["1m"]
    assert again["recall_at_100"] >= 0.95


def test_processes_of_their_own_report(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    scale.draw_half_vectors(tmp_path, 2000)
    built = scale.child("build", tmp_path)
    assert built["index"]["kind"] == "ivf" and built["build_memory_mib"]["peak"] > 50


def test_blocks_have_seeds_of_their_own(small, tmp_path):
    vectors = scale.draw_half_vectors(tmp_path, 2500)[:]
    assert vectors.shape == (2500, scale.DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    assert (vectors[:500] @ vectors[1000:1500].T).max() < 0.99
    before = (tmp_path / "vectors.f16").stat().st_mtime_ns
    scale.draw_half_vectors(tmp_path, 2500)
    assert (tmp_path / "vectors.f16").stat().st_mtime_ns == before


def test_codes_are_compared(small, monkeypatch, tmp_path):
    monkeypatch.setattr(scale, "CODE_KINDS", ("SQ8", "PQ128x4fsr"))
    record = scale.measure_codes(3000, tmp_path)
    assert {kind: facts["bytes"] for kind, facts in record["kinds"].items()} == {"SQ8": 512, "PQ128x4fsr": 64}
    recalls = [[row["recall"] for row in facts["by_width"].values()] for facts in record["kinds"].values()]
    assert recalls[0][0] > recalls[1][0] and recalls[1][-1] > recalls[1][0]


def test_updates_are_measured_while_another_process_searches(small, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scale_updates, "BATCH", 20)
    record = scale_updates.measure_updates(2500, 60, tmp_path)
    assert [record["updates"][name] for name in ("added", "changed", "removed")] == [24, 18, 18]
    for state, photos in (("before", 2500), ("after", 2506), ("compacted", 2506)):
        assert record[state]["photos"] == photos and record[state]["recall_at_100"] > 0.98
    assert record["other_process"]["searches"] > 0 and record["other_process"]["states"] >= 1


def test_a_power_law_is_found():
    counts = [1_000_000, 3_000_000, 10_000_000]
    a, b, deviation = scale_table.fit(counts, [2 * (count / 1e6) ** 0.5 for count in counts])
    assert (a, b, deviation) == pytest.approx((2, 0.5, 0))
    assert scale_table.fit(counts, [1.0, 3.0, 20.0])[2] > 0.1


def made_up() -> dict:
    report = {}
    for name, count in scale.SIZES.items():
        millions = count / 1e6
        report[name] = {
            "count": count,
            "dim": 512,
            "lists": 1000,
            "index": {"depth": 8, "rescored": 4},
            "recall_at_100": 0.97,
            "one_query": {"p50_ms": millions**0.5, "p99_ms": 9.0},
            "first_query_ms": 3,
            "build_s": 36 * millions,
            "build_memory_mib": {"anonymous": 2000},
            "memory_mib": {"anonymous": 2000, "mapped": 2500, "peak": 4600},
            "libraries_mib": 400,
            "bytes": {"codes.faiss": 128 * count, "vectors.f16": 1024 * count},
            "machine": {"threads": 2, "cores": 2},
        }
    report["10m"]["bars"] = {**scale.BARS, "missed": []}
    return report


def test_the_tables_say_what_was_measured_and_what_follows():
    text = scale_table.scale(made_up())
    assert "| 10,000,000 | 8 of 1,000 | x 4 | 0.970 | 3.16 (9.00) | 3 | 2,000 + 2,500 | 4,600 | 6.0 | 2,000 |" in text
    assert "All are met." in text
    assert "| one query, median, ms | 1 | 1.7 | 3.2 | 1 · n^0.50 | 0 % | 10 |" in text
    assert "| building, hours | 0.01 | 0.03 | 0.1 | 0.01 · n^1.00 | 0 % | 1 |" in text
    assert "13 GB of codes, 102 GB of 16-bit floats" in text
    # 8 machines x 8 cores x 60 photos a second: 7.2 hours, 75 euros.
    assert "| encode | 8 machines with an NVIDIA L4 and 8 cores | 7 | 75 |" in text


def test_bars_that_are_missed_are_named():
    record = {"one_query": {"p50_ms": 5.0}, "recall_at_100": 0.94, "memory_mib": {"peak": 8192}}
    assert scale.missed(record) == ["p50_ms", "recall", "memory_mib"]
    report = made_up()
    report["10m"]["bars"]["missed"] = ["recall"]
    assert "**Missed: recall.**" in scale_table.scale(report)


def test_parts_that_were_not_measured_are_left_out():
    assert scale_table.scale({}) == ""
    report = made_up()
    del report["10m"]
    assert "3,000,000" in scale_table.scale(report) and "law" not in scale_table.scale(report)


def test_encoding_without_ray_says_so():
    part = {
        "model": "m",
        "images": [1, 3],
        "ways": {"plain_1": {"images_per_second": 20.0, "start_s": 9.0}},
        "note": "No.",
    }
    assert "| plain | 1 | 20 | 9 |" in scale_table.scale({"encode": part}) and "No." in scale_table.scale(
        {"encode": part}
    )
    part |= {"ray_overhead": 0.12, "bar": 0.1, "met": False}
    assert "Ray's share with one process: 12.0 % (bar: 10 %, **missed**)." in scale_table.scale({"encode": part})
