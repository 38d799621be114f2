"""The Space's parts without a server: what it asks of galleries, its command, its folder."""

import asyncio
import importlib.util
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError
from spaces import ROOT, build, write_photos, write_sketch

from modeling_splip.loading import LARGER_MODEL
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.own_photos import OwnPhotos
from modeling_splip.search.service import OWN_PHOTOS, Finder, read_sketch


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("world") / "photos", ["fish", "tree"])


@pytest.fixture(scope="module")
def gallery(world, tmp_path_factory) -> Gallery:
    return build(world, tmp_path_factory.mktemp("space") / "mini")


@pytest.fixture
def app(monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="the Space needs splip[space]")
    spec = importlib.util.spec_from_file_location("space_app", ROOT / "space" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPLIP_GALLERY", raising=False)
    monkeypatch.delenv("SPLIP_MODEL", raising=False)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    Image.init()
    monkeypatch.setattr(Image, "ID", Image.ID.copy())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    yield module
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


@pytest.fixture
def served(app, monkeypatch):
    """Every app that was started, which then stops at once, with the options of its server."""
    started = []

    def launch(blocks, **options):
        blocks.server = SimpleNamespace(config=SimpleNamespace())
        started.append((blocks, options))

    monkeypatch.setattr(app.gr.Blocks, "launch", launch)
    return started


def page_of(options) -> tuple[str, dict]:
    """Return the page that a started app serves, and the facts in it."""
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    page = TestClient(Starlette(routes=options["app_kwargs"]["routes"])).get("/").text
    return page, json.loads(re.search(r'id="facts">(.*?)</script>', page)[1])


@pytest.fixture
def packaged(app, world, tmp_path, monkeypatch) -> Path:
    """Four photos in place of those that come with the package, and an empty cache; returns the cache."""
    files = sorted(world.glob("*/[01].png"))
    rows = [
        {"image": {"bytes": file.read_bytes(), "path": file.name}, "label": file.parent.name, "id": file.stem}
        for file in files
    ]
    photos = tmp_path / "open23" / "photos.parquet"
    photos.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=app.open23.COLUMNS.arrow_schema), photos)
    monkeypatch.setitem(app.open23.FILES, "photo", photos)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "splip"


def test_without_a_gallery_the_packaged_photos_are_indexed_once(app, served, packaged, monkeypatch, capsys):
    assert app.main() == 0
    assert "Indexing the 4 photos that come with splip, once" in capsys.readouterr().err
    (folder,) = packaged.iterdir()
    page, facts = page_of(served[0][1])
    for words in ("4 real photos of 2 categories", "CC BY 4.0", "8.5 million parameters, 64 px", "proves nothing"):
        assert words in page
    assert f"--model {LARGER_MODEL}" in page
    assert facts["galleries"] == [{"name": "open23", "title": "open23 (4 photos, small_splip)"}]
    assert facts["opens"] == app.EXAMPLES[0]  # searched at once, so that nobody sees an empty page
    with monkeypatch.context() as closed:
        closed.setattr(Gallery, "build", lambda *_, **__: pytest.fail("It was built before."))
        assert app.main() == 0
    (folder / "manifest.json").write_text("{")
    assert app.main() == 0 and len(Gallery.open(folder)) == 4
    assert [path.name for path in packaged.iterdir()] == [folder.name]


def test_the_packaged_photos_are_searched_by_any_model(app, packaged):
    finder = app.open_galleries(None, "clip:mini_clip")
    assert finder.galleries["open23"].manifest["model"] == "clip:mini_clip"
    assert app.about(finder).endswith("CC BY 4.0).</p>")  # nothing of the model that is not in use


def test_an_unknown_gallery_is_named(app, monkeypatch, capsys):
    monkeypatch.setenv("SPLIP_GALLERY", "owner/unknown")
    assert app.main() == 2
    assert capsys.readouterr().err.startswith("splip: 'owner/unknown' is no gallery folder here")


def test_examples_are_drawings_with_a_source(app):
    readme = (ROOT / "space" / "README.md").read_text("utf-8")
    assert {file.stem for file in (ROOT / "space" / "examples").iterdir()} == set(app.EXAMPLES)
    for name in app.EXAMPLES:
        assert re.search(rf"`{name}` \d{{16}}", readme)
        with Image.open(ROOT / "space" / "examples" / f"{name}.png") as image:
            assert image.size == (480, 480)


