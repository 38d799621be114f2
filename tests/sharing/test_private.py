"""Nothing of this machine goes to the Hub: paths, names, comments in pictures."""

import io
import json
from pathlib import Path

import galleries
import pyarrow.parquet as pq
from galleries import draw
from PIL import Image

from modeling_splip.commands.push import stage_gallery
from modeling_splip.search.gallery import Gallery
from modeling_splip.sharing.private import relative_paths, remove_origins, without_notes

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair


def pictures(folder: Path) -> list[Path]:
    """Photos that say where they come from, two of one name."""
    files = [folder / "cup" / "a.jpg", folder / "zebra" / "a.jpg", folder / "zebra" / "b.jpg", folder / "broken.jpg"]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(number, "teal").save(file, comment=f"made in {folder}".encode())
    files[-1].write_bytes(b"no picture")
    return files


def test_a_pushed_gallery_names_no_path_of_this_machine(pair, tmp_path):
    """One from a list of files, whose photos have absolute paths."""
    place = tmp_path / "someone" / "private"
    for number, photos in enumerate((pictures(place), place)):
        built = Gallery.build(photos, *pair, tmp_path / f"G{number}", model_name=str(tmp_path), progress=False)
        stage = tmp_path / f"stage{number}"
        stage_gallery(built.folder, "me/mine", stage)
        for file in stage.rglob("*"):
            assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file
        shared = Gallery.open(stage, pair)
        assert [shared.result(row).path for row in range(3)] == ["cup/a.jpg", "zebra/a.jpg", "zebra/b.jpg"]
        for mine, theirs in zip(built.search(draw(9), 3), shared.search(draw(9), 3), strict=True):
            assert mine.score == theirs.score and mine.thumbnail.tobytes() == theirs.thumbnail.tobytes()
        table = next(stage.rglob("*.parquet"))
        assert pq.read_schema(table).equals(pq.read_schema(next(built.folder.rglob("*.parquet"))), check_metadata=True)


def test_thumbnails_carry_no_comment_of_the_photo(pair, tmp_path):
    built = Gallery.build(pictures(tmp_path / "p"), *pair, tmp_path / "G", progress=False)
    assert all(b"made in" not in built.result(row).thumbnail_bytes for row in range(3))


def test_notes_go_and_the_picture_stays():
    image, noted, plain = draw(1, "teal"), io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[270] = "in the garden"
    image.save(noted, "JPEG", comment=b"in the garden", exif=exif)
    image.save(plain, "JPEG")
    assert b"garden" in noted.getvalue() and without_notes(noted.getvalue()) == plain.getvalue()
    for odd in (b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG", noted.getvalue()[:30]):
        assert b"garden" not in without_notes(odd)


def test_relative_paths_stay_and_absolute_ones_lose_their_folder():
    assert relative_paths(["a/b.jpg", "c.jpg"]) == ["a/b.jpg", "c.jpg"]
    assert relative_paths(["/home/x/a/b.jpg", "d.jpg", "/home/x/c.jpg"]) == ["a/b.jpg", "d.jpg", "c.jpg"]
    assert relative_paths(["/home/x/a.jpg"]) == ["a.jpg"]


def test_a_config_does_not_say_where_it_came_from(tmp_path):
    config = {"a": 1, "_name_or_path": "/home/x", "clip_config": {"_name_or_path": "/home/x", "parts": [{"b": 2}]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "/home/x"}))
    remove_origins(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1, "clip_config": {"parts": [{"b": 2}]}}
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {}
