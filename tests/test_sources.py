"""What the docs say of the papers: their tables' commands are tried, and every claim leads to code that is there."""

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from benchmarks import ablation
from modeling_splip.commands import evaluate, reproduce
from modeling_splip.commands.main import main
from modeling_splip.data.protocols import PROTOCOLS
from modeling_splip.evaluation.published import _known
from modeling_splip.training.arguments import group_fields, load_recipe, plain_fields, recipe_names
from modeling_splip.training.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
TABLES = (ROOT / "docs" / "protocol.md").read_text("utf-8").split("## 12. ")[1]
SOURCES = (ROOT / "docs" / "sources.md").read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of the tables, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return [row for row in cells if row[0] not in ("claim", "table, row")]


def changes(words: list[str]) -> dict[str, str]:
    """Return what `--set` changes, without the run's folder."""
    given = words[words.index("--set") + 1 :] if "--set" in words else []
    return {name: value for name, _, value in (each.partition("=") for each in given) if name != "output"}


@pytest.mark.parametrize("row", rows(TABLES), ids=lambda row: row[0])
def test_every_row_of_the_papers_tables_has_a_command(row, tmp_path, monkeypatch, capsys):
    what, published, command = row
    words = shlex.split(command.strip("`"))[1:]
    monkeypatch.chdir(tmp_path)
    for archive in ("sketchy.zip", "tuberlin.zip", "quickdraw.zip"):
        (tmp_path / archive).touch()  # that it is there is all that --dry-run asks
    if words[0] == "reproduce":
        assert main([*words, "--dry-run"]) == 0 and words[1] in capsys.readouterr().out
        if "_fg" not in words[1]:  # the fine-grained column of the same row
            fg = [f"{words[1]}_fg" if word == words[1] else word for word in words]
            assert words[1] != "splip_sketchy2" or main([*fg, "--dry-run"]) == 0
    else:
        parser = argparse.ArgumentParser()
        evaluate.add_arguments(parser)
        args = parser.parse_args(words[1:])
        experiment = Path(args.model).parent.name
        assert args.model == f"{load_recipe(experiment)['output']}/model" and experiment in reproduce.experiments()
    part = {"5": "losses", "6": "modules"}.get(what[0])
    if part is None:
        assert float(published) in {each["percent"] for each in _known()["results"]}
    else:
        name = what.partition(", ")[2]
        assert float(published) == ablation.PAPER[part][name][0]
        wanted = {key: str(value) for key, value in ablation.PARTS[part][name].items()}
        found = changes(words)
        assert found.keys() == wanted.keys()
        for key, value in found.items():
            assert value == wanted[key].lower() or float(value) == float(wanted[key]), key


@cache
def known_settings() -> set[str]:
    """Return every setting as docs/sources.md names it."""
    found = {item.name for item in plain_fields()} | {f"recipe {name}" for name in recipe_names()}
    found |= {f"protocol {name}" for name in PROTOCOLS}
    for method in METHODS:
        for group in ("model", "loss"):
            found |= {f"{method} {group}.{name}" for name in group_fields(group, method)}
    return found


def in_backticks(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", rows(SOURCES), ids=lambda row: row[0][:60])
def test_every_claim_leads_to_code_settings_and_tests_that_are_there(row):
    claim, code, setting, test = row
    assert claim and code and setting and test, "a cell is empty"
    for place in in_backticks(code):
        file, _, name = place.partition(": ")
        assert (ROOT / file).exists(), file
        if name:
            text = (ROOT / file).read_text("utf-8")
            assert re.search(rf"\b{re.escape(name)}\b", text), f"{file} has no {name}"
    for name in in_backticks(setting):
        if name.startswith("splip ") and name.split()[1] in ("evaluate", "describe", "prepare", "reproduce", "push"):
            command, flags = name.split()[1], re.findall(r"--[\w-]+", name)
            room = "datasets_scripts" if command == "prepare" else "modeling_splip/commands"
            text = (ROOT / room / f"{command}.py").read_text("utf-8")
            assert all(f'"{flag}"' in text for flag in flags), name
        else:
            assert name in known_settings(), name
    for name in in_backticks(test):
        file, _, function = name.partition("::")
        text = (ROOT / file).read_text("utf-8")
        assert re.search(rf"def {function}\(", text), name
    marked = in_backticks(code) and in_backticks(test)
    assert marked or test.startswith(("not measured", "none")), "a claim without a test says why"


def test_every_text_has_its_table():
    heads = re.findall(r"^## (.+)$", SOURCES, re.M)
    assert len(heads) == 4 and SOURCES.count("| claim | code | setting | test |") >= 4
    assert len(rows(SOURCES)) > 80


def test_no_sentence_of_the_sources_is_repeated():
    """Wherever the texts are at hand: no eight words in a row are theirs."""
    folder = ROOT.parent / "shared" / "sources"
    if not folder.is_dir():
        pytest.skip(f"the texts are not at {folder}")

    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9]+", text.casefold())
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    theirs = set().union(*(runs(file.read_text("utf-8")) for file in folder.glob("*.txt")))
    claims = set().union(*(runs(row[0]) for row in rows(SOURCES)))
    assert claims and not {" ".join(run) for run in claims & theirs}
