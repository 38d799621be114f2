"""Names and messages."""

import io
import sys

import pytest

from modeling_splip.common.text import (
    hint,
    markdown_table,
    nearest,
    one_line,
    printable,
    quoted,
    readable,
    spelling_key,
)

ACCENT, LETTER_AND_ACCENT = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    "names",
    [
        ("hot-air balloon", "Hot_air_balloon", "hotair balloon"),
        (ACCENT, LETTER_AND_ACCENT, ACCENT.upper()),
        ("t-shirt", "T shirt", "tshirt"),
    ],
    ids=lambda names: names[0],
)
def test_spellings_of_one_class(names):
    assert len({spelling_key(name) for name in names}) == 1


def test_other_words_stay_apart():
    assert len({spelling_key(name) for name in ("cup", "cups", "c.u.p", "cup(b)")}) == 4


@pytest.mark.parametrize(
    ("folder", "name"),
    [("stop_sign", "stop sign"), ("t-shirt", "t-shirt"), (" hot__air ", "hot air"), (LETTER_AND_ACCENT, ACCENT)],
)
def test_a_folder_as_a_prompt_says_it(folder, name):
    assert readable(folder) == name


def test_the_nearest_name():
    known = ["splip_mini", "clip_at_mini", "Stop_sign"]
    assert nearest("slip_mini", known) == "splip_mini"
    assert nearest("stop sign", known) == "Stop_sign"
    assert nearest("xyz", known) is None and nearest("cup", []) is None


def test_of_equal_spellings_the_first_is_nearest():
    assert nearest("stop sign", ["stop_sign", "Stop Sign"]) == "stop_sign"


def test_the_end_of_a_sentence_about_an_unknown_name():
    assert hint("slip", ["splip", "clip_at"]) == "; did you mean 'splip'?"
    assert hint("xyz", ["splip", "clip_at"]) == "; known are 'splip', 'clip_at'."
    assert hint("xyz", []) == "; there are none."


def test_only_the_first_names_are_quoted():
    assert quoted("abc") == "'a', 'b', 'c'"
    assert quoted("abcd", 2) == "'a', 'b' and 2 more"


def test_a_terminal_gets_no_control_characters(monkeypatch):
    assert printable("a\x1b[31mb\n") == "a?[31mb?"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert printable(ACCENT) == "caf?"


def test_an_error_stands_on_one_line():
    assert one_line(ValueError("first\n   second\tthird")) == "first second third"


def test_markdown_tables():
    rows = [["a|b", "1"], ["c", "234"]]
    plain = "| name | n |\n| --- | --- |\n| a\\|b | 1 |\n| c | 234 |"
    assert markdown_table(["name", "n"], rows) == plain
    aligned = "| name | n   |\n| ---- | --- |\n| a\\|b | 1   |\n| c    | 234 |"
    assert markdown_table(["name", "n"], rows, aligned=True) == aligned
    assert markdown_table(["name"], []) == "| name |\n| --- |"
