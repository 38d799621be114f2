"""Galleries: what is indexed, what is found, what is kept, and what is left after a crash."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import faiss
import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from modeling_splip import gallery_build, gallery_index
from modeling_splip.cli import main
from modeling_splip.gallery import Gallery
from modeling_splip.gallery_build import build_gallery
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.registry import load_retriever

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ["red", "green", "blue", "orange", "purple", "teal", "brown", "grey"]


def draw(seed: int, background: str = "white") -> Image.Image:
    """A picture of three random shapes; on white in black ink it serves as a sketch."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (40, 30), background)
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, w, h = rng.integers(0, 20, 4)
        ink = "black" if background == "white" else COLOURS[int(rng.integers(8))]
        getattr(pen, str(rng.choice(["ellipse", "rectangle"])))([x, y, x + w + 3, y + h + 3], outline=ink, width=2)
    return image


def make_photos(folder: Path, count: int = 24, classes: tuple[str, ...] = ("cup", "zebra", "ant")) -> Path:
    for number in range(count):
        label = classes[number % len(classes)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        draw(number, COLOURS[number % 8]).save(folder / label / f"{number:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Each test is a machine of its own: it has signed no index yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def name(tiny_clip):
    return f"clip:{tiny_clip}"


@pytest.fixture(scope="module")
def pair(name):
    return load_retriever(name)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture
def gallery(photos, pair, name, tmp_path):
    return Gallery.build(photos, *pair, tmp_path / "G", model_name=name, progress=False)


def embeddings(pair, images, modality):
    model, processor = pair
    return model.encode(processor(images=images, modality=modality)["pixel_values"], modality).numpy()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def same(found, wanted) -> bool:
    """Whether these are the same photos in the same order, with scores equal but for rounding in a batch."""
    names = [[Path(result.path).name for result in results] for results in (found, wanted)]
    scores = [[result.score for result in results] for results in (found, wanted)]
    return names[0] == names[1] and np.allclose(*scores, atol=1e-6)


# --- what is found ---------------------------------------------------------------------------------------------------


def test_search_ranks_as_the_plain_product(gallery, photos, pair):
    paths = sorted(photos.rglob("*.png"))
    stored = np.concatenate([embeddings(pair, [path], "photo") for path in paths])  # (N, D)
    sketches = [draw(100), draw(101)]
    scores = embeddings(pair, sketches, "sketch") @ stored.T  # (2, N)
    found = gallery.search(sketches, k=5)
    for query, results in enumerate(found):
        best = np.argsort(-scores[query])[:5]
        assert [Path(result.path) for result in results] == [paths[row] for row in best]
        np.testing.assert_allclose([result.score for result in results], scores[query, best], atol=1e-5)
        assert [result.label for result in results] == [paths[row].parent.name for row in best]
    assert same(gallery.search(sketches[0], k=5), found[0])


def test_results_show_without_the_originals(gallery, photos):
    result = gallery.search(draw(100), k=1)[0]
    with Image.open(result.path) as image:
        original = image.convert("RGB").resize((8, 6))
    shutil.rmtree(photos)
    shown = result.thumbnail.resize((8, 6))
    assert np.abs(np.asarray(shown, int) - np.asarray(original, int)).mean() < 8  # JPEG
    assert result.metadata == {"width": 40, "height": 30}


@pytest.mark.parametrize("kind", gallery_index.KINDS)
def test_every_kind_of_index_finds_the_same(kind, tmp_path, photos, pair, name, gallery):
    other = Gallery.build(photos, *pair, tmp_path / kind, model_name=name, index=kind, progress=False)
    assert other.manifest["index"]["kind"] == kind and other.manifest["index"]["recall"] == 1.0
    for reopened in (other, Gallery.open(tmp_path / kind, pair)):
        for options in ({}, {"where": {"label": "cup"}}, {"collapse": 0.99}):
            wanted = gallery.search(draw(100), 6, **options)
            assert [r.path for r in reopened.search(draw(100), 6, **options)] == [r.path for r in wanted]
        assert [r.row for r in reopened.similar(wanted[0], 4)] == [r.row for r in gallery.similar(wanted[0], 4)]


def test_kind_follows_the_size_and_recall_is_measured():
    assert [gallery_index.choose_kind(n) for n in (50_000, 50_001, 2_000_001)] == ["exact", "hnsw", "ivf"]
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.normal(size=(50, 32)).astype(np.float32)
    exact = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    for kind in ("hnsw", "ivf"):
        index, facts = gallery_index.build_index(vectors, kind)
        assert 0.99 <= facts["recall"] <= 1 and facts["recall_at"] == 100
        found = index.search_batch(queries, 10)[1]
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]) > 0.9


