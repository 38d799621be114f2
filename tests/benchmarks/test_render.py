"""README and docs say what the committed results say."""

import re

import pytest

from benchmarks import render


@pytest.mark.parametrize("document", render.documents(), ids=lambda path: path.name)
def test_tables_are_rendered_from_the_results(document):
    text = document.read_text("utf-8")
    assert render.rendered(text) == text, f"{document.name} is out of date: run python -m benchmarks.render"


def test_every_table_has_a_place_and_its_result_or_says_that_there_is_none():
    texts = "".join(document.read_text("utf-8") for document in render.documents())
    assert [name for name in render.TABLES if f"<!-- {name} -->" not in texts] == []
    for name, (file, _) in render.TABLES.items():
        if not (render.RESULTS / file).is_file():
            block = re.search(f"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", texts, re.DOTALL)
            assert block and block[1].startswith("Not measured yet: `"), name


def test_every_link_to_a_file_leads_somewhere():
    links = [
        (document, target)
        for document in render.documents()
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8"))
        if not target.startswith("http")
    ]
    assert len(links) > 20
    assert [(doc.name, target) for doc, target in links if not (doc.parent / target).exists()] == []
