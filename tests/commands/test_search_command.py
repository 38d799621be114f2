"""`splip index` and `splip search`, as they are typed."""

import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import datasets
import galleries
import pytest
from galleries import draw
from PIL import Image, ImageDraw, ImageOps

from modeling_splip.commands.main import main
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def test_index_and_search_commands(photos, name, tmp_path, capsys):
    hostile = photos / "cup" / "<img src=x onerror=alert(1)>\x1b[2J.png"
    shutil.move(photos / "cup" / "000.png", hostile)
    (photos / "bad.png").write_bytes(b"x")
    out, sketch = str(tmp_path / "G"), tmp_path / "cup" / "sketch.png"
    sketch.parent.mkdir()
    draw(100).save(sketch)
    assert main(["index", str(photos), "--model", name, "--out", out, "--quiet"]) == 0
    said = capsys.readouterr()
    assert "24 photos (24 encoded, 0 already known, 0 removed)" in said.out
    assert "Left out, because they cannot be read: 1" in said.err and "bad.png: no image of a known kind" in said.err

    assert main(["search", str(sketch), "--gallery", out, "-k", "24"]) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == 27 and "\x1b" not in table
    page, picture = tmp_path / "new" / "found.html", tmp_path / "fresh" / "deep" / "found.png"
    options = ["--text", "red", "--where", "label=cup", "--html", str(page), "--picture", str(picture)]
    assert main(["search", str(sketch), "--gallery", out, "-k", "8", "--json", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    results = record["queries"][0]["results"]
    wanted = Gallery.open(out).search(sketch, 8, "red", {"label": "cup"})
    assert [r["path"] for r in results] == [r.path for r in wanted] and record["model"] == name
    html = page.read_text()
    assert html.count("<li>") == 8 and "&lt;img src=x" in html and "<img src=x" not in html
    with Image.open(picture) as image:
        assert image.width == 1200

    both = [tmp_path / "explained.png", tmp_path / "words.webp"]
    assert main(["search", str(sketch), str(sketch), "--gallery", out, "--explain", str(both[0])]) == 0
    assert main(["search", "--text", "red", "--gallery", out, "--picture", str(both[1])]) == 0
    for file in both:
        with Image.open(file) as image:
            assert image.width == 1200


def test_commands_refuse_in_one_sentence(photos, name, tmp_path, capsys):
    out = str(tmp_path / "G")
    blank = tmp_path / "blank.png"
    Image.new("L", (9, 9), 255).save(blank)
    ink = tmp_path / "ink.png"
    draw(100).save(ink)
    assert main(["index", str(photos), "--model", name, "--out", out, "--quiet"]) == 0
    capsys.readouterr()
    for command, sentence in (
        (["index", str(photos), "--model", str(tmp_path / "none"), "--out", out], "no checkpoint folder"),
        (["index", str(photos), "--model", name, "--out", out, "--batch-size", "0"], "--batch-size must be at least 1"),
        (["search", str(blank), "--gallery", out], "Nothing is drawn on sketch"),
        (["search", str(blank), "--gallery", str(photos)], "is no gallery (it has no manifest.json)"),
        (["search", str(blank), "--gallery", out, "--model", "clip"], "was built with model"),
        (["search", "--text", "red", "--gallery", out, "--explain", "x.png"], "words alone have no parts"),
        (["search", str(ink), "--gallery", out, "--explain", "x.gif"], "Cannot write the picture 'x.gif'"),
        (["search", str(ink), "--gallery", out, "--explain", "x.png", "--where", "label=no"], "none fits the filter"),
        (["search", "--gallery", out], "nothing to search for"),
        (["search", str(ink), "--gallery", out, "--text-weight", "1"], "there are none: pass --text, or leave it out"),
        (["search", "--gallery", out, "--text", "red", "--where", "label"], "is not COLUMN=VALUE"),
        (["search", "--gallery", out, "--text", "red", "--html", str(ink / "x.html")], "Cannot write the file"),
        (["search", str(ink), "--gallery", out, "--picture", str(ink / "x.png")], "Cannot write the file"),
    ):
        assert main(command) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("splip: ") and sentence in said


def test_a_sketch_in_white_on_black_is_inverted_and_one_line_says_so(photos, name, tmp_path, capsys, said):
    out, light, dark = str(tmp_path / "G"), tmp_path / "light.png", tmp_path / "dark.png"
    draw(100).save(light)
    ImageOps.invert(draw(100)).save(dark)
    main(["index", str(photos), "--model", name, "--out", out, "--quiet"])
    capsys.readouterr()

    def found(sketch: Path, *options: str) -> list[str]:
        assert main(["search", str(sketch), "--gallery", out, "-k", "24", *options]) == 0
        return capsys.readouterr().out.splitlines()[2:]

    wanted = found(light)
    assert not said()
    assert found(light, "--invert-sketches", "false") == wanted == found(dark, "--invert-sketches", "true")
    assert not said()
    assert found(dark, "--invert-sketches", "false") != wanted
    assert len(said()) == 1
    # As a user sees it: a line, no Python warning, and no second one for a second sketch.
    words = [sys.executable, "-m", "modeling_splip", "search", str(dark), str(dark), "--gallery", out, "--model", name]
    shown = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = [line for line in shown.stderr.splitlines() if "sketch" in line.lower()]
    assert lines == [
        "A sketch looks white on black and is inverted; invert_sketches=false would take it as it is.",
    ]


def test_a_photo_as_a_sketch_and_sketches_as_photos_are_doubted(photos, pair, name, tmp_path, capsys, said):
    gallery = Gallery.build(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert gallery.manifest["doubt"] == ""
    noise = Image.effect_noise((60, 40), 90)
    gallery.search(draw(100))
    gallery.similar(noise)
    assert not said()
    gallery.search(noise)
    assert said() == ["A sketch does not look drawn, and models expect a line drawing: is it a photo?"]

    (tmp_path / "drawn").mkdir()
    for number in range(5):
        page = Image.new("L", (120, 90), 255)
        ImageDraw.Draw(page).ellipse([20, 20, 80 + number, 70], outline=0, width=3)
        page.save(tmp_path / "drawn" / f"{number}.png")
    noise.save(tmp_path / "drawn" / "noise.png")
    out = str(tmp_path / "D")
    for _ in range(2):  # also where all photos are known
        assert main(["index", str(tmp_path / "drawn"), "--model", name, "--out", out, "--quiet"]) == 0
        assert [line for line in capsys.readouterr().err.splitlines() if "Loading weights" not in line and line] == [
            "5 of 6 photos look like line drawings: a gallery holds photos, and sketches are what it is searched with."
        ]


def test_json_keeps_its_own_keys_and_is_json(pair, name, tmp_path, capsys):
    features = {"image": datasets.Image(), "score": datasets.Value("string"), "price": datasets.Value("float64")}
    features["day"] = datasets.Value("date32")
    prices = [float("nan"), float("inf"), 1.5]
    rows = [{"image": draw(n), "score": "five stars", "price": price, "day": None} for n, price in enumerate(prices)]
    rows[2]["day"] = date(2024, 1, 31)
    data = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    gallery = Gallery.build(data, *pair, tmp_path / "G", model_name=name, progress=False)
    draw(100).save(tmp_path / "sketch.png")
    assert main(["search", str(tmp_path / "sketch.png"), "--gallery", str(tmp_path / "G"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["queries"][0]["results"]
    scores = [result.score for result in gallery.search(tmp_path / "sketch.png")]
    assert [result["score"] for result in results] == pytest.approx(scores, abs=1e-6)
    by_path = {result["path"]: (result["price"], result["day"]) for result in results}
    assert [by_path[path] for path in sorted(by_path)] == [(None, None), (None, None), (1.5, "2024-01-31")]


def test_real_photos_and_drawings(real_mini, tmp_path, capsys):
    folder = tmp_path / "photos"
    for label in ("giraffe", "cup"):
        (folder / label).mkdir(parents=True)
        for file in sorted((real_mini / "photo" / label).iterdir())[:12]:
            shutil.copy(file, folder / label)
    assert main(["index", str(folder), "--model", "clip", "--out", str(tmp_path / "G"), "--quiet"]) == 0
    sketch = sorted((real_mini / "sketch" / "giraffe").iterdir())[0]
    assert main(["search", str(sketch), "--gallery", str(tmp_path / "G"), "--json"]) == 0
    out = capsys.readouterr().out
    results = json.loads(out[out.index("{") :])["queries"][0]["results"]
    assert len(results) == 10 and all(Path(result["path"]).is_file() for result in results)