def test_filters_are_exact_and_named(gallery):
    everything = gallery.search(draw(100), k=24)
    for where, allowed in (
        ({"label": "cup"}, lambda r: r.label == "cup"),
        ({"label": ["cup", "ant"]}, lambda r: r.label in ("cup", "ant")),
        ({"label": "cup", "width": 40}, lambda r: r.label == "cup"),
        ({"label": "unicorn"}, lambda r: False),
    ):
        wanted = [result.path for result in everything if allowed(result)][:3]
        assert [result.path for result in gallery.search(draw(100), 3, where=where)] == wanted
    with pytest.raises(ValueError, match="no column 'colour' to filter on, only path, label"):
        gallery.search(draw(100), where={"colour": "red"})


def test_words_are_weighed_with_the_sketch(gallery, pair):
    model, processor = pair
    sketch, words = gallery.encode([draw(100)]), model.encode_text(**processor(text=["red"])).numpy()
    for weight in (0.0, 0.3, 1.0):
        query = (1 - weight) * sketch + weight * words
        wanted = gallery.search_vectors(query, 5)[0]
        assert same(gallery.search(draw(100), 5, "red", text_weight=weight), wanted)
    assert same(gallery.search(None, 5, "red"), gallery.search_vectors(words, 5)[0])


def test_near_duplicates_collapse_on_request(tmp_path, pair, name):
    folder = make_photos(tmp_path / "photos", 12)
    for number in range(3):
        shutil.copy(folder / "cup" / "000.png", folder / f"copy{number}.png")
    gallery = Gallery.build(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    plain, single = gallery.search(draw(100), 15), gallery.search(draw(100), 15, collapse=0.999999)
    copies = {"000.png", "copy0.png", "copy1.png", "copy2.png"}
    assert sum(Path(r.path).name in copies for r in plain) == 4
    assert sum(Path(r.path).name in copies for r in single) == 1
    assert len(gallery.search(draw(100), 12, collapse=0.999999)) == 12 == len(single)


def test_similar_photos_leave_out_the_photo_itself(gallery, photos):
    result = gallery.search(draw(100), k=1)[0]
    near = gallery.similar(result, 3)
    assert result.row not in [r.row for r in near] and len(near) == 3
    from_file = gallery.similar(result.path, 4)
    assert [r.row for r in from_file] == [result.row, *(r.row for r in near)]


def test_threads_get_their_own_answers(gallery):
    sketches = [draw(number) for number in range(100, 116)]
    alone = [gallery.search(sketch, 5) for sketch in sketches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda sketch: gallery.search(sketch, 5), sketches))
    assert all(map(same, together, alone))


# --- what is indexed -------------------------------------------------------------------------------------------------


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


def test_unreadable_files_are_named_and_the_rest_is_indexed(photos, pair, name, tmp_path):
    whole = (photos / "cup" / "000.png").read_bytes()
    (photos / "cup" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "cup" / "empty.jpg").write_bytes(b"")
    (photos / "zebra" / "text.JPEG").write_text("no picture")
    (photos / "ant" / "gone.png").symlink_to(photos / "nothing.png")
    (photos / "notes.txt").write_text("not counted")
    (photos / ".hidden.png").write_text("not counted")
    big = io.BytesIO()
    Image.new("1", (3000, 3000)).save(big, "PNG")
    (photos / "bomb.png").write_bytes(big.getvalue())
    gallery = Gallery.build(photos, *pair, tmp_path / "G", progress=False, max_pixels=1_000_000)
    unreadable = {entry["path"]: entry["reason"] for entry in gallery.manifest["unreadable"]}
    assert sorted(unreadable) == ["ant/gone.png", "bomb.png", "cup/cut.png", "cup/empty.jpg", "zebra/text.JPEG"]
    assert "3000 x 3000 pixels" in unreadable["bomb.png"]
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


