"""Where the photos of a gallery come from, and what cannot be read."""

import io
import json
import os
import shutil
import zlib
from pathlib import Path

import datasets
import galleries
import pytest
from galleries import draw, files, make_photos, same
from PIL import Image

from modeling_splip.image_files import open_image
from modeling_splip.search.build import build_gallery
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.photo_files import left_out_sentence
from modeling_splip.search.photos import find_photos, photo_in_work

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def test_exif_orientation_is_honoured(tmp_path, pair, name):
    folder = tmp_path / "photos"
    folder.mkdir()
    upright = draw(1, "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    upright.save(folder / "upright.png")
    upright.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    gallery = Gallery.build(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    turned, plain = gallery.result(0), gallery.result(1)
    assert (turned.metadata, turned.thumbnail.size) == (plain.metadata, plain.thumbnail.size)
    assert gallery.similar(turned, 1)[0].score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_common_formats_are_decoded(kind):
    encoded = io.BytesIO()
    draw(1, "red").save(encoded, kind)
    with photo_in_work(encoded.getvalue()) as image:
        assert image.size == (40, 30)


def test_broken_metadata_leave_the_pixels(photos, pair, name, tmp_path):
    """Of a photo that is indexed, and of a sketch that is searched with."""
    path = photos / "cup" / "000.png"
    whole, exif = path.read_bytes(), b"\0\x08\0\x02\x01\x12\0\x03"
    crc = zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    path.write_bytes(whole[:33] + len(exif).to_bytes(4, "big") + b"eXIf" + exif + crc + whole[33:])
    gallery = Gallery.build(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert len(gallery) == 24 and not gallery.manifest["unreadable"]
    (tmp_path / "whole.png").write_bytes(whole)
    assert same(gallery.search(path, 24), gallery.search(tmp_path / "whole.png", 24))


def test_unreadable_files_are_named_and_the_rest_is_indexed(photos, pair, name, tmp_path):
    whole = (photos / "cup" / "000.png").read_bytes()
    (photos / "cup" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cup" / "empty.jpg").write_bytes(b"")
    (photos / "zebra" / "text.JPEG").write_text("no picture")
    (photos / "ant" / "gone.png").symlink_to(photos / "nothing.png")
    shutil.copy(photos / "cup" / "000.png", os.fsencode(photos / "cup") + b"/\xff.png")  # no UTF-8
    os.mkfifo(photos / "zebra" / "pipe.png")  # reading it would wait for ever
    (photos / "zebra" / "linked.png").symlink_to(photos / "zebra" / "pipe.png")
    draw(1).save(photos / "ant" / "script.png", "EPS")  # PIL would start Ghostscript
    (photos / "notes.txt").write_text("not counted")
    (photos / ".hidden.png").write_text("not counted")
    big = io.BytesIO()
    Image.new("1", (3000, 3000)).save(big, "PNG")
    (photos / "bomb.png").write_bytes(big.getvalue())
    gallery = Gallery.build(photos, *pair, tmp_path / "G", progress=False, max_pixels=1_000_000)
    unreadable = {entry["path"]: entry["reason"] for entry in gallery.manifest["unreadable"]}
    named = ["ant/gone.png", "ant/script.png", "bomb.png", "cup/cut.png", "cup/empty.jpg", "cup/\udcff.png"]
    assert sorted(unreadable) == [*named, "zebra/linked.png", "zebra/pipe.png", "zebra/text.JPEG"]
    assert unreadable["zebra/linked.png"] == unreadable["zebra/pipe.png"] == "no regular file"
    assert unreadable["ant/script.png"] == "no image of a known kind"
    assert unreadable["bomb.png"].startswith("3000 x 3000 pixels")
    assert unreadable["zebra/text.JPEG"] == "no image of a known kind"
    assert len(gallery) == 24


def test_a_dataset_keeps_labels_and_columns(tmp_path, pair, name):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cup", "hot air balloon"]),
            "instance_id": datasets.Value("string"),
        }
    )
    rows = [{"image": draw(n, "red"), "label": n % 2, "instance_id": f"i{n}"} for n in range(6)]
    data = datasets.Dataset.from_list(rows, features=features)
    gallery = Gallery.build(data, *pair, tmp_path / "G", model_name=name, split="gallery", progress=False)
    assert [gallery.result(row).path for row in range(6)] == [f"gallery/{row:07d}" for row in range(6)]
    assert gallery.labels() == ["cup", "hot air balloon"]
    found = gallery.search(draw(100), 9, where={"label": "hot air balloon"})
    assert sorted(result.metadata["instance_id"] for result in found) == ["i1", "i3", "i5"]
    assert build_gallery(data, *pair, tmp_path / "G", split="gallery", progress=False).encoded == 0


def test_a_path_in_an_image_cell_is_followed_on_request_only(tmp_path, pair, name):
    files = []
    for number in range(2):
        files.append(str(tmp_path / f"{number}.png"))
        draw(number, "red").save(files[-1])
    cells = [{"bytes": Path(files[0]).read_bytes(), "path": "a.png"}, {"bytes": None, "path": files[1]}]
    data = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    gallery = Gallery.build(data, *pair, tmp_path / "G", model_name=name, progress=False)
    assert len(gallery) == 1 and "its cell names a file" in gallery.manifest["unreadable"][0]["reason"]
    assert len(Gallery.build(data, *pair, tmp_path / "G", model_name=name, progress=False, follow_paths=True)) == 2


def test_a_prepared_folder_gives_its_gallery_split(tmp_path, pair, name):
    folder = tmp_path / "D"
    (folder / "data").mkdir(parents=True)
    card = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, seeds in (("train", range(5)), ("query", range(5, 7)), ("gallery", range(7, 10))):
        card += [f"  - split: {split}", f"    path: data/{split}-*.parquet"]
        rows = [{"image": draw(seed, "red"), "label": f"c{seed}"} for seed in seeds]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(folder / "data" / f"{split}-00000.parquet")
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    info = {"name": "tiny", "version": "1", "seen": ["c0"], "unseen": ["c7"], "counts": {}, "problems": {}}
    (folder / "splip_dataset.json").write_text(json.dumps(info))
    gallery = Gallery.build(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    assert gallery.labels() == ["c7", "c8", "c9"]


BAD = {
    "missing": ("There is no folder", FileNotFoundError),
    "empty": ("has no photo", ValueError),
    "file": ("is a file: pass the folder", ValueError),
    "owner/unknown": ("is no folder here, and no dataset came from the Hub", OSError),
    "broken": (r"None of the 1 photos in .*broken' can be read \(x.png: no image of a known kind\)", ValueError),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_photos_are_refused_and_leave_nothing(bad, tmp_path, pair, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    before = files(tmp_path)
    sentence, kind = BAD[bad]
    with pytest.raises(kind, match=sentence):
        build_gallery(bad, *pair, tmp_path / "G", progress=False)
    assert files(tmp_path) == before


def test_a_folder_that_cannot_be_read_ends_the_update(photos, pair, tmp_path, gallery, monkeypatch):
    """Otherwise its photos would leave the gallery without a word."""
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("zebra"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match=r"Folder '.*zebra' cannot be read \(Permission denied\), so it is not known"):
        build_gallery(photos, *pair, tmp_path / "G", progress=False)
    monkeypatch.undo()
    assert len(Gallery.open(tmp_path / "G", pair)) == 24


def test_suffix_or_content_tells_a_photo_and_others_are_counted(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    kinds = {"a.jpg": "JPEG", "b.jfif": "JPEG", "c.jpe": "JPEG", "d.jp2": "JPEG2000", "e.ppm": "PPM", "noend": "PNG"}
    for name, kind in kinds.items():
        draw(1, "red").save(folder / name, kind)
    for name in ("f.nef", "g.mp4", "h.MP4", "notes", ".hidden.mp4", "Thumbs\x1b.db"):
        (folder / name).write_text("no picture")
    os.mkfifo(folder / "pipe")  # opening it would wait for ever
    for name in ("@eaDir", "$RECYCLE.BIN", "lost+found", ".trash"):
        (folder / name).mkdir()
        draw(2, "red").save(folder / name / "thumbnail.jpg")
    source = find_photos(folder)
    assert [photo.path for photo in source.photos] == sorted(kinds)
    assert source.left_out == {".nef": 1, ".mp4": 2, "": 2, ".db": 1}
    wanted = "6 files left out: 2 without suffix, 2 .mp4, 1 .db, 1 .nef (convert to JPEG)"
    assert left_out_sentence(source.left_out) == wanted
    many = {f".{letter}": 1 for letter in "abcdefghijklm"}
    assert left_out_sentence(many).endswith("1 .i, 1 .j, 3 others") and left_out_sentence({".\x1b": 1}).endswith(" .?")
    for file in folder.iterdir():
        if file.name in kinds:
            file.unlink()
    with pytest.raises(ValueError, match=r"has no photo at any depth \(6 files left out: 2 without suffix, "):
        find_photos(folder)


def test_heic_is_read_where_its_library_is_and_otherwise_the_sentence_says_so(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif", reason="HEIC needs splip[heic]")
    from PIL import ExifTags

    heif.register_heif_opener()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # as phones write it: turned by a quarter when shown
    for name in ("a.heic", "b.HIF", "noend"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name, "HEIF", exif=exif.tobytes())
    Image.OPEN.pop("HEIF")  # the reader registers it by itself
    source = find_photos(tmp_path)
    assert [photo.path for photo in source.photos] == ["a.heic", "b.HIF", "noend"] and not source.left_out
    for photo in source.photos:
        with photo_in_work(photo.read()) as image:
            assert image.size == (30, 40) and image.getpixel((9, 9))[0] > 200
    monkeypatch.delitem(Image.OPEN, "HEIF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    Image.new("RGB", (9, 9)).save(tmp_path / "c.png")
    source = find_photos(tmp_path)
    assert [photo.path for photo in source.photos] == ["c.png"]
    assert left_out_sentence(source.left_out) == (
        "3 files left out: 1 without suffix, 1 .heic (pip install 'splip[heic]' lets them be read), 1 .hif (pip "
        "install 'splip[heic]' lets them be read)"
    )
    with pytest.raises(ValueError, match=r"a.heic' is not a readable image \(a HEIC picture, which pip install 'splip"):
        open_image(tmp_path / "a.heic")


def test_linked_folders_are_followed_once(photos, tmp_path):
    far = make_photos(tmp_path / "far", 3, ("owl",))
    (photos / "ant" / "above").symlink_to("..")
    (photos / "further above").symlink_to(tmp_path)
    (photos / "aaa").symlink_to(photos / "zebra")  # the folder itself gives the names, not a link to it
    (photos / "owl").symlink_to(far / "owl")
    (photos / "owl again").symlink_to(far / "owl")
    (far / "owl" / "back").symlink_to(photos)
    paths = [photo.path for photo in find_photos(photos).photos]
    own = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.png"))]
    own = [path for path in own if path.split("/")[0] in ("ant", "cup", "zebra") and path.count("/") == 1]
    assert paths == [*own, "owl/000.png", "owl/001.png", "owl/002.png"]
