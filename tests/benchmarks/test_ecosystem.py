"""The table of tools: every row has run and agrees, and one that fails is recorded as that."""

import json

import pytest

from benchmarks import ecosystem, tables


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return ecosystem.Case(tmp_path_factory.mktemp("ecosystem"))


def test_the_result_has_every_row_and_all_agree():
    result = json.loads(ecosystem.RESULT.read_text("utf-8"))
    assert [(row["tool"], row["what"]) for row in result["rows"]] == [(row.tool, row.what) for row in ecosystem.ROWS]
    assert [row for row in result["rows"] if ecosystem.failed(row) or row["version"] is None] == []


@pytest.mark.parametrize("function", [ecosystem.auto_classes, ecosystem.safetensors, ecosystem.scikit_learn])
def test_rows_run(function, case):
    row = next(row for row in ecosystem.ROWS if row.run is function)
    record = ecosystem.run_row(row, case)
    assert not ecosystem.failed(record) and record["version"]


def test_what_fails_or_is_missing_is_recorded_as_that(case):
    def broken(_):
        raise RuntimeError("it\ndoes not work")

    rows = [
        ecosystem.Row("torch", "raises", 0.0, broken),
        ecosystem.Row("torch", "differs", 1e-5, lambda case: case.difference(lambda pixels, m: pixels[:, 0, 0, :1])),
        ecosystem.Row("torch", "is no number", 1e-5, lambda _: float("nan")),
        ecosystem.Row("no-such-library", "is missing", 0.0, broken),
    ]
    records = [ecosystem.run_row(row, case) for row in rows]
    assert [ecosystem.failed(record) for record in records] == [True, True, True, False]
    assert records[0]["error"] == "RuntimeError: it does not work"
    text = tables.ecosystem({"model": "m", "python": "3", "rows": records})
    assert "| raises | **fails** |" in text and "| is missing | not installed |" in text


def test_the_speed_of_the_file_beside_pytorch(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from benchmarks import speed_cases

    monkeypatch.setitem(speed_cases.SHAPES, "tiny", (32, 3, 4, 56, 24, 2, 16))
    monkeypatch.setattr(speed_cases, "CLASSES", 9)
    result = {"model": "m", "python": "3", "rows": [], "speed": ecosystem.speed(tmp_path, "tiny", repeats=2)}
    text = tables.ecosystem(result)
    assert "| PyTorch |" in text and "| ONNX Runtime |" in text and "ms an image, batch 16" in text
