"""README and docs say what the committed results say."""

import re

import pytest

from benchmarks import render


@pytest.mark.parametrize("document", render.documents(), ids=lambda path: path.name)
def test_tables_are_rendered_from_the_results(document):
    text = document.read_text("utf-8")
    assert render.rendered(text) == text, f"{document.name} is out of date: run python -m benchmarks.render"


def test_every_table_has_its_result_and_a_place():
    texts = "".join(document.read_text("utf-8") for document in render.documents())
    assert [file for file, _ in render.TABLES.values() if not (render.RESULTS / file).is_file()] == []
    assert [name for name in render.TABLES if f"<!-- {name} -->" not in texts] == []


def test_every_link_to_a_file_leads_somewhere():
    links = [
        (document, target)
        for document in render.documents()
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8"))
        if not target.startswith("http")
    ]
    assert len(links) > 20
    assert [(doc.name, target) for doc, target in links if not (doc.parent / target).exists()] == []
