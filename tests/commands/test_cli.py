"""The `splip` command: its commands by name, and every error as one sentence."""

import sys
from importlib.metadata import entry_points

import pytest

from modeling_splip.commands import main as cli

COMMANDS = ["describe", "evaluate", "index", "prepare", "push", "reproduce", "search", "space"]


def test_all_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    for name in COMMANDS:
        # Its name, and the first words of what it is for.
        assert [line.split()[0] for line in printed.splitlines() if f"{line} ".startswith(f"    {name} ")] == [name]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    if name == "space":
        pytest.importorskip("gradio")
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and printed.startswith(f"usage: splip {name} ")


def test_an_unknown_command_names_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["evalute"])
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and "evalute" in printed and all(name in printed for name in COMMANDS)


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
    sentence = "needs library_that_nobody_installed, which is not installed: pip install 'splip[try]'"
    assert capsys.readouterr().err.strip() == f"splip: try {sentence}."
    with pytest.raises(SystemExit):  # the others are still listed
        cli.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert sentence in printed and "Measure a model on a prepared dataset" in printed


def test_the_installed_command():
    found = entry_points(group="console_scripts", name="splip")
    if not found:
        pytest.skip("the package is not installed")
    assert found["splip"].load() is cli.main