def test_galleries_come_from_flags_the_environment_or_the_hub(app, served, gallery, world, tmp_path, monkeypatch):
    """The Hub is its cache here, as after a download."""
    fishes = build(world / "fish", tmp_path / "fishes")
    hub = tmp_path / "hub" / "datasets--owner--animals"
    shutil.copytree(fishes.folder, hub / "snapshots" / "0123")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SPLIP_GALLERY", f"{gallery.folder}, owner/animals")
    monkeypatch.setenv("SPLIP_MODEL", "clip:mini_clip")
    assert app.main() == 0
    monkeypatch.setattr(
        sys, "argv", ["app.py", "--gallery", str(fishes.folder), "--model", "clip:mini_clip", "--port", "7000"]
    )
    assert app.main() == 0
    facts = [page_of(options)[1] for _, options in served]
    assert facts[0]["galleries"] == [
        {"name": "mini", "title": "mini (12 photos, clip:mini_clip)"},
        {"name": "owner/animals", "title": "owner/animals (6 photos, clip:mini_clip)"},
    ]
    assert facts[1]["galleries"] == [{"name": "fishes", "title": "fishes (6 photos, clip:mini_clip)"}]
    assert served[1][1]["server_port"] == 7000
    assert facts[0]["opens"] is None and app.about(Finder({"mini": gallery})) == ""  # of the packaged photos alone


def test_where_it_cannot_listen_it_says_so(app, gallery, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        for options, sentence in (
            (["--port", "99999"], "--port must be in [1, 65535], got 99999."),
            (["--port", "0"], "--port must be in [1, 65535], got 0."),
            (["--port", taken], f"Cannot listen on port {taken} of '127.0.0.1' (Address already in use): pass another"),
            (["--host", "192.0.2.1"], "Cannot listen on '192.0.2.1' (Cannot assign requested address): pass another"),
            (["--host", "no host"], "Cannot listen on 'no host' (Name or service not known): pass another --host"),
        ):
            monkeypatch.setattr(sys, "argv", ["app.py", "--gallery", str(gallery.folder), *options])
            assert app.main() == 2
            said = capsys.readouterr()
            assert said.err.startswith(f"splip: {sentence}") and said.err.count("\n") == 1 and not said.out


def test_pil_opens_common_formats_only(app, served, gallery, tmp_path, monkeypatch):
    """Also where Gradio calls it, as for an upload on the canvas."""
    monkeypatch.setattr(sys, "argv", ["app.py", "--gallery", str(gallery.folder)])
    assert app.main() == 0
    for kind in ("PNG", "EPS"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"x.{kind.lower()}", kind)
    assert Image.open(tmp_path / "x.png").size == (9, 9)
    with pytest.raises(UnidentifiedImageError):
        Image.open(tmp_path / "x.eps")


def test_who_comes_when_too_many_wait_is_told_so(app, gallery, monkeypatch):
    endpoints = sys.modules[app.Actions.__module__]
    actions = app.Actions(Finder({"mini": gallery}))
    assert len(asyncio.run(actions.search(words="red", weight=0.5, k=3))["photos"]) == 3
    monkeypatch.setattr(endpoints, "MAX_WAITING", 0)
    with pytest.raises(app.gr.Error, match="Too many people search at the moment: try again in a few seconds"):
        asyncio.run(actions.search(words="red", weight=0.5, k=3))


def test_galleries_of_one_model_share_it(gallery, world, tmp_path):
    fishes = build(world / "fish", tmp_path / "fishes")
    finder = Finder.open([str(gallery.folder), str(fishes.folder)])
    one, other = finder.galleries["mini"], finder.galleries["fishes"]
    assert one.model is other.model and len(other) == 6
    with pytest.raises(ValueError, match="There is no gallery 'birds', only mini, fishes"):
        finder.choose("birds", None)


def test_the_page_says_what_is_odd_about_a_sketch(app, served, gallery, tmp_path, monkeypatch):
    sketch = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(sketch).ellipse([10, 10, 50, 50], outline="black", width=3)
    actions, folder = app.Actions(Finder({"mini": gallery})), str(gallery.folder)

    def draw(image: Image.Image) -> tuple[list[int], str]:
        image.save(tmp_path / "sketch.png")
        data = gradio.data_classes.ImageData(path=str(tmp_path / "sketch.png"))
        answer = asyncio.run(actions.search(data, gallery="mini", k=5))
        return [photo["row"] for photo in answer["photos"]], answer["remark"]

    gradio = pytest.importorskip("gradio", reason="the Space needs splip[space]")
    wanted, plain = draw(sketch)
    assert plain == ""
    found, remark = draw(ImageOps.invert(sketch))
    assert found == wanted and "A sketch looks white on black and is inverted" in remark and "\n" not in remark
    assert "does not look drawn" in draw(Image.effect_noise((64, 64), 90).convert("RGB"))[1]

    opened = []
    monkeypatch.setattr(
        app, "build_app", lambda finder, build=app.build_app, **how: opened.append(finder) or build(finder, **how)
    )
    monkeypatch.setattr(sys, "argv", ["app.py", "--gallery", folder, "--invert-sketches", "false"])
    assert app.main() == 0
    assert opened[0].choose(None, None).processor.invert_sketches == "false"


def test_what_is_not_convincing_is_told(app, gallery, monkeypatch, tmp_path):
    """Of a sketch alone; words and photos that were found are judged by nothing."""
    actions, file = app.Actions(Finder({"mini": gallery})), write_sketch(tmp_path / "sketch.png", "tree", 1)
    data = pytest.importorskip("gradio").data_classes.ImageData(path=str(file))

    def ask(**inputs) -> tuple[float | None, str]:
        answer = asyncio.run(actions.search(gallery="mini", **inputs))
        return answer["confidence"], answer["remark"]

    share = gallery.confidence(gallery.search(str(file), 12))
    assert share is not None and ask(sketch=data)[0] == pytest.approx(share)
    assert ask(words="red") == ask(sketch=data, words="red") == ask(sketch=data, like=1) == (None, "")
    for beaten, said in ((0.49, "Not convincing: of random scribbles, 51% find photos at least as near."), (0.5, "")):
        monkeypatch.setattr(Gallery, "confidence", lambda self, found, beaten=beaten: beaten)
        assert ask(sketch=data) == (beaten, said)


def test_drawings_as_own_photos_are_doubted(gallery, world, tmp_path):
    finder = Finder({"mini": gallery})
    for number in range(3):
        page = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(page).line([(5, 5 + number), (60, 50)], fill="black", width=2)
        page.save(tmp_path / f"{number}.png")
    own = finder.index([str(tmp_path / f"{number}.png") for number in range(3)], None, 10_000)
    assert own.summary().startswith("3 photos of yours can be searched now. 3 of 3 photos look like line drawings: a ")
    own.delete()
    own = finder.index([str(path) for path in (world / "fish").glob("*.png")], None, 10_000)
    assert own.summary() == "6 photos of yours can be searched now."
    own.delete()


def test_own_photos_are_deleted_and_limited(gallery, world, tmp_path):
    finder = Finder({"mini": gallery})
    own = finder.index([str(path) for path in (world / "fish").glob("*.png")], None, 10_000)
    folder = Path(own.folder.name)
    assert len(finder.search(None, "red", 0.5, OWN_PHOTOS, 50, own)) == 6 and folder.is_dir()
    own.delete()
    assert not folder.exists()
    for count in (0, 201):
        with pytest.raises(ValueError, match="Upload 1 to 200 photos"):
            finder.index(["x.png"] * count, None, 10_000)
    with pytest.raises(ValueError, match="no photos of your own"):
        finder.choose(OWN_PHOTOS, None)
    before = set(Path(tempfile.gettempdir()).glob("splip-own-*"))
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="None of the photos can be read: upload JPEG"):
        finder.index([str(tmp_path / "bad.png")], None, 10_000)
    assert set(Path(tempfile.gettempdir()).glob("splip-own-*")) == before


