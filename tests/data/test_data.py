"""Which sketches query which photos under each protocol, counted by hand on a small dataset."""

import dataclasses
import io
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SEEN, UNSEEN, draw_pair
from PIL import Image

from modeling_splip.commands.main import main
from modeling_splip.data.dataset import SPLITS, SbirDataset, decode_cells, open_dataset
from modeling_splip.data.protocols import PROTOCOLS, Part, protocol_view, validation_view, view_image
from modeling_splip.processing_splip import to_rgb

# Of each class in `polygons`: photos 0..5 with two drawings each; the unseen classes have photo 6 too, without any.
# Every class but "bell" has one drawing more, whose photo is not there.
SEEN_SKETCHES, SEEN_PHOTOS = dict.fromkeys(SEEN, 13), dict.fromkeys(SEEN, 6)
UNSEEN_SKETCHES, UNSEEN_PHOTOS = {"bell": 12, "fish": 13, "hot air balloon": 13}, dict.fromkeys(UNSEEN, 7)


def side(dataset: SbirDataset, parts) -> dict[tuple[str, str], dict[str, int]]:
    """Return {(split, modality): {class: rows}} and check that rows are sorted and unique."""
    found: dict = {}
    for part in parts:
        assert part.rows.tolist() == sorted(set(part.rows.tolist()))
        columns = dataset.columns[part.split]
        for row in part.rows:
            counts = found.setdefault((part.split, str(columns["modality"][row])), {})
            name = dataset.class_names[columns["label"][row]]
            counts[name] = counts.get(name, 0) + 1
    return found


def test_open_dataset(polygons):
    assert polygons.name == "polygons" and len(polygons.version) == 12
    assert polygons.class_names == SEEN + UNSEEN
    assert list(polygons.seen) == SEEN and list(polygons.unseen) == UNSEEN
    assert side(polygons, [Part("train", np.arange(len(polygons.train)))]) == {
        ("train", "sketch"): SEEN_SKETCHES,
        ("train", "photo"): SEEN_PHOTOS,
    }
    image = polygons.query[0]["image"]
    assert image.size == (40, 32)


def test_zs(polygons):
    view = protocol_view(polygons, "zs")
    assert side(polygons, view.query) == {("query", "sketch"): UNSEEN_SKETCHES}
    assert side(polygons, view.gallery) == {("gallery", "photo"): UNSEEN_PHOTOS}


def test_gzs_distractors(polygons):
    view = protocol_view(polygons, "gzs-distractors")
    assert side(polygons, view.query) == {("query", "sketch"): UNSEEN_SKETCHES}
    assert side(polygons, view.gallery) == {("gallery", "photo"): UNSEEN_PHOTOS, ("train", "photo"): SEEN_PHOTOS}


def test_gzs_sempcyc(polygons):
    view = protocol_view(polygons, "gzs-sempcyc", seed=1)
    query, gallery = side(polygons, view.query), side(polygons, view.gallery)
    # Whole numbers below 0.2 x 38 sketches and 0.2 x 21 photos.
    assert sum(query.pop(("train", "sketch")).values()) == 7
    assert sum(gallery.pop(("train", "photo")).values()) == 4
    assert query == {("query", "sketch"): UNSEEN_SKETCHES} and gallery == {("gallery", "photo"): UNSEEN_PHOTOS}


@pytest.mark.parametrize("protocol", ["gzs-ocean", "gzs-drclip"])
def test_gzs_by_whole_classes(polygons, protocol):
    view = protocol_view(polygons, protocol, seed=3)
    query, gallery = side(polygons, view.query), side(polygons, view.gallery)
    chosen = query.pop(("train", "sketch"))
    # round(0.2 x 3 unseen) = 1 class under ocean, round(0.2 x 6 seen) = 1 under drclip, with all of its items.
    assert len(chosen) == 1 and chosen.items() <= SEEN_SKETCHES.items()
    assert gallery.pop(("train", "photo")) == {name: SEEN_PHOTOS[name] for name in chosen}
    assert query == {("query", "sketch"): UNSEEN_SKETCHES} and gallery == {("gallery", "photo"): UNSEEN_PHOTOS}


