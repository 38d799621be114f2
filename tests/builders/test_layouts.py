"""Every archive layout in circulation is recognised by itself, from lists of files."""

import tarfile
import zipfile
from collections import Counter

import archives
import pytest

from datasets_scripts.archive import Member, list_files
from datasets_scripts.layouts import check_complete, find, read_list
from datasets_scripts.splits import load_classes
from datasets_scripts.verify import count_differences, merge_photos, names_taken_twice

SKETCHY_COUNTS = {
    "sake": {"sketch": 375, "original": 250, "extended": 375},
    "sempcyc": {"sketch": 375, "original": 250, "extended": 375},
    "forks": {"sketch": 375, "photo": 376},
    "clipprompt": {"sketch": 375, "photo": 376},
}
TREES = {
    "sake": (archives.sketchy_sake, "SAKE and ZSE-SBIR"),
    "sempcyc": (archives.sketchy_sempcyc, "sem-pcyc and doodle2search"),
    "forks": (lambda: archives.forked(archives.sketchy_sempcyc(), "root/"), "CLIP forks"),
    "clipprompt": (lambda: archives.clipprompt(archives.sketchy_sempcyc()), "ClipPrompt"),
}


def members(tree: archives.Tree) -> list[Member]:
    """The tree as plain files that are never read."""
    return [Member(path, len(content), "", f"/nowhere/{path}") for path, content in sorted(tree.items())]


def recognise(tree: archives.Tree, dataset: str = "sketchy"):
    return find(members(tree), dataset, load_classes(dataset).spellings)


def counts(found) -> dict[str, int]:
    return {part: len(files) for part, files in found.parts.items() if files}


@pytest.mark.parametrize("kind", TREES)
def test_sketchy_layouts(kind):
    make, name = TREES[kind]
    found = recognise(make())
    assert found.layout == name
    assert counts(found) == SKETCHY_COUNTS[kind]
    assert set(found.parts["sketch"].values()) == set(load_classes("sketchy").counts)


def test_sketchy_as_a_table_of_another_machines_paths(tmp_path):
    root = archives.write(archives.table(archives.sketchy_sempcyc()), tmp_path / "data")
    found = find(list_files(root), "sketchy", load_classes("sketchy").spellings)
    assert found.layout == "MA-ZS-SBIR table"
    assert counts(found) == {"sketch": 375, "photo": 376}
    (root / "somewhere/pictures/bat/ext_1.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 files of the CSV table are not in --data-dir.*bat/ext_1\.jpg"):
        find(list_files(root), "sketchy", load_classes("sketchy").spellings)


@pytest.mark.parametrize("make", [archives.tuberlin_sake, archives.tuberlin_sempcyc])
def test_tuberlin_layouts(make):
    found = recognise(make(), "tuberlin")
    per_class = Counter(found.parts["photo"].values())
    assert len(per_class) == 250 and len(set(per_class.values())) == 1
    assert len(found.parts["sketch"]) == 250


def test_quickdraw_with_its_junk(tmp_path):
    root = archives.write(archives.quickdraw(), tmp_path / "data")
    found = find(list_files(root), "quickdraw", load_classes("quickdraw").spellings)
    assert counts(found) == {"sketch": 110, "photo": 220}
    assert sorted(found.junk) == ["QuickDraw/images/cactus/s.sh", "QuickDraw/images/class_labels.txt"]
    assert list(found.parts["photo"].values()).count("Eiffel Tower") == 2


def test_quickdraw_as_two_zip_files_in_one_folder(tmp_path):
    tree = archives.quickdraw()
    for kind in ("sketches", "images"):
        half = {p.split("/", 2)[2]: c for p, c in tree.items() if p.split("/")[1] == kind}
        archives.write(half, tmp_path / f"QuickDraw_{kind}_final.zip")
    found = find(list_files(tmp_path), "quickdraw", load_classes("quickdraw").spellings)
    assert counts(found) == {"sketch": 110, "photo": 220}


def test_each_dataset_is_found_among_its_neighbours(tmp_path):
    tree = archives.sketchy_sake() | archives.tuberlin_sempcyc() | archives.quickdraw()
    root = archives.write(tree, tmp_path / "data")
    files = list_files(root)
    for dataset, sketches in (("sketchy", 375), ("tuberlin", 250), ("quickdraw", 110)):
        assert len(find(files, dataset, load_classes(dataset).spellings).parts["sketch"]) == sketches


def test_the_official_archive_alone_is_enough_for_instance_pairs():
    tree = {path: content for path, content in archives.sketchy_sempcyc().items() if "extended_photo" not in path}
    tree = {path.replace("Sketchy/", "256x256/"): content for path, content in tree.items()}
    assert counts(recognise(tree)) == {"sketch": 375, "original": 250}


def test_two_copies_of_one_dataset_stop():
    tree = archives.forked(archives.sketchy_sempcyc(), "one/") | archives.forked(archives.sketchy_sempcyc(), "two/")
    with pytest.raises(ValueError, match="both 'one/sketch', 'two/sketch': keep one of them"):
        recognise(tree)