def test_the_table_is_a_dataset(gallery):
    table = datasets.load_dataset(str(gallery.folder), split="train")
    assert len(table) == 24 and table[0]["thumbnail"].size == (40, 30) and table[3]["label"] == "ant"
    assert np.linalg.norm(table[5]["embedding"]) == pytest.approx(1, abs=1e-5)


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_an_update_encodes_only_what_is_new(photos, pair, name, tmp_path, gallery):
    assert build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False).encoded == 0
    draw(200, "blue").save(photos / "cup" / "new.png")
    draw(201, "blue").save(photos / "cup" / "000.png")  # changed
    (photos / "zebra" / "001.png").unlink()
    (photos / "owl").mkdir()
    shutil.move(photos / "ant" / "002.png", photos / "owl" / "moved.png")
    report = build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert (report.count, report.encoded, report.removed) == (24, 2, 2)
    updated = Gallery.open(tmp_path / "G", pair)
    fresh = Gallery.build(photos, *pair, tmp_path / "fresh", model_name=name, progress=False)
    assert same(updated.search(draw(100), 24), fresh.search(draw(100), 24))
    assert len(list((tmp_path / "G").iterdir())) == 3  # one data folder, manifest, card
    assert not (tmp_path / "G.partial").exists()


def test_a_gallery_replaced_under_a_reader_is_still_readable(photos, pair, name, gallery, tmp_path):
    result = gallery.search(draw(100), 1)[0]
    (photos / "cup" / "000.png").unlink()
    build_gallery(photos, *pair, tmp_path / "G", model_name=name, progress=False)
    assert result.thumbnail.size == (40, 30)


def test_killed_while_encoding_goes_on_from_the_finished_shards(tmp_path, pair, name):
    folder = make_photos(tmp_path / "photos", 300)
    script = (
        "import os, signal, sys\n"
        "from modeling_splip import gallery_encode\n"
        "from modeling_splip.cli import main\n"
        "write = gallery_encode._write_shard\n"
        "def then_die(*args):\n"
        "    write(*args)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "gallery_encode._write_shard = then_die\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "index", str(folder), "--model", name, "--out", str(tmp_path / "G")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == -9
    assert not (tmp_path / "G").exists()
    with pytest.raises(FileNotFoundError, match="There is no gallery folder"):
        Gallery.open(tmp_path / "G")
    report = build_gallery(folder, *pair, tmp_path / "G", model_name=name, progress=False)
    assert (report.count, report.encoded) == (300, 300 - 128)
    fresh = Gallery.build(folder, *pair, tmp_path / "fresh", model_name=name, progress=False)
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 300), fresh.search(draw(100), 300))


class Crash(BaseException):
    """Nothing catches it: what lies on the disk is what a killed process leaves."""


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("first", [True, False], ids=["first build", "update"])
def test_a_crash_while_publishing_leaves_the_old_or_the_new(step, first, photos, pair, name, tmp_path, monkeypatch):
    out = tmp_path / "G"
    if not first:
        build_gallery(photos, *pair, out, model_name=name, progress=False)
        (photos / "cup" / "000.png").unlink()
    remaining = [step]

    def crashing(real):
        def call(*args, **kwargs):
            if remaining[0] == 0:
                raise Crash
            remaining[0] -= 1
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for module, function in ((os, "rename"), (os, "replace"), (shutil, "rmtree"), (gallery_build, "save_index")):
            patch.setattr(module, function, crashing(getattr(module, function)))
        with contextlib.suppress(Crash):
            build_gallery(photos, *pair, out, model_name=name, progress=False)
    if (out / "manifest.json").is_file():
        assert len(Gallery.open(out, pair).search(draw(100), 99)) in ({24} if first else {24, 23})
    else:
        assert first
        with pytest.raises(FileNotFoundError):
            Gallery.open(out)
    assert build_gallery(photos, *pair, out, model_name=name, progress=False).count == (24 if first else 23)
    assert len(files(out)) == 6 and not (tmp_path / "G.partial").exists()