def test_how_many_classes_join(polygons):
    # The two protocols take their share of different numbers: with 2 unseen and 6 + 1 seen classes none and one.
    few = dataclasses.replace(polygons, seen=(*SEEN, "bell"), unseen=("fish", "hot air balloon"))
    with pytest.raises(ValueError, match=r"'gzs-ocean' adds no seen photos to dataset 'polygons' .*evaluate 'zs'"):
        protocol_view(few, "gzs-ocean")
    assert len(side(few, protocol_view(few, "gzs-drclip").query)[("train", "sketch")]) == 1


@pytest.mark.parametrize("protocol", ["gzs-sempcyc", "gzs-ocean", "gzs-drclip"])
def test_the_seed_chooses_the_seen_items(polygons, protocol):
    rows = [
        [part.rows.tolist() for part in protocol_view(polygons, protocol, seed).gallery] for seed in (0, 0, 1, 2, 3)
    ]
    assert rows[0] == rows[1]
    assert any(other != rows[0] for other in rows[2:])


@pytest.mark.parametrize("protocol", ["fg-class", "fg-pooled"])
def test_fine_grained_takes_drawn_photos_and_paired_sketches(polygons, protocol):
    view = protocol_view(polygons, protocol)
    # Photo 6 of each class was never drawn, and one drawing of two classes has no photo.
    assert side(polygons, view.query) == {("query", "sketch"): dict.fromkeys(UNSEEN, 12)}
    assert side(polygons, view.gallery) == {("gallery", "photo"): dict.fromkeys(UNSEEN, 6)}
    drawn = polygons.columns["query"]["instance_id"][view.query[0].rows]
    photos = polygons.columns["gallery"]["instance_id"][view.gallery[0].rows]
    assert sorted(set(drawn)) == sorted(photos) == [f"{name}/{name}{n}" for name in UNSEEN for n in range(6)]


def test_held_back_classes(polygons):
    train, held = polygons.hold_back(2, seed=0)
    assert len(train) == 4 and len(held) == 2 and sorted(train + held) == SEEN
    assert train == [name for name in SEEN if name in train]  # label order
    assert polygons.hold_back(2, seed=0) == (train, held)
    assert any(polygons.hold_back(2, seed)[1] != held for seed in range(1, 5))
    assert polygons.hold_back(0, seed=0) == (SEEN, [])
    for count in (-1, 6):
        with pytest.raises(ValueError, match=f"validation_classes must be between 0 and 5, got {count}"):
            polygons.hold_back(count, seed=0)


def test_validation_views(polygons):
    held = ["cup", "owl"]
    view = validation_view(polygons, held)
    assert side(polygons, view.query) == {("train", "sketch"): {"cup": 13, "owl": 13}}
    assert side(polygons, view.gallery) == {("train", "photo"): {"cup": 6, "owl": 6}}
    view = validation_view(polygons, held, "fine_grained")
    assert side(polygons, view.query) == {("train", "sketch"): {"cup": 12, "owl": 12}}
    assert side(polygons, view.gallery) == {("train", "photo"): {"cup": 6, "owl": 6}}


def test_classes_that_a_model_has_seen(polygons):
    assert polygons.seen_by(["Hot-air_Balloon", "hotairballoon", "ant", "bells"]) == ["hot air balloon"]
    assert polygons.seen_by(["FISH", "bell"]) == ["bell", "fish"] and polygons.seen_by(SEEN) == []
    # Where a dataset splits the instances of one class, having seen the class is no leak.
    by_instance = dataclasses.replace(polygons, seen=(*SEEN, "bell"))
    assert by_instance.seen_by(["bell", "fish"]) == ["fish"]


def test_two_unicode_forms_of_an_accent_are_one_class(polygons):
    """A name that was typed has "é" as one character, a name from a file system of macOS often as two."""
    one, two = "caf\u00e9", "cafe\u0301"
    for ours, theirs in ((one, two), (two, one)):
        dataset = dataclasses.replace(polygons, unseen=(ours, "fish"))
        assert dataset.seen_by([theirs]) == dataset.resolve_unseen([theirs]) == [ours]


