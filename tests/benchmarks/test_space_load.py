"""The Space's load benchmark notices what it looks for, and the documents quote its result."""

import json
from pathlib import Path

import pytest

benchmark = pytest.importorskip(
    "benchmarks.space_load", reason="the Space's tests need splip[dev]", exc_type=ImportError
)

ROOT = Path(__file__).resolve().parents[2]


def test_an_answer_to_another_question_is_noticed():
    names = [f"{number}.png" for number in range(benchmark.K + 3)]
    scores = {name: 0.9 - 0.01 * number for number, name in enumerate(names)}
    question = benchmark.Question("/search", "world", {}, scores)
    photos = [{"name": name, "score": scores[name]} for name in names[: benchmark.K]]
    assert question.is_answered_by(photos)
    assert question.is_answered_by([{**photos[0], "score": 0.9004}, *photos[1:]])  # rounding in another batch
    assert not question.is_answered_by([{**photos[0], "score": 0.89}, *photos[1:]])
    assert not question.is_answered_by([{**photos[0], "name": "foreign.png"}, *photos[1:]])
    assert not question.is_answered_by(photos[:-1])


def test_the_documents_quote_the_result():
    record = json.loads((ROOT / "benchmarks" / "results" / "space_load.json").read_text())
    text = " ".join((ROOT / "docs" / "search.md").read_text().split())
    assert record["mixed"] == 0 and record["errors"] == [] and record["clients"] == 16 and record["seconds"] >= 60
    assert f"{record['answers']} answers, no error" in text
    assert f"within {record['p50_ms']} ms, 95 % within {record['p95_ms']} ms" in text