def test_two_processes_build_the_same_gallery(tmp_path, pair, name):
    folder = make_photos(tmp_path / "photos", 300)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = ["-m", "modeling_splip.cli", "index", str(folder), "--model", name, "--out", str(tmp_path / "G")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *launch, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("300 photos (300 encoded, 0 already known, 0 removed)") == 1
    fresh = Gallery.build(folder, *pair, tmp_path / "fresh", model_name=name, progress=False)
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 300), fresh.search(draw(100), 300))


def test_a_second_build_at_once_is_refused(photos, pair, tmp_path):
    (tmp_path / "G.partial").mkdir()
    with (
        filelock.FileLock(tmp_path / "G.partial" / "lock"),
        pytest.raises(OSError, match="Another process is building"),
    ):
        build_gallery(photos, *pair, tmp_path / "G", progress=False)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_another_model_is_refused_by_name(gallery, tmp_path, name, monkeypatch):
    with pytest.raises(ValueError, match=f"was built with model '{name}' .* 'clip' is another"):
        Gallery.open(tmp_path / "G", "clip")
    manifest = json.loads((tmp_path / "G" / "manifest.json").read_text())
    (tmp_path / "G" / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 16}))
    with pytest.raises(ValueError, match="is another"):  # the checkpoint was trained on since
        Gallery.open(tmp_path / "G").search(draw(100))


def test_a_model_folder_is_found_beside_a_gallery_that_moved(tmp_path, tiny_clip, photos):
    run = tmp_path / "run"
    SplipModel.from_clip(tiny_clip, class_names=["cup", "ant"]).save_pretrained(run / "model", full=True)
    SplipProcessor.from_clip(tiny_clip).save_pretrained(run / "model")
    model, processor = load_retriever(str(run / "model"))
    Gallery.build(photos, model, processor, run / "gallery", model_name=str(run / "model"), progress=False)
    shutil.move(run, tmp_path / "elsewhere")
    assert len(Gallery.open(tmp_path / "elsewhere" / "gallery").search(draw(100), 3)) == 3


def test_an_index_from_elsewhere_is_not_read_but_rebuilt(gallery, tmp_path, pair, monkeypatch):
    wanted = gallery.search(draw(100), 24)
    file = tmp_path / "G" / gallery.manifest["data"] / "index.faiss"
    read = []
    real = faiss.read_index
    monkeypatch.setattr(faiss, "read_index", lambda *args: read.append(args) or real(*args))
    Gallery.open(tmp_path / "G", pair)
    assert len(read) == 1  # ours is read
    shutil.copytree(tmp_path / "G", tmp_path / "copy")
    assert same(Gallery.open(tmp_path / "copy", pair).search(draw(100), 24), wanted) and len(read) == 2  # same content
    foreign = faiss.IndexFlatIP(16)
    foreign.add(np.zeros((24, 16), np.float32))
    faiss.write_index(foreign, str(file))
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 24), wanted) and len(read) == 2
    # Rebuilt and signed: read again.
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 24), wanted) and len(read) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 24), wanted) and len(read) == 3
    file.unlink()
    assert same(Gallery.open(tmp_path / "G", pair).search(draw(100), 24), wanted)


def test_a_thumbnail_path_is_never_followed(gallery, tmp_path, pair, photos):
    file = tmp_path / "G" / gallery.manifest["data"] / "photos-00000.parquet"
    table = pq.read_table(file)
    secret = photos / "cup" / "000.png"
    cells = [{"bytes": None, "path": str(secret)}] * len(table)
    column = table.schema.get_field_index("thumbnail")
    pq.write_table(table.set_column(column, "thumbnail", pa.array(cells, table.schema.field(column).type)), file)
    with pytest.raises(ValueError, match="has no thumbnail"):
        _ = Gallery.open(tmp_path / "G", pair).result(0).thumbnail


