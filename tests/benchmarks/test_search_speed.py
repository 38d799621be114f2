"""The benchmark of search measures what it says, and the documents quote its result."""

import json
import time
from pathlib import Path

import numpy as np

from benchmarks import search_speed as benchmark

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_on_few_vectors(tmp_path, monkeypatch):
    out = tmp_path / "speed.json"
    arguments = f"search_speed --count 3000 --dim 32 --kind hnsw --plain-queries 3 --out {out}"
    monkeypatch.setattr("sys.argv", arguments.split())
    monkeypatch.chdir(ROOT)  # the searching process is started from here
    code = benchmark.main()
    record = json.loads(out.read_text())
    assert record["index"]["kind"] == "hnsw" and record["recall_at_100"] > 0.9
    assert code == bool(record["bars"]["missed"])
    for part in ("decode", "encode", "decode_encode_search"):
        assert record["one_sketch"][part].keys() == {"p50_ms", "p99_ms"}
    assert record["memory_mib"] > 50 and record["build_peak_mib"] > 50


def test_median_and_tail_are_measured():
    times = benchmark.measure(time.sleep, [0.01] * 9 + [0.1])  # a sleep may last longer, never shorter
    assert 10 <= times["p50_ms"] < 80 < times["p99_ms"]


def test_queries_lie_further_from_the_same_centres():
    near, far = (benchmark.draw_vectors(2000, 64, 4, spread, seed) for spread, seed in ((1.0, 1), (1.2, 2)))
    np.testing.assert_allclose(np.linalg.norm(near, axis=1), 1, atol=1e-5)
    cosines = np.sort(near @ near.T)[:, -400:-1].mean(), np.sort(far @ near.T)[:, -400:].mean()
    assert 0.4 < cosines[1] < cosines[0] - 0.02


def test_bars_that_are_missed_are_named():
    record = {"one_query": {"p50_ms": 1.0}, "recall_at_100": 0.98, "open_s": 2.5, "memory_mib": 3000}
    assert benchmark.missed(record) == ["p50_ms", "open_s"]


def test_the_documents_quote_the_result():
    record = json.loads((ROOT / "benchmarks" / "results" / "search_speed.json").read_text())
    text = (ROOT / "docs" / "search.md").read_text()
    one, plain, sketch = record["one_query"], record["plain_product"], record["one_sketch"]["decode_encode_search"]
    for quoted in (
        *(f"| {times['p50_ms']} ms ({times['p99_ms']} ms) |" for times in (one, plain, sketch)),
        f"| {record['batch_queries_per_s']} a second |",
        f"| {record['recall_at_100']} |",
        f"| {record['open_s']} s; {record['first_query_ms']} ms |",
        f"| {record['memory_mib']} MiB |",
        f"| {record['build_s']} s; {record['build_peak_mib']} MiB |",
    ):
        assert quoted in text, quoted
    assert record["count"] == 1_000_000 and record["bars"]["missed"] == []