def test_two_names_of_one_folder_are_two_copies_and_halves_are_one():
    tree = archives.tuberlin_sempcyc()
    tree |= {path.replace("/sketches/", "/png/"): content for path, content in tree.items() if "/sketches/" in path}
    with pytest.raises(ValueError, match="in both 'TU-Berlin/png', 'TU-Berlin/sketches': keep one of them"):
        recognise(tree, "tuberlin")
    del tree["TU-Berlin/png/giraffe/1.png"]  # no longer a whole copy
    assert set(recognise(tree, "tuberlin").parts["sketch"].values()) == set(load_classes("tuberlin").counts)


def test_files_below_a_class_folder_are_named():
    tree = archives.tuberlin_sake() | {"TUBerlin/ImageResized_ready/giraffe/more/x.JPEG": archives.image("x")}
    found = recognise(tree, "tuberlin")
    assert found.too_deep == ["TUBerlin/ImageResized_ready/giraffe/more/x.JPEG"]
    assert counts(found) == {"sketch": 250, "photo": 500}


def test_resource_forks_of_another_system_are_not_a_second_copy():
    tree = archives.forked(archives.sketchy_sempcyc(), "one/")
    tree |= {f"__MACOSX/{path.rpartition('/')[0]}/._{path.rpartition('/')[2]}": b"" for path in tree}
    found = recognise(tree)
    assert counts(found) == SKETCHY_COUNTS["forks"]
    assert sum(found.ignored.values()) == len(tree) // 2


def test_an_unknown_class_folder_stops_with_the_nearest_spelling():
    tree = {path.replace("/giraffe/", "/girafe/"): content for path, content in archives.sketchy_sake().items()}
    with pytest.raises(ValueError, match=r"'girafe' \(nearest known: 'giraffe'\)"):
        recognise(tree)


def test_a_missing_class_stops_with_its_name():
    tree = {
        path: content
        for path, content in archives.sketchy_sake().items()
        if "sketch/tx_" not in path or "/bat/" not in path
    }
    found = recognise(tree)
    check_complete(found, ["cat"])
    with pytest.raises(ValueError, match="There is no sketch in a folder for 'bat'"):
        check_complete(found, ["cat", "bat"])


def test_no_known_layout_says_what_is_expected():
    with pytest.raises(
        ValueError, match=r"--data-dir has no known layout of sketchy.*EXTEND_image_sketchy_ready/<class>/"
    ):
        recognise({"a/b/c.jpg": b""})
    with pytest.raises(ValueError, match=r"unpack 'Sketchy\.7z' first"):
        recognise({"Sketchy.7z": b""})


def test_known_counts_are_compared_per_class_and_part():
    found = recognise(archives.sketchy_sake())
    classes = load_classes("sketchy")
    lines = count_differences(found, classes, classes.counts)
    assert len(lines) == 3 * 125 and len(count_differences(found, classes, ["bat", "cow"])) == 3 * 2
    assert "skyscraper: 3 extended files, 161 known" in lines
    found = recognise(archives.forked(archives.sketchy_sempcyc()))
    assert "skyscraper: 3 photo files, 161 known" in count_differences(found, classes, classes.counts)


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar", ".tar.gz"])
def test_folders_and_archives_list_and_read_the_same(tmp_path, suffix):
    tree = archives.quickdraw()
    root = archives.write(tree, tmp_path / f"data{suffix}")
    files = list_files(root, scratch=tmp_path / "scratch")
    assert {file.path: file.read() for file in files} == tree
    assert all(file.size == len(tree[file.path]) for file in files)


def test_links_in_a_tar_file_are_the_files_that_they_name(tmp_path):
    tree = {f"./photo/{number}.jpg": bytes([number]) * 9 for number in range(2)}
    root = archives.write(tree, tmp_path / "data.tar")
    links = [("./photo/hard.jpg", "./photo/0.jpg", tarfile.LNKTYPE), ("./photo/soft.jpg", "1.jpg", tarfile.SYMTYPE)]
    links += [("./other/two.jpg", "../photo/soft.jpg", tarfile.SYMTYPE), ("./gone.jpg", "gone.jpg", tarfile.SYMTYPE)]
    with tarfile.open(root, "a") as archive:
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    read = {file.path: file.read() for file in list_files(root)}
    zero, one = tree.values()
    linked = {"photo/hard.jpg": zero, "photo/soft.jpg": one, "other/two.jpg": one, "gone.jpg": b""}
    assert read == {"photo/0.jpg": zero, "photo/1.jpg": one} | linked