BAD = {
    "missing": ("There is no folder", FileNotFoundError),
    "empty": ("has no photo", ValueError),
    "file": ("is a file: pass the folder", ValueError),
    "owner/unknown": ("is no folder here, and no dataset came from the Hub", OSError),
    "broken": (r"None of the 1 photos in .*broken' can be read \(x.png: UnidentifiedImageError", ValueError),
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


def test_bad_outputs_are_refused_and_left_alone(photos, pair, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    before = files(tmp_path)
    for out, sentence in (
        ("file", "is a file: pass a folder"),
        ("mine", r"holds other files \(thesis.tex\)"),
        ("file/G", "cannot be written"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            build_gallery(photos, *pair, tmp_path / out, progress=False)
    assert files(tmp_path) == before


def test_damaged_galleries_are_refused(gallery, tmp_path, pair):
    manifest = tmp_path / "G" / "manifest.json"
    whole = manifest.read_text()
    for text, sentence in (
        ("{", "is damaged"),
        ("[]", "has schema None"),
        (whole.replace("splip-gallery-1", "splip-gallery-9"), "has schema 'splip-gallery-9'"),
        (whole.replace(gallery.manifest["data"], "../../etc"), "is damaged"),
        (whole.replace('"count": 24', '"count": 25'), "is damaged .24 rows, 25 expected"),
    ):
        manifest.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            Gallery.open(tmp_path / "G", pair)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match="is no gallery"):
        Gallery.open(tmp_path / "G", pair)


def test_bad_queries_are_refused(gallery, tmp_path):
    Image.new("RGBA", (20, 20)).save(tmp_path / "blank.png")
    for arguments, sentence in (
        ({"sketch": tmp_path / "blank.png"}, "Nothing is drawn on sketch '.*blank.png'"),
        ({"sketch": [draw(1), Image.new("L", (9, 9), 255)]}, "Nothing is drawn on sketch 2"),
        ({"sketch": draw(1), "k": 0}, "k must be at least 1, got 0"),
        ({"sketch": draw(1), "text": " "}, "words are empty"),
        ({"sketch": draw(1), "text": "red", "text_weight": 2}, "text_weight must be in"),
        ({}, "nothing to search for"),
        ({"sketch": []}, "list of sketches is empty"),
    ):
        with pytest.raises(ValueError, match=sentence):
            gallery.search(**arguments)
    with pytest.raises(FileNotFoundError, match="no image file"):
        gallery.search(tmp_path / "nothing.png")


# --- commands --------------------------------------------------------------------------------------------------------


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
    assert "1 files could not be read" in said.err and "bad.png: UnidentifiedImageError" in said.err

    assert main(["search", str(sketch), "--gallery", out, "-k", "24"]) == 0
    table = capsys.readouterr().out
    assert table.count("\n") == 27 and "\x1b" not in table
    page, picture = tmp_path / "found.html", tmp_path / "found.png"
    options = ["--text", "red", "--where", "label=cup", "--html", str(page), "--picture", str(picture)]
    assert main(["search", str(sketch), "--gallery", out, "-k", "8", "--json", *options]) == 0
    record = json.loads(capsys.readouterr().out)
    results = record["queries"][0]["results"]
    wanted = Gallery.open(out).search(sketch, 8, "red", {"label": "cup"})
    assert [r["path"] for r in results] == [r.path for r in wanted] and record["model"] == name
    html = page.read_text()
    assert html.count("<li>") == 8 and "&lt;img src=x" in html and "<img src=x" not in html
    with Image.open(picture) as image:
        assert image.width > 500


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
        (["search", "--text", "red", "--gallery", out, "--picture", "x.png"], "words alone have none"),
        (["search", "--gallery", out], "nothing to search for"),
        (["search", "--gallery", out, "--text", "red", "--where", "label"], "is not COLUMN=VALUE"),
        (["search", "--gallery", out, "--text", "red", "--html", str(tmp_path / "no" / "x.html")], "cannot be written"),
    ):
        assert main(command) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("splip: ") and sentence in said


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
