"""Drawings that come as strokes: Quick, Draw! lines and SVG files become one kind of picture."""

import io
import json
import time

import archives
import numpy as np
import pytest
from PIL import Image
from preparing import rows, run

from datasets_scripts.strokes import MARGIN, SIZE, WIDTH, draw, ndjson_strokes
from datasets_scripts.svg import svg_strokes, transform

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{}</svg>'


def strokes(body: str) -> list[list[list[float]]]:
    """The strokes of an SVG file with this body, rounded."""
    return [np.round(line, 3).tolist() for line in svg_strokes(SVG.format(body).encode())]


def pixels(lines) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw([np.array(line, float) for line in lines]))))


def test_a_drawing_fills_the_square_but_for_the_margin_and_keeps_its_aspect():
    ink = pixels([[[10, 0], [30, 0], [30, 10]]]) < 128
    assert ink.shape == (SIZE, SIZE)
    down, right = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    half = WIDTH / 2
    assert right[0] == pytest.approx(MARGIN - half, abs=1) and right[-1] == pytest.approx(SIZE - MARGIN + half, abs=1)
    height = (SIZE - 2 * MARGIN) / 2
    assert down[-1] - down[0] == pytest.approx(height + 2 * half, abs=2)
    assert (down[0] + down[-1]) / 2 == pytest.approx(SIZE / 2, abs=1)


def test_strokes_are_black_on_white_and_antialiased():
    picture = pixels([[[0, 0], [10, 7]]])
    assert picture.min() == 0 and picture[0, 0] == 255
    assert len(np.unique(picture)) > 4
    dot = pixels([[[5, 5]]])
    assert 0 < (dot < 128).sum() < 20


@pytest.mark.parametrize("lines", [[], [[[0, 0], [float("nan"), 1]]], [[[0, 0], [float("inf"), 1]]]])
def test_what_cannot_be_drawn_is_refused(lines):
    with pytest.raises(ValueError, match=r"no strokes|no finite numbers"):
        draw([np.array(line, float) for line in lines])


def test_simplified_and_raw_quick_draw_strokes_are_the_same():
    simplified = [[[0, 9], [1, 8]], [[3], [4]]]
    raw = [[[0.0, 9.0], [1.0, 8.0], [0, 150]], [[3.0], [4.0], [200]]]
    for one, other in zip(ndjson_strokes(simplified), ndjson_strokes(raw), strict=True):
        assert one.tolist() == other.tolist()
    assert ndjson_strokes(simplified)[0].tolist() == [[0, 1], [9, 8]]
    with pytest.raises(ValueError, match="as many x as y"):
        ndjson_strokes([[[0, 1], [2]]])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("M1 2 L3 4 5 6", [[[1, 2], [3, 4], [5, 6]]]),
        ("m1,2 l2,2 2-2", [[[1, 2], [3, 4], [5, 2]]]),
        ("M1 2 H5 V6 h-4 z", [[[1, 2], [5, 2], [5, 6], [1, 6], [1, 2]]]),
        ("M0 0 v3 M5 5 h1", [[[0, 0], [0, 3]], [[5, 5], [6, 5]]]),
    ],
)
def test_straight_paths(path, expected):
    assert strokes(f'<path stroke="black" d="{path}"/>') == expected


@pytest.mark.parametrize(
    ("path", "end", "middle"),
    [
        ("M0 0 C0 10 10 10 10 0", (10, 0), (5, 7.5)),
        ("M0 0 c0 10 10 10 10 0", (10, 0), (5, 7.5)),
        ("M0 0 C0 10 10 10 10 0 S20 -10 20 0", (20, 0), (10, 0)),
        ("M0 0 Q5 10 10 0", (10, 0), (5, 5)),
        ("M0 0 Q5 10 10 0 T20 0", (20, 0), (10, 0)),
        ("M0 0 A5 5 0 0 0 10 0", (10, 0), (5, 5)),
        ("M0 0 a5 5 0 0 1 10 0", (10, 0), (5, -5)),
    ],
)
def test_curves(path, end, middle):
    (line,) = strokes(f'<path stroke="black" d="{path}"/>')
    assert line[0] == [0, 0] and line[-1] == pytest.approx(end, abs=1e-3)
    assert line[len(line) // 2] == pytest.approx(middle, abs=1e-2)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('<line x1="1" y1="2" x2="3" y2="4" stroke="red"/>', [[[1, 2], [3, 4]]]),
        ('<polyline points="1,2 3,4 5,6" stroke="red"/>', [[[1, 2], [3, 4], [5, 6]]]),
        ('<polygon points="0,0 4,0 4,3" style="fill:none;stroke:#000"/>', [[[0, 0], [4, 0], [4, 3], [0, 0]]]),
        ('<rect x="1" y="1" width="2" height="3" stroke="red"/>', [[[1, 1], [3, 1], [3, 4], [1, 4], [1, 1]]]),
    ],
)
def test_shapes(shape, expected):
    assert strokes(shape) == expected


