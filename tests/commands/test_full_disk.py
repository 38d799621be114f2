"""A full disk: every command says in one sentence where, loses nothing, and goes on when it is run again."""

import os
import subprocess
from pathlib import Path

import pytest
from galleries import make_photos

from modeling_splip.commands.main import main
from modeling_splip.search.gallery import Gallery


@pytest.fixture
def disk(tmp_path):
    """A disk of 300 KB, and a function that makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if os.name != "posix" or subprocess.run([*mount, "size=300k", "splip", folder], capture_output=True).returncode:
        pytest.skip("a disk of its own can be mounted by the superuser of a Linux system only")
    yield folder, lambda: subprocess.run([*mount, "remount,size=60m", "splip", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


def refused(capsys, place: Path, *arguments: str | Path) -> None:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"splip: The disk with '{place}' is full: make room there, or choose another place, and run the command "
        "again: it goes on with what is finished."
    )


def test_index_keeps_the_former_gallery_and_goes_on(disk, tmp_path, tiny_clip, monkeypatch, capsys):
    folder, grow = disk
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos, out = make_photos(tmp_path / "photos", 6), folder / "G"
    arguments = ["index", photos, "--model", f"clip:{tiny_clip}", "--out", out, "--quiet"]
    assert main(list(map(str, arguments))) == 0
    make_photos(tmp_path / "photos", 400)
    refused(capsys, out, *arguments)
    assert len(Gallery.open(out)) == 6
    finished = len(list((folder / "G.partial").rglob("*.parquet")))
    assert finished
    grow()
    assert main(list(map(str, arguments))) == 0
    assert len(Gallery.open(out)) == 400 and "400 photos" in capsys.readouterr().out


def test_prepare_leaves_no_half_dataset_and_goes_on(disk, tmp_path, capsys):
    folder, grow = disk
    for modality in ("photo", "sketch"):
        for number in range(8):
            file = tmp_path / "own" / modality / ("cat" if number % 2 else "dog") / f"{number}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            from PIL import Image

            Image.effect_noise((200, 200), 100 + number).save(file)
    out = folder / "data"
    arguments = ["prepare", "folder", "--data-dir", tmp_path / "own", "--unseen", "cat", "--out", out]
    refused(capsys, out, *arguments)
    assert not out.exists()
    grow()
    assert main(list(map(str, arguments))) == 0
    assert (out / "splip_dataset.json").is_file() and [path.name for path in folder.iterdir()] == ["data"]


def test_every_command_that_writes_says_so(disk, tmp_path, tiny_clip, polygons, prepared, monkeypatch, capsys):
    folder, _ = disk
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clip, photos = f"clip:{tiny_clip}", make_photos(tmp_path / "photos", 6)
    assert main(["index", str(photos), "--model", clip, "--out", str(tmp_path / "G"), "--quiet"]) == 0
    (folder / "filled").write_bytes(bytes(300 * 1024 - 4096))
    sketch = next(photos.rglob("*.png"))
    searched = ["search", sketch, "--gallery", tmp_path / "G"]
    evaluated = ["evaluate", "--model", clip, "--dataset", prepared, "--protocol", "zs"]
    for option, file in (("--html", "x.html"), ("--picture", "x.png")):
        refused(capsys, folder / file, *searched, option, folder / file)
    for option, file in (("--picture", "x.png"),):
        refused(capsys, folder / file, *evaluated, option, folder / file)
    assert [path.name for path in folder.iterdir()] == ["filled"]
