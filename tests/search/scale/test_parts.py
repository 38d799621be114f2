"""How sources are cut into parts, what archives hold, and what a folder of shards knows; no Ray is needed."""

import functools
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import datasets
import galleries
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import Hub
from launch import ROOT, run

from modeling_splip.commands.main import main
from modeling_splip.search.photos import Photo, find_photos
from modeling_splip.search.scale import ray_encode
from modeling_splip.search.scale.archives import Group
from modeling_splip.search.scale.shards import ShardFacts, ShardFolder, shard_bytes
from modeling_splip.search.scale.sources import Part, PartedSource, find_source, listed_parts
from modeling_splip.search.table import table_features

find = functools.partial(find_source, split=None, follow_paths=False, size=4)


def picture(seed: int) -> bytes:
    content = io.BytesIO()
    galleries.draw(seed, "red").save(content, "PNG")
    return content.getvalue()


def photos_of(source: PartedSource) -> list[Photo]:
    return [photo for part in source.parts for group in part.groups() for photo in group.photos]


def make_tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))
    return file


@pytest.fixture
def samples(tmp_path) -> Path:
    """A tar of ten samples as WebDataset has them."""
    members = {}
    for number in range(10):
        members[f"{number:04d}.cls"] = f"{number % 2}\n".encode()
        members[f"{number:04d}.json"] = b"{}"
        members[f"{number:04d}.png"] = picture(number)
    return make_tar(tmp_path / "a.tar", members)


def test_a_tar_of_samples(samples):
    (part,) = find(str(samples)).parts
    groups = list(part.groups())
    assert [len(group.photos) for group in groups] == [4, 4, 2]
    photos = [photo for group in groups for photo in group.photos]
    assert [photo.path for photo in photos] == [f"a.tar/{number:04d}.png" for number in range(10)]
    assert [photo.label for photo in photos] == ["0", "1"] * 5
    assert [photo.read() for photo in photos] == [picture(number) for number in range(10)]
    assert [dict(group.left_out) for group in groups] == [{".json": 4}, {".json": 4}, {".json": 2}]


def test_a_tar_of_folders_with_what_systems_leave(tmp_path):
    members = {f"./cup/{n}.v{n}.png": picture(n) for n in range(3)}
    members |= {"./cup/._0.png": b"", "./@eaDir/cup/0.png": b"", "./cup/film.mp4": b""}
    source = find(str(make_tar(tmp_path / "a.tar", members)))
    assert [(photo.path, photo.label) for photo in photos_of(source)] == [
        (f"a.tar/cup/{n}.v{n}.png", "cup") for n in range(3)
    ]
    assert [group.left_out for group in source.parts[0].groups()] == [{".mp4": 1}]


def test_joined_tars_are_read_to_the_end(tmp_path, samples):
    (tmp_path / "b.tar").write_bytes(samples.read_bytes() + samples.read_bytes())
    assert len(photos_of(find(str(tmp_path / "b.tar")))) == 20


@pytest.mark.parametrize("damage", ["cut inside a photo", "cut between photos", "header"])
def test_no_photo_of_a_damaged_tar_is_lost_silently(samples, damage):
    with tarfile.open(samples) as tar:
        places = [member.offset for member in tar]
    content = bytearray(samples.read_bytes())
    if damage == "header":
        content[places[15] : places[15] + 100] = b"?" * 100
    samples.write_bytes(
        content[: {"cut inside a photo": places[15] - 300, "cut between photos": places[15]}.get(damage)]
    )
    with pytest.raises(OSError, match=r"'.*a\.tar' cannot be read \(.*\): replace or remove it, and run the same"):
        photos_of(find(str(samples)))


@pytest.mark.parametrize("image", ["feature", "struct", "binary"])
def test_parquet_files_of_any_writer(tmp_path, image):
    labels = datasets.ClassLabel(names=["cup", "owl"])
    for file in range(2):
        numbers = range(10 * file, 10 * file + 10)
        cells = [{"bytes": picture(n), "path": None} for n in numbers]
        columns = {"photo": cells, "label": [n % 2 for n in numbers], "price": [n / 2 for n in numbers]}
        if image == "feature":
            features = {"photo": datasets.Image(), "label": labels, "price": datasets.Value("float64")}
            table = datasets.Dataset.from_dict(columns, features=datasets.Features(features)).data.table
        else:
            columns["photo"] = cells if image == "struct" else [cell["bytes"] for cell in cells]
            table = pa.table(columns)
        pq.write_table(table, tmp_path / f"{file}.parquet", row_group_size=6)
    source = find(str(tmp_path))
    assert [part.count for part in source.parts] == [6, 4, 6, 4]
    assert [len(group.photos) for part in source.parts for group in part.groups()] == [4, 2, 4, 4, 2, 4]
    found = photos_of(source)
    assert [photo.path for photo in found] == [f"{n // 10}.parquet/{n % 10:07d}" for n in range(20)]
    assert [photo.read() for photo in found] == [picture(n) for n in range(20)]
    classes = labels.names if image == "feature" else ["0", "1"]
    assert [photo.label for photo in found] == [classes[n % 2] for n in range(20)]
    assert [photo.metadata for photo in found] == [{"price": n / 2} for n in range(20)]


