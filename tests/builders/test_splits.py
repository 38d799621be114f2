"""The class lists that come with the package, and how names are matched."""

import json
from pathlib import Path

import pytest

from datasets_scripts.splits import (
    FOLDER,
    load_classes,
    load_split,
    resolve,
    split_names,
)
from modeling_splip.common.text import readable, spelling_key

PROTOCOL = Path(__file__).resolve().parents[3] / "shared" / "protocol" / "splits"
SIZES = {
    "sketchy1": (100, 25),
    "sketchy2": (104, 21),
    "sketchy1-sempcyc": (100, 25),
    "sketchy21": (0, 21),
    "sketchy21-fold0": (14, 7),
    "sketchy21-fold1": (14, 7),
    "sketchy21-fold2": (14, 7),
    "tuberlin": (220, 30),
    "tuberlin-sempcyc": (220, 30),
    "tuberlin-kdsbir": (220, 30),
    "quickdraw": (80, 30),
    "quickdraw-kdsbir": (80, 30),
    "open23-fold0": (17, 6),
    "open23-fold1": (17, 6),
    "open23-fold2": (18, 5),
    "real-mini": (16, 6),
    "real-fg": (2, 1),
}


def total(split: str, part: str, half: str = "unseen") -> int:
    chosen = load_split(split)
    counts = load_classes(chosen.dataset).counts
    return sum(counts[name][part] for name in getattr(chosen, half))


@pytest.mark.parametrize("name", SIZES)
def test_a_packaged_split_has_its_known_size_and_a_source(name):
    split = load_split(name)
    assert (len(split.seen), len(split.unseen)) == SIZES[name]
    assert len({*split.seen, *split.unseen}) == sum(SIZES[name])
    assert split.source
    if split.dataset:
        known = set(load_classes(split.dataset).counts)
        classes = {*split.seen, *split.unseen}
        assert classes == (set(load_split("sketchy2").unseen) if name.startswith("sketchy21") else known)


def test_every_split_file_is_listed():
    assert split_names() == sorted(SIZES)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("sketchy1", "sketchy1-sempcyc", 4),
        ("tuberlin", "tuberlin-sempcyc", 1),
        ("tuberlin", "tuberlin-kdsbir", 3),
        ("quickdraw", "quickdraw-kdsbir", 14),
    ],
)
def test_alternates_share_as_many_unseen_classes_as_their_sources_say(one, other, shared):
    assert len(set(load_split(one).unseen) & set(load_split(other).unseen)) == shared


def test_the_protocol_page_counts_the_classes_that_other_benchmarks_have_seen():
    def seen(trained: str, evaluated: str) -> int:
        keys = {spelling_key(name) for name in load_split(trained).seen}
        return sum(spelling_key(name) in keys for name in load_split(evaluated).unseen)

    page = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text("utf-8")
    assert (seen("sketchy1", "sketchy2"), seen("sketchy1", "quickdraw")) == (17, 19)
    assert "seen 17 of the 21 unseen classes of Sketchy split 2, and 19 of QuickDraw's 30" in page
    assert [seen("sketchy2", other) for other in ("sketchy1", "tuberlin", "quickdraw")] == [21, 10, 8]
    assert "seen 21 of the 25 of split 1, 10 of TU-Berlin's 30 and 8 of QuickDraw's 30" in page


def test_known_counts_add_up_to_the_published_totals():
    assert total("sketchy2", "sketch") == 12_694
    assert total("sketchy2", "extended") == 10_453
    assert total("sketchy2", "original") == 2_100
    assert total("sketchy2", "sketch", "seen") == 57_587 + 5_200
    assert total("sketchy1", "sketch") == 15_229
    assert total("sketchy1", "extended") == 14_601
    assert total("tuberlin", "photo") == 27_989
    assert total("tuberlin", "sketch") == 2_400
    assert total("quickdraw", "sketch") == 92_291
    assert total("quickdraw", "photo") == 54_151


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sketchy1", "sketchy_split1_100_25"),
        ("sketchy2", "sketchy_split2_104_21"),
        ("tuberlin", "tuberlin_220_30"),
        ("quickdraw", "quickdraw_80_30"),
    ],
)
def test_the_lists_are_those_of_the_archives(name, file):
    if not PROTOCOL.is_dir():
        pytest.skip(f"the archives' own lists are not at {PROTOCOL}")
    data, split = json.loads((PROTOCOL / f"{file}.json").read_text("utf-8")), load_split(name)
    spellings = load_classes(split.dataset).spellings
    for ours, theirs in ((split.seen, data["train"]), (split.unseen, data["test"])):
        for key in ("folder", "sem_pcyc_folder", "photo_folder_original_zip"):
            assert list(ours) == [spellings[spelling_key(entry.get(key, entry["folder"]))] for entry in theirs]


@pytest.mark.parametrize(
    ("dataset", "folder", "name"),
    [
        ("sketchy", "hot_air_balloon", "hot air balloon"),
        ("sketchy", "jack_o_lantern", "jack-o-lantern"),
        ("sketchy", "hotdog", "hot dog"),
        ("tuberlin", "griaffe", "giraffe"),
        ("tuberlin", "wristwatching", "wrist watch"),
        ("tuberlin", "spacesshuttle", "space shuttle"),
        ("tuberlin", "mouse_(animal)", "mouse"),
        ("tuberlin", "computermouse", "computer mouse"),
        ("tuberlin", "t_shirt", "t-shirt"),
        ("quickdraw", "effiel_tower", "Eiffel Tower"),
        ("quickdraw", "palm_tree", "palm tree"),
        ("quickdraw", "hot-air_balloon", "hot air balloon"),
    ],
)
def test_folder_spellings_of_all_archives_are_mapped(dataset, folder, name):
    assert load_classes(dataset).spellings[spelling_key(folder)] == name


@pytest.mark.parametrize("dataset", ["sketchy", "tuberlin", "quickdraw"])
def test_no_spelling_stands_for_two_classes(dataset):
    data = json.loads((FOLDER / f"classes-{dataset}.json").read_text("utf-8"))
    class_of: dict[str, str] = {}
    for entry in data["classes"]:
        for spelling in entry["spellings"]:
            assert class_of.setdefault(spelling_key(spelling), entry["name"]) == entry["name"], spelling


def test_readable_names():
    assert readable("stop_sign") == "stop sign"
    assert readable("t-shirt") == "t-shirt"


def test_an_unknown_class_is_named_with_the_nearest_known_spelling():
    known = {spelling_key(name): name for name in ("giraffe", "hot air balloon")}
    assert resolve(["Hot_Air-Balloon"], known, "the list") == ["hot air balloon"]
    with pytest.raises(ValueError, match=r"'girafe' \(nearest known: 'giraffe'\).*'zzz'"):
        resolve(["girafe", "zzz", "giraffe"], known, "the list")
    with pytest.raises(ValueError, match="'giraffe' occurs twice"):
        resolve(["giraffe", "Giraffe"], known, "the list")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"seen": ["a"]}', "must hold"),
        ('{"seen": "a", "unseen": ["b"]}', "must hold"),
        ('{"seen": ["ice cream"], "unseen": ["ice_cream"]}', "both as seen and as unseen"),
    ],
)
def test_a_wrong_split_file_stops(tmp_path, content, message):
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_split(str(tmp_path / "split.json"))


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="sketchy2"):
        load_split("sketchy3")
