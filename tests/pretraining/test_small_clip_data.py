"""What `small_clip` learns from: both forms read right, classes left out, batches that tell the truth."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import CLASSES, FINE, drawing, photo, write_folders, write_packed

from datasets_scripts.splits import load_split
from pretraining.small_clip_data import Batches, Pictures, leave_out, merge, normalise
from pretraining.small_clip_reading import draw_strokes, everyday_words, read_drawings, read_packed, read_photos


def name_of(pictures: Pictures, label: int) -> str:
    return pictures.names[label] if label >= 0 else ""


def test_packed_photos_come_row_by_row_with_their_labels(tmp_path):
    write_packed(tmp_path / "data")
    pictures = read_packed(tmp_path / "data")
    assert pictures.photos.shape == (24, 3, 64, 64) and pictures.drawings.shape == (12, 128, 128)
    for number, own in enumerate(pictures.photos):
        wanted = torch.from_numpy(np.array(photo(number))).permute(2, 0, 1)
        assert (own.int() - wanted.int()).abs().max() <= 3  # JPEG
    assert [name_of(pictures, label) for label in pictures.fine] == [*CLASSES, *FINE] * 4
    assert [name_of(pictures, label) for label in pictures.everyday] == ["", "", "", "", "cat", "cow"] * 4
    ink = np.asarray(drawing(2).resize((128, 128))) < 128
    assert pictures.names[pictures.drawn[2]] == "owl" and np.array_equal(pictures.drawings[2].numpy(), ink)


def test_folders_of_photos_tell_class_and_everyday_word(tmp_path):
    write_folders(tmp_path / "data")
    pictures = read_photos(tmp_path / "data" / "photos", {}, most=3)
    told = [(name_of(pictures, a), name_of(pictures, b)) for a, b in zip(pictures.fine, pictures.everyday, strict=True)]
    words = {"tabby": "cat", "ox": "cow"}
    assert sorted(told) == sorted((name, words.get(name, "")) for name in [*CLASSES, *FINE] for _ in range(3))
    assert pictures.photos.shape == (18, 3, 64, 64) and len(pictures.drawings) == 0
    again = read_photos(tmp_path / "data" / "photos", {}, most=3)
    assert torch.equal(pictures.photos, again.photos)


def test_drawings_of_quick_draw_keep_their_strokes(tmp_path):
    write_folders(tmp_path / "data")
    pictures = read_drawings(tmp_path / "data" / "drawings", most=2)
    assert [pictures.names[label] for label in pictures.drawn] == ["cat"] * 2 + ["cow"] * 2 + ["owl"] * 2 + [
        "palm tree"
    ]
    assert pictures.drawings[0].unique().tolist() == [0, 1, 2]
    assert pictures.drawings[-1].unique().tolist() == [0, 1]  # an image has no strokes


def test_strokes_are_drawn_large_and_in_the_middle():
    paper = draw_strokes([np.array([[100.0, 7.0], [300.0, 7.0]]), np.array([[200.0, 57.0], [200.0, 57.0]])])
    assert set(np.unique(paper)) == {0, 1, 2}
    rows, columns = np.nonzero(paper == 1)
    assert columns.min() <= 5 and columns.max() >= 122  # as wide as the paper allows
    rows_of_both = np.nonzero(paper)[0]
    assert abs(rows_of_both.min() + rows_of_both.max() - 127) <= 2 and np.ptp(rows) <= 2
    assert np.nonzero(paper == 2)[1].mean() == pytest.approx(63.5, abs=1)


def test_faint_drawings_on_transparent_paper_are_read(tmp_path):
    (tmp_path / "owl").mkdir()
    pixels = np.zeros((200, 100, 4), np.uint8)  # transparent black
    pixels[100, 10:90] = (170, 170, 170, 255)  # one pale line
    Image.fromarray(pixels).save(tmp_path / "owl" / "1.png")
    (own,) = read_drawings(tmp_path, most=1).drawings
    rows, columns = own.nonzero(as_tuple=True)
    assert set(rows.tolist()) <= {63, 64, 65} and 45 <= int(columns.max() - columns.min()) <= 55


def test_merging_makes_one_name_of_spellings():
    def single(names):
        photos = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        return Pictures.of_photos(names, photos, [0], [len(names) - 1])

    drawings = torch.zeros(2, 128, 128, dtype=torch.uint8)
    merged = merge([single(["Alarm_Clock"]), Pictures.of_drawings(["owl", "alarm clock"], drawings, [0, 1])])
    assert merged.names == ["Alarm_Clock", "owl"]
    assert (merged.fine.tolist(), merged.everyday.tolist(), merged.drawn.tolist()) == ([0], [0], [1, 0])
    none = Pictures.of_photos(["owl"], torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [0], [-1])
    assert merge([single(["ant", "bee"]), none]).everyday.tolist() == [1, -1]


def test_left_out_classes_are_gone_and_the_others_unchanged(tmp_path):
    write_packed(tmp_path / "data")
    before = read_packed(tmp_path / "data")
    after, report = leave_out(before, load_split("sketchy2").unseen)
    assert after.names == ["cat", "owl", "tabby"]
    # The plain way: photo by photo, by names.
    kept = [k for k in range(24) if name_of(before, before.fine[k]) in ("cat", "owl", "tabby")]
    assert torch.equal(after.photos, before.photos[kept])
    for place, k in enumerate(kept):
        assert after.names[after.fine[place]] == before.names[before.fine[k]]
        assert name_of(after, after.everyday[place]) == name_of(before, before.everyday[k])
    drawn = [k for k in range(12) if before.names[before.drawn[k]] in ("cat", "owl")]
    assert torch.equal(after.drawings, before.drawings[drawn])
    assert [after.names[label] for label in after.drawn] == [before.names[before.drawn[k]] for k in drawn]
    assert report == {"names": ["cow", "palm tree", "ox"], "photos": 12, "drawings": 6}


def test_names_that_only_contain_a_left_out_class_stay():
    names = ["tree frog", "tree", "Windmill", "cowboy hat", "sliding door", "window screen", "street"]
    photos = torch.zeros(7, 3, 64, 64, dtype=torch.uint8)
    after, _ = leave_out(Pictures.of_photos(names, photos, range(7), [-1] * 7), load_split("sketchy2").unseen)
    assert after.names == ["tree frog", "cowboy hat", "window screen", "street"]


def test_everyday_words_name_each_class_once():
    words = everyday_words()
    assert words["ox"] == "cow" and all(name == name.casefold() for name in [*words, *words.values()])
    assert not {fine for fine, word in words.items() if fine == word}


@pytest.fixture
def batches(tmp_path) -> Batches:
    write_packed(tmp_path / "data")
    torch.manual_seed(0)
    return Batches(read_packed(tmp_path / "data"), 40, 0.2, 0.25, seed=3)


def test_held_back_pictures_are_never_drawn(batches):
    assert sorted([*batches.held_photos.tolist(), *batches.known_photos.tolist()]) == list(range(24))
    assert sorted([*batches.held_drawings.tolist(), *batches.known_drawings.tolist()]) == list(range(12))
    batches.taught = torch.eye(24).half()  # each photo's number
    seen = {int(row) for _ in range(20) for row in batches.draw().taught.argmax(1)}
    assert seen == set(batches.known_photos.tolist())


def test_a_batch_tells_what_its_pictures_are(batches):
    batches.taught = torch.eye(24).half()
    data, mixed = batches.pictures, 0
    for _ in range(10):
        batch = batches.draw()
        photos = len(batch.names)
        assert batch.pixels.shape == (40, 3, 64, 64) and (photos, len(batch.drawn)) == (22, 10)
        rows = batch.taught.argmax(1)
        right = [{int(data.fine[row]), int(data.everyday[row])} - {-1} for row in rows]
        assert all(int(name) in ok for name, ok in zip(batch.names, right, strict=True))
        assert batch.whole[:8].all() and torch.equal(batch.second[batch.whole], batch.names[batch.whole])
        assert not batch.excused.gather(1, batch.names[:, None]).any()
        assert not batch.excused.gather(1, batch.second[:, None]).any()
        for k in range(8):  # not mixed: excused is the other right name and nothing else
            assert set(batch.excused[k].nonzero()[:, 0].tolist()) == right[k] - {int(batch.names[k])}
        # Squares are from other photos of the batch, and each photo lends one.
        assert sorted(batch.second.tolist()) == sorted(batch.names.tolist())
        assert torch.equal(batch.second, batch.names) == bool(batch.whole.all())
        assert (batch.own < 1) == (not batch.whole.all())
        mixed += bool(batch.own < 1)
    assert 0 < mixed < 10


def test_everyday_words_and_class_names_take_turns(batches):
    named = {batches.pictures.names[label] for _ in range(10) for label in batches.draw().names}
    assert named == {*CLASSES, *FINE}
    tabbies = (batches.pictures.fine == 4).nonzero()[:, 0]
    names, excused = batches._named(tabbies.repeat(50))
    assert 0.35 < (names == 4).float().mean() < 0.65  # "tabby" as often as "cat"
    assert torch.equal(excused[:, 0], names == 4) and torch.equal(excused[:, 4], names == 0)


def test_pixels_are_those_of_the_saved_processor():
    from pretraining.backbone import build_processor
    from pretraining.small_clip import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    image = photo(5)
    wanted = build_processor(64, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)(image, return_tensors="pt")["pixel_values"]
    own = normalise(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(own, wanted, atol=1e-5, rtol=0)
    assert normalise(torch.ones(2, 1, 64, 64)).shape == (2, 3, 64, 64)


def test_repeats_count_pictures(batches):
    assert batches.repeats(23) == {"photos": round(23 * 22 / 23, 1), "drawings": round(23 * 10 / 11, 1)}


def test_meta_with_a_coarse_list_of_another_length_is_named(tmp_path):
    write_packed(tmp_path / "data")
    file = tmp_path / "data" / "meta.json"
    meta = json.loads(file.read_text())
    file.write_text(json.dumps(meta | {"coarse": meta["coarse"][1:]}))
    with pytest.raises(ValueError, match="24 entries in 'fine' and 23 in 'coarse'"):
        read_packed(tmp_path / "data")