def test_unseen_classes_left_out(polygons):
    few = polygons.without(["hot air balloon"])
    assert few.unseen == ("bell", "fish") and few.removed == ("hot air balloon",) and polygons.removed == ()
    for protocol in ("zs", "gzs-distractors"):
        view = protocol_view(few, protocol)
        assert side(few, view.query) == {("query", "sketch"): {"bell": 12, "fish": 13}}
        assert side(few, view.gallery)[("gallery", "photo")] == {"bell": 7, "fish": 7}
    assert side(few, view.gallery)[("train", "photo")] == SEEN_PHOTOS  # what was seen here joins as ever
    assert few.without(["bell"]).removed == ("hot air balloon", "bell")
    with pytest.raises(ValueError, match=r"Every unseen class of dataset 'polygons' .*--seen-classes keep"):
        few.without(["bell", "fish"])
    assert polygons.resolve_unseen(["Fish", "hot_air_balloon"]) == ["fish", "hot air balloon"]
    with pytest.raises(ValueError, match=r"Only unseen classes of dataset 'polygons' .* and 'ant' is none; .*"):
        polygons.resolve_unseen(["ant"])


def test_the_page_names_every_protocol():
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
    named = set(re.findall(r"`((?:zs|gzs|fg)[a-z-]*)`", page))
    assert named == set(PROTOCOLS)


def test_unknown_protocol(polygons):
    with pytest.raises(ValueError, match=r"protocol must be one of zs, gzs-distractors, .*, got 'gzs'"):
        protocol_view(polygons, "gzs")


def test_fine_grained_needs_pairs(polygons):
    nameless = [""] * len(polygons.query)
    query = polygons.query.remove_columns("instance_id").add_column("instance_id", nameless)
    with pytest.raises(ValueError, match=r"has no sketch whose photo is known, so 'fg-class' .*--pairs"):
        protocol_view(dataclasses.replace(polygons, query=query), "fg-class")


def test_no_seen_classes(polygons):
    unseen_only = dataclasses.replace(polygons, train=polygons.train.select([]), seen=())
    assert side(unseen_only, protocol_view(unseen_only, "zs").query) == {("query", "sketch"): UNSEEN_SKETCHES}
    for protocol in [name for name in PROTOCOLS if name.startswith("gzs")]:
        with pytest.raises(ValueError, match=f"and '{protocol}' adds seen photos"):
            protocol_view(unseen_only, protocol)


def test_where_there_is_no_dataset(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no dataset at 'nowhere': prepare the data first"):
        open_dataset("nowhere")
    with pytest.raises(FileNotFoundError, match=r"There is no dataset at .*nowhere': prepare the data first"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no splip_dataset.json, so it is no prepared dataset"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="'someone/nothing' is no local folder and could not be read"):
        open_dataset("someone/nothing")


def test_datasets_of_one_name_are_not_mixed_up(prepared, tmp_path):
    # The same folder name and title, other content: whoever cached by names would show the first one's rows.
    first = open_dataset(shutil.copytree(prepared, tmp_path / "first" / "data"))
    arguments = ["--data-dir", str(_raw(tmp_path)), "--unseen", "bell", "--title", "polygons"]
    assert main(["prepare", "folder", "--out", str(tmp_path / "second" / "data"), *arguments]) == 0
    second = open_dataset(tmp_path / "second" / "data")
    assert first.name == second.name and first.version != second.version
    assert len(first.gallery) == 21 and len(second.gallery) == 2
    assert main(["prepare", "folder", "--out", str(tmp_path / "first" / "data"), "--overwrite", *arguments]) == 0
    assert len(open_dataset(tmp_path / "first" / "data").gallery) == 2


def _raw(folder: Path) -> Path:
    for name in ("bell", "fish"):
        for modality in ("photo", "sketch"):
            (folder / "raw" / modality / name).mkdir(parents=True)
        for number in range(2):
            draw_pair(folder / "raw", name, 5, number, 1)
    return folder / "raw"


@pytest.mark.parametrize(
    "damage", ["a torn file", "too few rows", "a missing file", "no files", "a torn summary", "a short summary"]
)
def test_a_damaged_dataset(prepared, tmp_path, damage):
    folder = shutil.copytree(prepared, tmp_path / "damaged")
    train, summary = next((folder / "data").glob("train-*")), folder / "splip_dataset.json"
    if damage == "a torn file":
        train.write_bytes(train.read_bytes()[:-100])
    elif damage == "a missing file":
        train.unlink()
    elif damage == "too few rows":
        shutil.copy(next((folder / "data").glob("query-*")), train)
    elif damage == "no files":
        shutil.rmtree(folder / "data")
    else:
        summary.write_text("{" if damage == "a torn summary" else "{}")
    with pytest.raises(ValueError, match=r"is a prepared dataset, but files are missing or damaged .*--overwrite"):
        open_dataset(folder)


def with_cell(prepared: Path, folder: Path, cell: dict) -> SbirDataset:
    """Return the dataset with another cell as its first query."""
    shutil.copytree(prepared, folder)
    (file,) = (folder / "data").glob("query-*.parquet")
    table = pq.read_table(file)
    cells = [cell, *table["image"].to_pylist()[1:]]
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, "image", pa.array(cells, table.schema.field(place).type)), file)
    return open_dataset(folder)


