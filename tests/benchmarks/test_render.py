"""README and docs say what the committed results say."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import render  # noqa: E402


@pytest.mark.parametrize("document", render.documents(), ids=lambda path: path.name)
def test_tables_are_rendered_from_the_results(document):
    text = document.read_text("utf-8")
    assert render.rendered(text) == text, f"{document.name} is out of date: run python benchmarks/render.py"


def test_every_link_to_a_file_leads_somewhere():
    import re

    for document in render.documents():
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
