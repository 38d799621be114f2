"""Pictures of a search: what stands where, and files that are written whole or not at all."""

import numpy as np
import pytest
from galleries import draw
from PIL import Image, ImageColor

from modeling_splip.evaluation.pictures import HIT, MISS
from modeling_splip.search import pictures
from modeling_splip.search.explain import Matches, Pair
from modeling_splip.search.pictures import WIDTH, matches_picture, results_picture
from modeling_splip.search.result import Result


class Found(Result):
    """A photo of one colour."""

    @property
    def thumbnail(self) -> Image.Image:
        return Image.new("RGB", (64, 48), self.path)


def found(*colours: str) -> list[Result]:
    return [Found(colour, 0.5, "cup", row, {}, bytes) for row, colour in enumerate(colours)]


def area(picture: np.ndarray, colour: str) -> tuple[int, float]:
    """Return how many pixels are of this colour, and how far to the right they lie in the mean, in 0..1."""
    same = (picture == ImageColor.getrgb(colour)).all(axis=-1)
    return int(same.sum()), float(np.argwhere(same)[:, 1].mean() / picture.shape[1]) if same.any() else -1


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_one_sketch_stands_large_beside_all_its_photos(tmp_path):
    colours = ["red", "lime", "blue", "orange", "purple", "teal", "brown"]
    sketch = Image.new("RGB", (50, 50), "magenta")
    results_picture([("cup", sketch)], [found(*colours)], tmp_path / "new" / "a.png")
    picture = read(tmp_path / "new" / "a.png")
    assert picture.shape[1] == WIDTH
    large, left = area(picture, "magenta")
    sizes = [area(picture, colour) for colour in colours]
    assert min(size for size, _ in sizes) > 9000 and large > 4 * max(size for size, _ in sizes)
    places = [place for _, place in sizes]
    assert left < min(places) and places[:4] == sorted(places[:4]) and places[4:] == pytest.approx(places[:3])
    results_picture([("cup", None)], [found(*colours)], tmp_path / "b.png")  # words alone
    assert area(read(tmp_path / "b.png"), "red")[0] > sizes[0][0]
    results_picture([("cup", sketch)], [[]], tmp_path / "c.png")  # nothing found
    assert area(read(tmp_path / "c.png"), "magenta")[0] > 0


def test_several_sketches_stand_below_each_other_with_their_hits(tmp_path):
    rows = [found("red", "lime"), found("blue")]
    queries = [("one", draw(1)), ("two", draw(2))]
    results_picture(queries, rows, tmp_path / "a.png", [[True, True], [False]])
    picture = read(tmp_path / "a.png")
    right, wrong = (area(picture, colour)[0] for colour in (HIT, MISS))
    assert right > 1.5 * wrong > 500
    heights = [
        np.argwhere((picture == ImageColor.getrgb(colour)).all(axis=-1))[:, 0].mean() for colour in ("red", "blue")
    ]
    assert heights[0] + 100 < heights[1]
    results_picture(queries, rows, tmp_path / "b.png")
    assert area(read(tmp_path / "b.png"), HIT)[0] == 0


def test_pairs_are_joined_where_they_lie(tmp_path):
    pairs = [Pair((0, 0), (3, 3), 0.9), Pair((3, 0), (0, 0), 0.8)]
    views = Image.new("RGB", (40, 40), "white"), Image.new("RGB", (40, 40), "white")
    matches = Matches(*views, (4, 4), np.zeros((16, 16), np.float32), np.ones(16, bool), pairs, 0.5)
    matches_picture([("cup", matches)], tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    side = (WIDTH - 2 * pictures.MARGIN - pictures.SPLIT) // 2
    top, lefts = pictures.MARGIN + 34, (pictures.MARGIN, pictures.MARGIN + side + pictures.SPLIT)
    for pair, colour in zip(pairs, pictures._COLOURS, strict=False):
        for left, (row, column) in zip(lefts, pair[:2], strict=True):
            y, x = top + int(side * (row + 0.5) / 4), left + int(side * (column + 0.5) / 4)
            assert (picture[y - 10, x] == ImageColor.getrgb(colour)).all()
    matches_picture([("cup", Matches(*views, (4, 4), matches.cosines, matches.drawn, [], 0.5))], tmp_path / "b.png")
    assert area(read(tmp_path / "b.png"), pictures._COLOURS[0])[0] == 0


def test_what_cannot_be_shown_is_refused(tmp_path):
    for empty, some, save in (
        (([], []), ([("cup", None)], [[]]), results_picture),
        (([],), ([("cup", None)],), matches_picture),
    ):
        with pytest.raises(ValueError, match="Cannot write the picture"):
            save(*some, tmp_path / "a.gif")
        with pytest.raises(ValueError, match="There is nothing to show"):
            save(*empty, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