def test_zip_files_of_careless_packers(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name in ("photo\\", "photo\\cat\\"):  # folders, as some packers for Windows write them
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            archive.writestr(entry, b"")
        archive.writestr("photo/cat/a.jpg", b"old")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("photo/cat/a.jpg", b"new")
        archive.writestr("photo/kXXr/a.jpg", b"accent")
    content = (tmp_path / "data.zip").read_bytes()
    (tmp_path / "data.zip").write_bytes(content.replace(b"kXXr", "kür".encode()))  # in UTF-8, and no flag that says so
    files = list_files(tmp_path / "data.zip")
    assert {file.path: file.read() for file in files} == {"photo/cat/a.jpg": b"new", "photo/kür/a.jpg": b"accent"}


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_a_torn_archive_stops_and_leaves_nothing(tmp_path, suffix):
    root = archives.write(archives.quickdraw(), tmp_path / f"data{suffix}")
    root.write_bytes(root.read_bytes()[: root.stat().st_size // 2 + 100])
    with pytest.raises(ValueError, match=r"damaged or incomplete|only a part of one: get the file again"):
        list_files(root, scratch=tmp_path / "scratch")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != root]


def test_a_folder_that_links_to_itself_is_listed_once(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(b"x")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "gone.jpg").symlink_to(tmp_path / "nothing")
    assert [(file.path, file.size) for file in list_files(tmp_path / "data")] == [("a.jpg", 1), ("gone.jpg", 0)]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing", FileNotFoundError, "There is no data folder"),
        ("empty", ValueError, "is empty"),
        ("file.7z", ValueError, "neither a folder, a zip file nor a tar file"),
        ("void.tar", ValueError, "neither a folder"),
    ],
)
def test_wrong_data_folders_stop(tmp_path, name, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.7z").write_bytes(b"7z\xbc\xaf")
    (tmp_path / "void.tar").write_bytes(b"")
    with pytest.raises(error, match=message):
        list_files(tmp_path / name)


def test_list_files_are_split_on_the_last_space(tmp_path):
    (tmp_path / "list.txt").write_text("a b/hot air balloon/x 1.jpg 3\nEXTEND/hot air balloon/x 1.jpg 3\n\n")
    counted = read_list(list_files(tmp_path)[0])
    assert counted == {("hot air balloon", "x 1.jpg"): 2}


def test_photos_are_merged_by_name_and_by_bytes_within_a_class(tmp_path):
    cat, dog = "256x256/photo/tx_000000000000_ready/cat", "256x256/photo/tx_000000000000_ready/dog"
    extend = "EXTEND_image_sketchy_ready"
    same = archives.image("same")
    tree = {
        f"{cat}/n1_1.jpg": same,
        f"{extend}/cat/n1_1.jpg": archives.image("other size", size=16),
        f"{extend}/cat/c.jpg": same,
        f"{extend}/cat/d.jpg": archives.image("other size", size=16),
        f"{extend}/cat/e.jpg": archives.image("same", size=16),
        f"{dog}/n2_1.jpg": same,
        f"{extend}/dog/empty1.jpg": b"",
        f"{extend}/dog/empty2.jpg": b"",
        "256x256/sketch/tx_000000000000_ready/cat/n1_1-1.png": archives.image("s", "PNG"),
        "256x256/sketch/tx_000000000000_ready/dog/n2_1-1.png": archives.image("s", "PNG"),
    }
    files = list_files(archives.write(tree, tmp_path / "data"))
    photos, merged = merge_photos(find(files, "sketchy", {"cat": "cat", "dog": "dog"}))
    assert sorted((photo.member.path.split("/", 1)[1], sorted(photo.names)) for photo in photos) == [
        ("cat/e.jpg", ["e.jpg"]),
        ("dog/empty1.jpg", ["empty1.jpg"]),
        ("dog/empty2.jpg", ["empty2.jpg"]),
        ("photo/tx_000000000000_ready/cat/n1_1.jpg", ["c.jpg", "d.jpg", "n1_1.jpg"]),
        ("photo/tx_000000000000_ready/dog/n2_1.jpg", ["n2_1.jpg"]),
    ]
    assert merged["same_name_other_size"] == [f"{cat}/n1_1.jpg"]
    assert sorted(merged["same_bytes"]) == [f"{extend}/cat/c.jpg", f"{extend}/cat/d.jpg"]


def test_different_photos_of_one_name_in_the_halves_of_an_archive_stay_apart(tmp_path):
    tree = {f"{half}/photo/cat/1.jpg": archives.image(half) for half in ("train", "val")}
    tree |= {f"{half}/photo/cat/2.jpg": archives.image("two") for half in ("train", "val")}
    tree |= {"train/sketch/cat/s.jpg": archives.image("s")}
    found = find(list_files(archives.write(tree, tmp_path / "data")), "sketchy", {"cat": "cat"})
    photos, merged = merge_photos(found)
    paths = ["train/photo/cat/1.jpg", "val/photo/cat/1.jpg"]
    assert sorted(photo.member.path for photo in photos) == [paths[0], "train/photo/cat/2.jpg", paths[1]]
    assert names_taken_twice(photos) == paths and merged["same_bytes"] == ["val/photo/cat/2.jpg"]