def test_round_shapes():
    (circle,) = strokes('<circle cx="5" cy="6" r="2" stroke="red"/>')
    assert np.hypot(*(np.array(circle) - (5, 6)).T) == pytest.approx(2, abs=1e-2)
    (ellipse,) = strokes('<ellipse cx="5" cy="6" rx="4" ry="2" stroke="red"/>')
    assert np.ptp(ellipse, axis=0).tolist() == pytest.approx([8, 4])


def test_transforms_of_groups_apply_from_the_inside_out():
    line = '<line x1="1" y1="0" x2="2" y2="0" stroke="red" transform="scale(2)"/>'
    assert strokes(f'<g transform="translate(10 5)">{line}</g>{line}') == [[[12, 5], [14, 5]], [[2, 0], [4, 0]]]
    assert transform("matrix(1 2 3 4 5 6)").tolist() == [[1, 3, 5], [2, 4, 6], [0, 0, 1]]
    assert transform("translate(3) scale(2 4)").tolist() == [[2, 0, 3], [0, 4, 0], [0, 0, 1]]
    assert (transform("rotate(90 1 1)") @ [2, 1, 1]).tolist() == pytest.approx([1, 2, 1])
    assert (transform("skewX(45)") @ [0, 1, 1]).tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(ValueError, match=r"unknown transform: turn\(3\)"):
        transform("turn(3)")


def test_what_has_no_stroke_is_not_drawn_beside_what_has():
    page = '<rect width="100" height="100" fill="white"/><rect width="100%" height="100%" fill="red"/>'
    line = '<g stroke="#000"><line x1="1" y1="2" x2="3" y2="4"/><line x2="9" stroke="none"/></g>'
    hidden = '<g display="none"><line x2="9" stroke="red"/></g><defs><line x2="9" stroke="red"/></defs>'
    assert strokes(page + line + hidden) == [[[1, 2], [3, 4]]]
    # Strokes that a style sheet gives are not seen: then every outline counts, but for white surfaces.
    assert strokes(page + '<line class="pen" x1="1" y1="2" x2="3" y2="4"/>') == [[[1, 2], [3, 4]]]


BOMB = '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">{}]><svg><path d="M0 0 L1 1"/><text>&i;</text></svg>'.format(
    "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
)
OUTSIDE = '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "declares an entity"),
        (OUTSIDE, "declares an entity"),
        (SVG.format('<image href="http://example.com/a.png"/>'), "holds <image>"),
        (SVG.format('<use href="#a"/>'), "holds <use>"),
        (SVG.format('<linearGradient href="http://example.com/b.svg#c"/>'), "holds <linearGradient>"),
        ("<svg><path", "no well-formed SVG"),
        ("not XML", "no well-formed SVG"),
    ],
)
def test_svg_files_that_are_more_than_strokes_are_refused_at_once(content, message):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        svg_strokes(content.encode())
    assert time.perf_counter() - started < 5


def line(**fields) -> str:
    return json.dumps({"drawing": [[[0, 50, 99], [0, 80, 10]]], **fields})


@pytest.fixture
def strokes_folder(tmp_path):
    """A file of drawings for two classes, one for a class folder, and SVG files, one of them without strokes."""
    words = [line(word="cat", key_id="1", recognized=True), line(word="dog", key_id="2"), "{", line(key_id="5")]
    words += [line(word="cat", key_id="3", recognized=False), line(word="cat", key_id="4", recognized=True)]
    raw = {"drawing": [[[0.5, 80.2], [3.1, 9.9], [0, 120]]], "key_id": "7"}
    tree = {
        "sketch/some.ndjson": "\n".join(words).encode(),
        "sketch/cup/raw.ndjson": json.dumps(raw).encode(),
        "sketch/cup/a0-1.svg": SVG.format('<path stroke="#000" d="M0 0 C1 2 3 4 5 6"/>').encode(),
        "sketch/cup/empty.svg": SVG.format("").encode(),
    }
    tree |= {f"photo/{name}/a{k}.jpg": archives.image(f"{name} {k}") for name in ("cat", "dog", "cup") for k in (0, 1)}
    return tree


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_strokes_are_prepared_as_pictures(strokes_folder, tmp_path, suffix):
    data = archives.write(strokes_folder, tmp_path / f"data{suffix}")
    summary = run("folder", "--data-dir", data, "--unseen", "cup", "--out", tmp_path / "out", "--num-proc", "2")
    assert summary["counts"]["train"] == {"photo": 4, "sketch": 3} and summary["counts"]["query"] == {"sketch": 2}
    assert summary["report"]["drawings_not_recognised_left_out"] == 1
    names = {row["image"]["path"]: row["label"] for row in rows(tmp_path / "out", "train")}
    assert {"1.png": "cat", "2.png": "dog", "4.png": "cat"}.items() <= names.items()
    sketches = {row["image"]["path"]: row["image"]["bytes"] for row in rows(tmp_path / "out", "query")}
    assert set(sketches) == {"7.png", "a0-1.png"}
    assert {Image.open(io.BytesIO(content)).size for content in sketches.values()} == {(SIZE, SIZE)}
    assert [problem.partition(" (")[0] for problem in summary["problems"]["unreadable"]] == [
        "sketch/some.ndjson: line 3",
        "sketch/some.ndjson: 5",
        "sketch/cup/empty.svg",
    ]
    assert "no strokes" in summary["problems"]["unreadable"][2]