def test_own_photos_grow_and_the_addresses_of_the_old_ones_end(gallery, world, tmp_path):
    finder = Finder({"mini": gallery})
    fishes, trees = ([str(path) for path in sorted((world / name).glob("*.png"))] for name in ("fish", "tree"))
    own = finder.index(fishes[:2], None, 10_000)
    key, folder = own.key, Path(own.folder.name)
    (tmp_path / "bad.png").write_bytes(b"x")
    assert finder.index([*trees[:2], str(tmp_path / "bad.png")], None, 10_000, own) is own
    assert len(own.gallery) == 4 and own.key not in ("", key) and own.unreadable() == ["bad.png"]
    assert own.summary() == (
        "4 photos of yours can be searched now. Could not be read: bad.png; JPEG, PNG and WebP can."
    )
    assert all(Path(result.path).is_relative_to(folder) for result in own.gallery.search(None, 9, "red"))
    with pytest.raises(ValueError, match="Upload 1 to 200 photos, not 201"):
        finder.index(trees[:1] * 196, None, 10_000, own)
    own.delete()
    assert not folder.exists()


def test_a_photo_found_is_searched_by_with_a_sketch_and_words(gallery, tmp_path):
    """The score is the mean of the cosines with photo and sketch, and words are weighted against it."""
    finder, sketch = Finder({"mini": gallery}), Image.open(write_sketch(tmp_path / "sketch.png", "tree", 1))
    photo, drawn, spoken = gallery.vectors([3])[0], gallery.encode([sketch])[0], gallery.encode_text(["red"])[0]
    every = gallery.vectors(range(len(gallery)))
    for words, query in (("", (photo + drawn) / 2), ("red", 0.75 * (photo + drawn) / 2 + 0.25 * spoken)):
        scores = dict(enumerate((every @ query).tolist()))
        del scores[3]
        found = finder.search(sketch, words, 0.25, "mini", 5, like=3)
        assert [result.row for result in found] == sorted(scores, key=lambda row: -scores[row])[:5]
        assert [result.score for result in found] == pytest.approx(sorted(scores.values(), reverse=True)[:5], abs=1e-5)
    alone = finder.search(None, "", 0.5, "mini", 5, like=3)
    assert [result.row for result in alone] == [result.row for result in finder.similar(3, "mini", 5)]
    with pytest.raises(ValueError, match="Row 99 is not in this gallery of 12 photos"):
        finder.search(sketch, "", 0.5, "mini", 5, like=99)


