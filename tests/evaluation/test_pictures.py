"""The pictures are read back: frames, marks and text stand where they should, files are whole and repeatable."""

import sys

import numpy as np
import pytest
from launch import run
from PIL import Image, ImageColor

from modeling_splip.evaluation.pictures import HIT, MISS, retrieval_grid

BLUE = (0, 0, 255)


def grid_input():
    sketches = [Image.new("L", (40, 40), 255), Image.new("RGBA", (40, 40), (0, 0, 0, 0))]
    photos = [[Image.new("RGB", (60, 30), BLUE)] * 3, [Image.new("RGB", (30, 60), BLUE)] * 2]
    return sketches, photos, [[True, False, True], [False, True]]


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def share(region, color, tolerance=12):
    return (np.abs(region - ImageColor.getrgb(color)).max(axis=-1) <= tolerance).mean()


def cells(image, rows, columns, width=500):
    """Regions of the result tiles, by the layout that the docstring promises: a query, a gap, the results."""
    cell = (width - 2 * 20 - 34 - (columns - 1) * 10) // (columns + 1)
    left = 20 + cell + 34
    pitch = cell + 10
    return [
        [image[20 + r * pitch : 20 + r * pitch + cell, left + c * (cell + 10) :][:, :cell] for c in range(columns)]
        for r in range(rows)
    ]


def test_frames_tell_hits_from_misses(tmp_path):
    image = pixels(retrieval_grid(*grid_input(), tmp_path / "new" / "grid.png", width=500))
    assert image.shape[1] == 500
    tiles = cells(image, 2, 3)
    for row, hits in zip(tiles, grid_input()[2], strict=True):
        for tile, hit in zip(row[: len(hits)], hits, strict=True):
            mine, other = (HIT, MISS) if hit else (MISS, HIT)
            edge = tile[0, 20:-20]
            assert share(edge, mine) == 1.0
            assert share(tile, other) == 0.0
            assert share(tile, "#0000ff") > 0.3
    assert (tiles[1][2] == 255).all()  # a shorter row stays empty


def test_marks_differ_without_colour(tmp_path):
    image = pixels(retrieval_grid(*grid_input(), tmp_path / "grid.png", width=500))
    hit, miss = (tile[-24:-4, -24:-4].min(axis=-1) for tile in cells(image, 2, 3)[0][:2])
    tick, cross = hit > 200, miss > 200  # the white strokes
    assert tick.any() and cross.any() and (tick != cross).sum() > 10


def test_queries_stand_on_white_paper(tmp_path):
    image = pixels(retrieval_grid(*grid_input(), tmp_path / "grid.png", width=500))
    cell = (500 - 40 - 34 - 20) // 4
    for top in (20, 20 + cell + 10):
        assert (image[top + 8 : top + cell - 8, 28 : 20 + cell - 8] == 255).all()


def test_titles_and_captions_stand_above_their_images(tmp_path):
    sketches, photos, hits = grid_input()
    plain = pixels(retrieval_grid(sketches, photos, hits, tmp_path / "plain.png", width=500))
    titles, captions = ["giraffe", "owl"], [["one", "two", "three"], ["a caption much wider than its image", ""]]
    image = pixels(
        retrieval_grid(sketches, photos, hits, tmp_path / "text.png", titles=titles, captions=captions, width=500)
    )
    assert image.shape[0] > plain.shape[0]
    cell = (500 - 40 - 34 - 20) // 4
    header = image[20 : 20 + 22]
    for left in (20, 20 + cell + 34, 20 + cell + 34 + cell + 10):
        assert (header[:, left : left + cell].min(axis=-1) < 160).any()
    gap = 20 + cell + 34 + cell
    assert (image[:, gap + 2 : gap + 8] == 255).all()  # the wide caption was cut at its column


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_same_input_same_bytes_and_nothing_half_written(tmp_path, name):
    first = retrieval_grid(*grid_input(), tmp_path / name).read_bytes()
    assert retrieval_grid(*grid_input(), tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_crash_leaves_the_old_picture(tmp_path, monkeypatch):
    path = retrieval_grid(*grid_input(), tmp_path / "grid.png")
    before = path.read_bytes()

    def full_disk(self, file, *_):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        retrieval_grid(*grid_input(), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_bad_input(tmp_path):
    sketches, photos, hits = grid_input()
    for arguments, sentence in (
        (([], [], []), "queries is empty"),
        ((sketches, photos[:1], hits), "results has 1 rows for 2 queries"),
        ((sketches, photos, [[True], [False, True]]), "hits has 1 entries in row 0 for 3 results"),
    ):
        with pytest.raises(ValueError, match=sentence):
            retrieval_grid(*arguments, tmp_path / "grid.png")
    with pytest.raises(ValueError, match="titles has 1 rows"):
        retrieval_grid(sketches, photos, hits, tmp_path / "grid.png", titles=["one"])
    with pytest.raises(ValueError, match="show fewer, or widen"):
        retrieval_grid(sketches, photos, hits, tmp_path / "grid.png", width=120)
    with pytest.raises(ValueError, match=r"ends in \.png, \.jpg, \.webp"):
        retrieval_grid(sketches, photos, hits, tmp_path / "grid.tiff")
    assert list(tmp_path.iterdir()) == []


def test_unknown_relevance_is_neither_hit_nor_miss(tmp_path):
    sketches, photos, _ = grid_input()
    image = pixels(retrieval_grid(sketches, photos, None, tmp_path / "grid.png", width=500))
    assert share(image, "#0000ff") > 0.01 and not share(image, HIT) and not share(image, MISS)


def test_search_and_pictures_import_no_matplotlib():
    code = "import sys, modeling_splip.commands.search, modeling_splip.evaluation.view_pictures; "
    code += "sys.exit('matplotlib is imported' if 'matplotlib' in sys.modules else 0)"
    result = run([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
