"""Names come from anybody's files: no command prints the control characters in them, which steer a terminal."""

import json
import shutil

import pytest
from PIL import Image

from modeling_splip.commands.main import main

STEER = "c\x1b]0;owned\x07\x9bup"


@pytest.fixture(scope="module")
def steering(tmp_path_factory):
    """A folder whose class, files and archive carry escape sequences, prepared, and its output."""
    root = tmp_path_factory.mktemp("steering")
    for modality in ("photo", "sketch"):
        for name in ("cat", STEER):
            (root / "own" / modality / name).mkdir(parents=True)
            for number in range(3):
                Image.effect_noise((20, 20), 50 + number).save(root / "own" / modality / name / f"{number}.png")
    (root / "own" / "photo" / "cat" / f"{STEER}.png").write_text("no picture")
    (root / "own" / "photo" / "cat" / f"x.{STEER}").write_text("no picture")
    shutil.make_archive(str(root / "own" / f"{STEER}"), "gztar", root, "own/sketch/cat")
    return root


def said(capsys, *arguments: object) -> str:
    capsys.readouterr()
    main([str(argument) for argument in arguments])
    text = "".join(capsys.readouterr())
    assert not [char for char in text if not char.isprintable() and char not in "\n\r"], arguments
    return text


def test_no_command_prints_them(steering, tiny_clip, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(steering / "cache"))
    clip, out = f"clip:{tiny_clip}", steering / "data"
    own = ["prepare", "folder", "--data-dir", steering / "own", "--title", STEER.replace("]", "-")]
    said(capsys, *own, "--unseen", "dog", "--out", out)
    assert "--strict found" in said(capsys, *own, "--unseen", STEER, "--out", out, "--strict")
    assert "unreadable: 1" in said(capsys, *own, "--unseen", STEER, "--out", out)
    for options in ([], ["--remove-classes", "nothing"]):
        said(capsys, "evaluate", "--model", clip, "--dataset", out, "--protocol", "zs", *options)
    assert "?" in said(capsys, "evaluate", "--model", clip, "--dataset", out, "--protocol", "zs")
    gallery = steering / "G"
    indexed = said(capsys, "index", steering / "own" / "photo", "--model", clip, "--out", gallery, "--quiet")
    assert "c?]0;owned??up" in indexed
    found = ["search", steering / "own" / "sketch" / STEER / "0.png", "--gallery", gallery]
    assert "c?]0;owned??up" in said(capsys, *found)
    assert json.loads(said(capsys, *found, "--json"))["queries"][0]["results"]
    said(capsys, *found, "--where", f"label={STEER}x")
