"""The `splip` command: its commands by name, and every error as one sentence."""

import sys
from importlib.metadata import entry_points, version

import pytest
from galleries import draw, make_photos
from launch import run

from modeling_splip.commands import main as cli

COMMANDS = ["demo", "describe", "evaluate", "export", "index", "prepare", "push", "reproduce", "search"]
COMMANDS += ["space", "train"]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_help_lists_all_commands_by_group_with_an_example_each(words, capsys):
    assert cli.main(words) == 0
    blocks = [block.splitlines() for block in capsys.readouterr().out.split("\n\n")[2:-1]]
    listed = {
        title.rstrip(":"): dict(zip((line.split()[0] for line in lines[::2]), lines[1::2], strict=True))
        for title, *lines in blocks
    }
    examples = {
        title: {name: f"{'':<13}$ {text}" for name, text in group.items()} for title, group in cli.GROUPS.items()
    }
    assert listed == examples
    assert sorted(name for names in listed.values() for name in names) == COMMANDS
    for line in (line for _, *lines in blocks for line in lines[::2]):  # what it is for, in one sentence
        assert len(line) <= 120 and len(line.split()) > 4 and (line.endswith(".") or "not installed" in line)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["evalute"]])
def test_what_needs_no_model_imports_no_large_library(words):
    done = run([sys.executable, "-X", "importtime", "-m", "modeling_splip", *words])
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "modeling_splip.commands.main" in imported and done.returncode == (2 if words == ["evalute"] else 0)
    assert not imported & {"torch", "transformers", "numpy", "datasets", "accelerate", "PIL", "gradio"}


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"splip {version('splip')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    if name in ("space", "export"):
        pytest.importorskip({"space": "gradio", "export": "onnx"}[name])
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and printed.startswith(f"usage: splip {name} ")


def test_a_command_that_loads_a_model_shows_no_bar_of_its_weights(tmp_path):
    draw(100).save(tmp_path / "a.png")
    make_photos(tmp_path / "photos", 2)
    words = [sys.executable, "-m", "modeling_splip"]
    done = run([*words, "index", str(tmp_path / "photos"), "--model", "clip:mini_clip", "--out", str(tmp_path / "G")])
    assert done.returncode == 0 and "Loading weights" not in done.stderr
    assert "Encoding" in done.stderr  # work that takes long is shown


def test_an_unknown_command_names_the_nearest_or_all(capsys):
    assert cli.main(["evalute"]) == 2
    assert capsys.readouterr().err == "splip: There is no command 'evalute'; did you mean 'evaluate'?\n"
    assert cli.main(["x\x1b"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("splip: There is no command 'x?'; known are ")
    assert all(name in printed for name in COMMANDS)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Install a command `try` that runs the code it is given."""

    def install(body: str) -> None:
        (tmp_path / "try_command.py").write_text(
            f'"""Try something."""\n\ndef add_arguments(parser):\n    pass\n\ndef run(args):\n    {body}\n'
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "try_command", raising=False)
        monkeypatch.setitem(cli.COMMANDS, "try", "try_command")

    return install


@pytest.mark.parametrize(
    ("body", "status", "printed"),
    [
        ("return 0", 0, ""),
        ("raise ValueError('The first line\\n  and the second.')", 2, "splip: The first line and the second."),
        ("raise FileNotFoundError('There is no x.')", 2, "splip: There is no x."),
        ("raise KeyboardInterrupt", 130, "splip: interrupted."),
    ],
)
def test_errors_are_one_sentence(command, capsys, body, status, printed):
    command(body)
    assert cli.main(["try"]) == status
    assert capsys.readouterr().err.strip() == printed


def test_a_bug_is_not_hidden(command):
    command("raise TypeError('a bug')")
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["try"])


def test_a_command_whose_library_is_missing(command, capsys):
    command("return 0")
    cli.COMMANDS["try"] = "library_that_nobody_installed"
    assert cli.main(["try"]) == 2
    sentence = "needs library_that_nobody_installed, which is not installed: pip install library_that_nobody_installed"
    assert capsys.readouterr().err.strip() == f"splip: try {sentence}."
    assert cli.main(["--help"]) == 0  # the others are still listed
    printed = capsys.readouterr().out
    assert f"Other:\n  try        {sentence}\n" in printed and "Measure a model on a prepared dataset" in printed


def test_the_help_names_a_missing_library_without_importing_the_command(command, tmp_path, capsys):
    command("return 0")
    module = tmp_path / "try_command.py"
    module.write_text(module.read_text() + "\nimport library_that_nobody_installed.part\nraise SystemExit(1)\n")
    assert cli.main([]) == 0
    assert "  try        needs library_that_nobody_installed, which is not" in capsys.readouterr().out


def test_the_installed_command():
    found = entry_points(group="console_scripts", name="splip")
    if not found:
        pytest.skip("the package is not installed")
    assert found["splip"].load() is cli.main