@pytest.mark.parametrize("path", ["{secret}", "https://example.org/a.png", "zip://a.png::{secret}"])
def test_a_cell_that_names_a_file_or_an_address_is_not_followed(prepared, tmp_path, path):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    cell = {"bytes": None, "path": path.format(secret=tmp_path / "secret.png")}
    dataset = with_cell(prepared, tmp_path / "D", cell)
    with pytest.raises(ValueError, match=r"^A row of the dataset holds no picture itself: prepare the data again\.$"):
        _ = dataset.query[0]["image"]
    assert dataset.query[1]["image"].size == (40, 32)


def test_a_cell_starts_no_other_program(prepared, tmp_path):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n0 0 40 40 rectfill\nshowpage\n%%EOF\n"
    dataset = with_cell(prepared, tmp_path / "D", {"bytes": eps, "path": "a.png"})
    with pytest.raises(ValueError, match=r"cannot be read \(no image of a known kind\): prepare the data again"):
        _ = dataset.query[0]["image"]


def test_strokes_on_a_transparent_ground_are_shown_on_white(prepared, tmp_path):
    sketch, content = Image.new("RGBA", (40, 32)), io.BytesIO()
    sketch.putpixel((3, 4), (0, 0, 0, 255))
    sketch.save(content, "PNG")
    dataset = with_cell(prepared, tmp_path / "D", {"bytes": content.getvalue(), "path": "a.png"})
    shown = view_image(dataset, [Part("query", np.array([0]))], 0)
    assert shown.mode == "RGB" and shown.getpixel((3, 4)) == (0, 0, 0) and shown.getpixel((9, 9)) == (255, 255, 255)


@pytest.mark.parametrize("exif", [b"\0\x08\0\x02\x01\x12\0\x03", b"b'Exif\\x00\\x00MM'", b""])
def test_broken_metadata_leave_the_pixels(prepared, tmp_path, exif):
    content = io.BytesIO()
    Image.new("RGB", (40, 32), "red").save(content, "PNG")
    data = content.getvalue()
    crc = zlib.crc32(b"eXIf" + exif).to_bytes(4, "big")
    data = data[:33] + len(exif).to_bytes(4, "big") + b"eXIf" + exif + crc + data[33:]
    dataset = with_cell(prepared, tmp_path / "D", {"bytes": data, "path": "a.png"})
    assert dataset.query[0]["image"].getpixel((0, 0)) == (255, 0, 0)
    (tmp_path / "a.png").write_bytes(data)
    assert to_rgb(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)


def test_sketches_and_photos_that_are_swapped_are_doubted(polygons):
    assert polygons.doubt("train") == polygons.doubt("query", "gallery") == ""
    other, swapped = {"sketch": "photo", "photo": "sketch"}, {}
    for split in SPLITS:
        rows = getattr(polygons, split).with_format(None)
        modality = [other[name] for name in rows["modality"]]
        swapped[split] = rows.remove_columns("modality").add_column("modality", modality).with_transform(decode_cells)
    wrong = dataclasses.replace(polygons, **swapped)
    for splits in (("train",), ("query", "gallery")):
        assert re.fullmatch(
            r"Dataset 'polygons': \d+ of \d+ sketches do not look drawn and \d+ of \d+ photos look like line drawings: "
            r"are its sketches and photos swapped\?",
            wrong.doubt(*splits),
        )
