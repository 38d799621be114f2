"""Fixtures: the tiny CLIP, a prepared dataset of polygons, and the shared real data where present."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from tiny import CLASSES, ROOT, SEEN, SHARED, UNSEEN, byte_tokenizer, draw_pair, save_clip, tiny_config

# What tests in the rooms' folders still take from here.
__all__ = ["CLASSES", "ROOT", "SEEN", "SHARED", "UNSEEN", "byte_tokenizer", "draw_pair", "save_clip", "tiny_config"]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> str:
    """Folder of a random CLIP: 32 px, patch 8, vision 32 x 4 layers, text 24 x 3 layers, D = 16."""
    return save_clip(tiny_config(), tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def real_mini() -> Path:
    folder = SHARED / "data" / "real_mini"
    if not folder.is_dir():
        pytest.skip(f"the real drawings and photos are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of several sets of real drawings and photos, each in a folder of its own."""
    folder = SHARED / "data"
    if not (folder / "sketchy21").is_dir():
        pytest.skip(f"the real drawings and photos are not at {folder}")
    return folder


@pytest.fixture
def said(caplog) -> Callable[[], list[str]]:
    """What the package has logged in this test; what it says once in a process it says again."""
    logging.Logger.warning_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("modeling_splip")]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """Folder that `splip prepare folder` wrote: SEEN and UNSEEN classes with 6 photos each, 2 drawings of every photo.

    Besides, every unseen class has photo 6 that nothing was drawn of, and every class but "bell" a drawing of no photo.
    """
    from modeling_splip.commands.main import main

    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared") / "polygons"
    for corners, name in enumerate(SEEN + UNSEEN, 3):
        for modality in ("photo", "sketch"):
            (raw / modality / name).mkdir(parents=True)
        for number in range(6):
            draw_pair(raw, name, corners, number, 2)
        if name in UNSEEN:
            draw_pair(raw, name, corners, 6, 0)
        if name != "bell":
            draw_pair(raw, name, corners, 9, 1)
            (raw / "photo" / name / f"{name}9.png").unlink()
    arguments = ["--data-dir", str(raw), "--out", str(out), "--unseen", ",".join(UNSEEN), "--title", "polygons"]
    assert main(["prepare", "folder", *arguments]) == 0
    return out


@pytest.fixture(scope="session")
def swapped(tmp_path_factory) -> Path:
    """Folder that `splip prepare folder` wrote of polygons whose photos lay in `sketch/` and drawings in `photo/`."""
    from modeling_splip.commands.main import main

    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared") / "swapped"
    for corners, name in enumerate([*SEEN[:4], UNSEEN[0]], 3):
        for modality in ("photo", "sketch"):
            (raw / modality / name).mkdir(parents=True)
        for number in range(4):
            draw_pair(raw, name, corners, number, 1)
    (raw / "photo").rename(raw / "aside")
    (raw / "sketch").rename(raw / "photo")
    (raw / "aside").rename(raw / "sketch")
    arguments = ["--data-dir", str(raw), "--out", str(out), "--unseen", UNSEEN[0], "--no-pairs"]
    assert main(["prepare", "folder", *arguments]) == 0
    return out


@pytest.fixture(scope="session")
def polygons(prepared):
    """The dataset in `prepared`, opened."""
    from modeling_splip.data.dataset import open_dataset

    return open_dataset(prepared)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order, so that equal runs are equal to the bit; tiny models are faster so, too."""
    torch.set_num_threads(1)