def test_photos_of_a_killed_server_are_deleted_and_no_others(app, served, gallery, world, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive = Finder({"mini": gallery}).index([str(path) for path in (world / "fish").glob("*.png")], None, 10_000)
    for name, content in (
        ("dead", "gallery"),
        ("half", "gallery.partial"),
        ("copied", "photos"),
        ("starting", ""),
        ("foreign", "gallery"),
    ):
        (tmp_path / f"splip-own-{name}" / content).mkdir(parents=True)
        if name != "foreign":
            (tmp_path / f"splip-own-{name}" / "lock").touch()
    monkeypatch.setattr(sys, "argv", ["app.py", "--gallery", str(gallery.folder)])
    assert app.main() == 0
    left = {path.name.removeprefix("splip-own-") for path in tmp_path.glob("splip-own-*")}
    assert left == {"starting", "foreign", Path(alive.folder.name).name.removeprefix("splip-own-")}
    assert len(alive.gallery.search(None, 50, "red")) == 6 and alive.gallery.result(0).thumbnail
    alive.lock.release()  # as the system does for a process that is killed
    OwnPhotos.sweep()
    assert not Path(alive.folder.name).exists()


def test_a_strangers_answer_names_no_folder(gallery):
    result = gallery.search(None, 1, "fish")[0]
    assert str(gallery.manifest["root"]) in result.path
    assert str(gallery.manifest["root"]) not in json.dumps(result.as_public_dict())
    assert result.as_public_dict()["name"] == Path(result.path).name


def test_a_sketch_too_large_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (3000, 3000)).save(tmp_path / "large.png")
    assert read_sketch(str(tmp_path / "large.png"), 9_000_000).size == (1500, 1500)  # enough for every model
    with pytest.raises(ValueError, match="no readable image of at most 8,999,999 pixels"):
        read_sketch(str(tmp_path / "large.png"), 8_999_999)


def test_the_folder_is_one_that_a_hosted_space_builds_from():
    import yaml

    header = yaml.safe_load((ROOT / "space" / "README.md").read_text("utf-8").split("---")[1])
    assert (header["sdk"], header["license"]) == ("gradio", "apache-2.0")
    assert (ROOT / "space" / header["app_file"]).is_file()
    assert json.dumps(header["sdk_version"]).count(".") == 2
    wanted = [line for line in (ROOT / "space" / "requirements.txt").read_text().splitlines() if line[:1] != "#"]
    assert wanted == ["splip[space]"]  # the one place that says where it is installed from
    assert len((ROOT / "space" / "app.py").read_text("utf-8").splitlines()) <= 300


def test_names_by_which_a_server_is_known(monkeypatch):
    pytest.importorskip("gradio", reason="the Space needs splip[space]")
    server = importlib.import_module("splip_space.server")
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    monkeypatch.setattr(socket, "getfqdn", lambda: "box.home.")
    monkeypatch.delenv("SPACE_HOST", raising=False)
    assert server.known_names(None) == {"localhost"}
    assert server.known_names("0.0.0.0", ["Pics.example"]) == {
        "localhost",
        "0.0.0.0",
        "box",
        "box.home",
        "pics.example",
    }
    monkeypatch.setenv("SPACE_HOST", "owner-name.hf.space")
    assert "owner-name.hf.space" in server.known_names(None)


def test_a_start_on_a_busy_machine_is_waited_for(monkeypatch):
    """Gradio gives up after five seconds."""
    pytest.importorskip("gradio", reason="the Space needs splip[space]")
    server = importlib.import_module("splip_space.server")
    now = iter(range(0, 10**6, 7))
    monkeypatch.setattr("time.time", lambda: next(now))  # seven seconds pass at every look
    slow = SimpleNamespace(config=SimpleNamespace(), started=False)

    def run():
        time.sleep(0.3)
        slow.started = True
        time.sleep(0.3)

    slow.run = run
    server._start(slow)
    assert slow.started and slow.config.timeout_graceful_shutdown == 1
    gone = SimpleNamespace(config=SimpleNamespace(), started=False, run=lambda: None)
    with pytest.raises(OSError, match="The server did not start"):
        server._start(gone)