def test_a_prepared_data_set_has_the_names_of_every_build(prepared):
    plain, found = find_photos(str(prepared)), find(str(prepared))
    key = [(photo.path, photo.label, photo.metadata, photo.read()) for photo in plain.photos]
    assert [(photo.path, photo.label, photo.metadata, photo.read()) for photo in photos_of(found)] == key
    assert (found.metadata, found.drawn) == (plain.metadata, plain.drawn)


def test_photos_in_a_folder_behind_an_address(tmp_path):
    folder = galleries.make_photos(tmp_path / "photos", 12)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "1.png").touch()
    (folder / "notes.txt").touch()
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in filter(Path.is_file, folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    here, there = find(str(folder)), find(f"zip://::file://{tmp_path}/photos.zip")
    assert [(photo.label, photo.size, photo.read()) for photo in there.photos] == [
        (photo.label, photo.size, photo.read()) for photo in here.photos
    ]
    assert there.left_out == here.left_out == {".txt": 1}
    assert there.photos[0].path == "zip://ant/002.png" and there.root == ""
    assert [photo.mtime_ns for photo in find(f"file://{folder}").photos] == [photo.mtime_ns for photo in here.photos]
    some = find(f"zip://*/00?.png::file://{tmp_path}/photos.zip").photos
    assert [photo.read() for photo in some] == [photo.read() for photo in here.photos if "/00" in photo.path]


def test_few_parts_change_with_a_photo():
    photos = [Photo(f"cup/{number:05d}.jpg", "cup", 1, number, bytes) for number in range(5000)]
    parts = listed_parts(photos, 32)
    assert sum(part.count for part in parts) == 5000 and max(part.count for part in parts) <= 64
    before = {part.key for part in parts}
    for changed in (photos[1:], [*photos[:99], *photos[100:]], [Photo("a.jpg", "", 1, 1, bytes), *photos]):
        assert len({part.key for part in listed_parts(changed, 32)} - before) <= 3
    touched = [*photos[:99], Photo(photos[99].path, "cup", 1, 7, bytes), *photos[100:]]
    assert len({part.key for part in listed_parts(touched, 32)} - before) == 1


def test_a_changed_archive_is_another_part(samples):
    before = find(str(samples)).parts[0].key
    assert find(str(samples)).parts[0].key == before
    os.utime(samples, (1, 1))
    assert find(str(samples)).parts[0].key != before


def test_shards_are_finished_or_not_there(tmp_path):
    features = table_features(4, {"price": datasets.Value("float32")})
    vectors = np.eye(4, dtype=np.float32)
    facts = {"label": "", "sha256": "0" * 64, "size": 1, "mtime_ns": 1, "width": 1, "height": 1, "price": 0.5}
    shown = {"thumbnail": {"bytes": b"", "path": None}}
    rows = [{"path": str(n), "embedding": vectors[n], **facts, **shown} for n in range(4)]
    parts = [Part("ab00", lambda: iter([])), Part("cd00", lambda: iter([]))]
    folder = ShardFolder(tmp_path / "model" / "columns")
    bad = [{"path": "x\udcff", "reason": "no image"}]
    folder.add("cd00", 1, shard_bytes(rows[2:], features, ShardFacts(True)))
    assert not folder.is_finished(parts[1])  # the first one is missing
    folder.add("cd00", 0, shard_bytes(rows[1:2], features, ShardFacts(False, bad, {".txt": 1})))
    folder.add("ab00", 0, shard_bytes(rows[:1], features, ShardFacts(True, [], {".txt": 2})))
    folder.add("ef00", 0, shard_bytes([], features, ShardFacts(True)))
    again = ShardFolder(folder.folder)
    assert again.facts == folder.facts and all(map(again.is_finished, parts))
    table = again.reader(parts).take(range(4))
    assert table["path"].to_pylist() == list("0123")
    assert np.array_equal(np.array(table["embedding"].to_pylist()), vectors)
    assert again.summary(parts) == (bad, {".txt": 3})
    (tmp_path / "model" / "other").mkdir()
    again.keep_only(parts)
    assert sorted(ShardFolder(folder.folder).facts) == ["ab00", "cd00"] and not (tmp_path / "model" / "other").exists()
    file = again.file("cd00", 0)
    file.write_bytes(file.read_bytes()[:-9])
    (file.parent / "cd00-000002.tmp").touch()
    assert not ShardFolder(folder.folder).is_finished(parts[1])
    assert [path.name for path in file.parent.iterdir()] == ["cd00-000001.parquet"]


def test_groups_are_numbered_and_the_last_one_is_known():
    groups = [Group([Photo(str(n), "", 0, -1, bytes)]) for n in range(3)]
    for expected in (groups, []):
        found = list(ray_encode._numbered(Part("00", lambda expected=expected: iter(expected))))
        assert [group for _, group, _ in found] == (expected or [Group([])])
        assert [number for number, _, _ in found] == list(range(max(1, len(expected))))
        assert [last for _, _, last in found] == [False] * (len(found) - 1) + [True]


def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.nef").touch()
    (tmp_path / "other").mkdir()
    for name, columns in (("a", {"image": [b"", b""]}), ("b", {"image": [b""], "x": [1]})):
        pq.write_table(pa.table(columns), tmp_path / "other" / f"{name}.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    for place, sentence in (
        ("nowhere", r"There is no folder '.*nowhere': pass a folder of photos"),
        ("nowhere/*.tar", r"There is nothing at '.*nowhere/\*\.tar': check the address"),
        ("empty", r"There is nothing at '.*empty'"),
        ("notes", r"has no photo, Parquet file or tar at any depth \(1 file left out: 1 \.nef \(convert to JPEG\)\)"),
        ("other", r"'.*b\.parquet' has other columns than '.*a\.parquet': pass Parquet files of the same columns\."),
        ("x.parquet", r"has no image column, only x: pass one with images\."),
        ("torn.parquet", r"'.*torn\.parquet' cannot be read \(.*\): replace or remove it"),
    ):
        with pytest.raises((FileNotFoundError, ValueError, OSError), match=sentence):
            find(str(tmp_path / place))
    with pytest.raises(OSError, match=r"'nonsense://a' cannot be read \(Protocol not known: nonsense\)\."):
        find("nonsense://a")


def test_the_command_without_ray_or_with_half_of_its_options(tmp_path, monkeypatch, capsys):
    folder, out = str(galleries.make_photos(tmp_path / "photos", 3)), str(tmp_path / "G")
    words = ["index", folder, "--model", "clip:mini_clip", "--out", out]
    assert main([*words, "--address", "auto"]) == 2
    assert "--address names a Ray cluster: pass --on ray with it, or leave it out." in capsys.readouterr().err
    find_spec = ray_encode.importlib.util.find_spec
    monkeypatch.setattr(
        ray_encode.importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find_spec(name, *more)
    )
    assert main([*words, "--on", "ray"]) == 2
    assert "--on ray needs Ray, which is not installed: pip install 'splip[ray]'." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_data_set_on_the_hub_is_read_there(tmp_path):
    """As `splip index` without Ray names its photos, which downloads it first."""
    numbers = range(10)
    labels = datasets.ClassLabel(names=["cup", "owl"])
    features = datasets.Features({"image": datasets.Image(), "label": labels, "id": datasets.Value("int64")})
    (tmp_path / "repository" / "data").mkdir(parents=True)
    for file in range(2):
        part = numbers[5 * file : 5 * file + 5]
        cells = [{"bytes": picture(n), "path": None} for n in part]
        columns = {"image": cells, "label": [n % 2 for n in part], "id": list(part)}
        data = datasets.Dataset.from_dict(columns, features=features)
        data.to_parquet(tmp_path / "repository" / "data" / f"train-{file:05d}-of-00002.parquet")
    (tmp_path / "repository" / "README.md").write_text("# Photos\n")
    script = (
        "from modeling_splip.search.scale.sources import find_source\n"
        "from modeling_splip.search.photos import find_photos\n"
        "parts = find_source('owner/photos', None, False, 4).parts\n"
        "found = [photo for part in parts for group in part.groups() for photo in group.photos]\n"
        "for photos in found, find_photos('owner/photos').photos:\n"
        "    print([(photo.path, photo.label, photo.metadata, photo.read().hex()) for photo in photos])\n"
    )
    hub = Hub()
    hub.put("owner/photos", tmp_path / "repository", "dataset")
    environment = hub.environment(tmp_path / "cache") | {"PYTHONPATH": str(ROOT)}
    done = run([sys.executable, "-c", script], env=environment, cwd=tmp_path)
    hub.close()
    assert done.returncode == 0, done.stderr[-2000:]
    here, downloaded = done.stdout.splitlines()
    wanted = [(f"train/{n:07d}", labels.names[n % 2], {"id": n}, picture(n).hex()) for n in numbers]
    assert here == downloaded == str(wanted)
