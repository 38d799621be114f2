"""The Space as a program meets it: its endpoints, what they refuse, and who sees whose photos."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from spaces import HOSTILE, ROOT, build, serve, write_photos, write_sketch

gradio_client = pytest.importorskip("gradio_client", reason="the Space's tests need splip[dev]")
AppError = gradio_client.exceptions.AppError
CLIENTS = 16
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("world") / "photos", ["fish", "tree", "house", "clock", "mug"])


@pytest.fixture(scope="module")
def gallery(world, tmp_path_factory):
    return build(world, tmp_path_factory.mktemp("space") / "mini")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def address(gallery, server):
    with serve(server, gallery) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return connect(address)


@pytest.fixture
def sketch(tmp_path):
    return write_sketch(tmp_path / "sketch.png", "house", 1)


def connect(address):
    return gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 120})


def ask(client, sketch, words="", weight=0.5, name="mini", k=5, like=None):
    file = gradio_client.handle_file(str(sketch)) if sketch else None
    return client.predict(file, words, weight, name, k, like, api_name="/search")["photos"]


def test_it_answers_as_the_gallery_does(client, gallery, sketch):
    for words in ("", "red"):
        wanted = gallery.search(sketch, 5, words or None)
        found = ask(client, sketch, words)
        assert [photo["row"] for photo in found] == [result.row for result in wanted]
        np.testing.assert_allclose([p["score"] for p in found], [r.score for r in wanted], atol=1e-4)
        assert [photo["name"] for photo in found] == [Path(result.path).name for result in wanted]
    assert [photo["row"] for photo in ask(client, None, like=3)] == [
        it.row for it in gallery.similar(gallery.result(3), 5)
    ]
    near = client.predict(found[0]["row"], "mini", 3, api_name="/similar")["photos"]
    assert [photo["row"] for photo in near] == [result.row for result in gallery.similar(wanted[0], 3)]
    assert client.predict(api_name="/galleries") == {"mini": 30}


def test_every_action_has_a_named_endpoint_with_typed_inputs(client, sketch):
    api = client.view_api(return_format="dict")
    assert api["unnamed_endpoints"] == {}
    inputs = {
        name: [(it["parameter_name"], it["python_type"]["type"].split("[")[0]) for it in endpoint["parameters"]]
        for name, endpoint in api["named_endpoints"].items()
    }
    assert inputs == {
        "/search": [
            ("sketch", "filepath"),
            ("words", "str"),
            ("weight", "float"),
            ("gallery", "Literal"),
            ("k", "int"),
            ("like", "int"),
        ],
        "/similar": [("row", "int"), ("gallery", "Literal"), ("k", "int")],
        "/explain": [("sketch", "filepath"), ("row", "int"), ("gallery", "Literal"), ("whole", "bool")],
        "/picture": [
            ("sketch", "filepath"),
            ("words", "str"),
            ("weight", "float"),
            ("gallery", "Literal"),
            ("like", "int"),
        ],
        "/own_photos": [("files", "list"), ("gallery", "Literal"), ("add", "bool")],
        "/galleries": [],
    }
    file = gradio_client.handle_file(str(sketch))  # as the documents call it: the rest has defaults
    assert len(client.predict(sketch=file, words="red", k=10, api_name="/search")["photos"]) == 10


def test_it_refuses_in_a_sentence(client, sketch, tmp_path):
    blank = tmp_path / "blank.png"
    Image.new("RGBA", (64, 64)).save(blank)
    text = tmp_path / "text.png"
    text.write_text("no picture")
    bomb = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000), 1).save(bomb)
    for arguments, sentence in (
        ((blank,), "Nothing is drawn yet"),
        ((None,), "Nothing is drawn yet"),
        ((text,), "no readable image of at most 40,000,000 pixels"),
        ((bomb,), "no readable image of at most 40,000,000 pixels"),
        ((sketch, "", 0.5, "My own photos"), "There are no photos of your own"),
        ((sketch, "", 0.5, "elsewhere"), "not in the list of choices"),
        ((sketch, "", 3.0), r"weight must be in \[0, 1\], got 3.0"),
    ):
        with pytest.raises(AppError, match=sentence):
            ask(client, *arguments)
    large = {"files": ("large.png", bytes(16_000_000))}
    assert httpx.post(f"{client.src}gradio_api/upload", files=large).status_code == 413
    with pytest.raises(AppError, match="Row 99 is not in this gallery"):
        client.predict(99, "mini", 3, api_name="/similar")
    assert len(ask(client, sketch, k=50)) == 30  # still there


def test_nulls_and_what_is_no_number_are_refused_in_a_sentence(address, server):
    before = len((server / "log").read_text())
    for endpoint, data, sentence in (
        ("search", [None, "red", None, "mini", 5, None], "weight must be in [0, 1], got None"),
        ("search", [None, "red", float("nan"), "mini", 5, None], "weight must be in [0, 1], got nan"),
        ("search", [None, "red", 0.5, "mini", None, None], "k must be a number from 1 to 50, got None"),
        ("search", [None, "red", 0.5, "mini", float("nan"), None], "k must be a number from 1 to 50, got nan"),
        ("search", [None, "red", 0.5, "mini", "5", None], "k must be a number from 1 to 50, got '5'"),
        ("search", [None, None, 0.5, None, 5, None], "Nothing is drawn yet"),
        ("picture", [None, None, 0.5, None, None], "Nothing is drawn yet"),
        ("similar", [None, "mini", 5], "Row None is not in this gallery of 30 photos"),
        ("similar", [float("nan"), "mini", 5], "Row nan is not in this gallery of 30 photos"),
        ("similar", [1, "mini", None], "k must be a number from 1 to 50, got None"),
        ("own_photos", [None, "mini", False], "Upload 1 to 200 photos, not 0"),
        (
            "search",
            [{"url": "data:image/png;base64,eA=="}, "", 0.5, "mini", 5, None],
            "The sketch is no readable image",
        ),
        ("search", [{"url": "http://127.0.0.1/x.png"}, "", 0.5, "mini", 5, None], "The sketch is no readable image"),
    ):
        body = json.dumps({"data": data})
        event = httpx.post(f"{address}/gradio_api/call/{endpoint}", content=body, headers=JSON).json()["event_id"]
        answer = httpx.get(f"{address}/gradio_api/call/{endpoint}/{event}", timeout=60).text
        assert "event: error" in answer and f'"{sentence}' in answer, (data, answer)
    assert "Traceback" not in (server / "log").read_text()[before:]


def test_nothing_of_a_visitor_is_left_when_the_server_is_stopped(gallery, world, tmp_path):
    """The visitor's page is open until then."""
    mine = sorted((world / "house").glob("*.png"))
    with serve(tmp_path, gallery) as address:
        files = [gradio_client.handle_file(str(path)) for path in mine]
        visitor = connect(address)
        visitor.predict(files, "mini", api_name="/own_photos")
        assert len(list(tmp_path.glob("splip-own-*"))) == 1 and list((tmp_path / "tmp").rglob("0.png"))
    assert not list(tmp_path.glob("splip-own-*")) and not list((tmp_path / "tmp").rglob("*.png"))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_own_photos_are_one_sessions_own(address, sketch, world, tmp_path):
    mine = [str(path) for path in sorted((world / "house").glob("*.png"))[:3]]
    bomb, bad = tmp_path / "bomb.png", tmp_path / "<img src=x onerror=alert(1)>.png"
    kept = "img src=x onerror=alert(1).png"  # Gradio's name for it
    Image.new("1", (9000, 9000), 1).save(bomb)
    bad.write_bytes(b"x")
    one, other = (connect(address) for _ in range(2))
    files = [gradio_client.handle_file(path) for path in [*mine, str(bad), str(bomb)]]
    assert one.predict(files, "mini", api_name="/own_photos") == {
        "photos": 3,
        "unreadable": [kept, "bomb.png"],
        "said": f"3 photos of yours can be searched now. Could not be read: {kept}, bomb.png; JPEG, PNG and WebP can.",
    }
    assert sorted(photo["name"] for photo in ask(one, sketch, name="My own photos")) == ["0.png", "1.png", "2.png"]
    with pytest.raises(AppError, match="There are no photos of your own"):
        ask(other, sketch, name="My own photos")
    with pytest.raises(AppError) as refusal:
        other.predict([gradio_client.handle_file(str(bad))], "mini", api_name="/own_photos")
    assert str(refusal.value) == "None of the photos can be read: upload JPEG, PNG or WebP files."


def test_files_of_the_server_cannot_be_read(address, server):
    (server / "secret.png").write_bytes((ROOT / "space" / "examples" / "cup.png").read_bytes())
    inside = [server / "secret.png", server / "log", ROOT / "pyproject.toml", Path("/etc/passwd")]
    for path in inside:
        assert httpx.get(f"{address}/gradio_api/file={path}").status_code in (403, 404)
    for path in inside:
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        for endpoint, data in (("search", [file, "", 0.5, "mini", 5, None]), ("own_photos", [[file], "mini", False])):
            event = httpx.post(f"{address}/gradio_api/call/{endpoint}", json={"data": data}).json()["event_id"]
            assert "event: error" in httpx.get(f"{address}/gradio_api/call/{endpoint}/{event}", timeout=60).text


def test_the_pictures_of_photos_are_given_by_secret_addresses(address, gallery, sketch, world):
    """Own photos have an address that nobody can guess, and that no cache keeps."""
    client = connect(address)
    found = ask(client, sketch)[0]
    answer = httpx.get(f"{address}/{found['picture']}")
    assert answer.content == gallery.result(found["row"]).thumbnail_bytes
    assert "max-age" in answer.headers["Cache-Control"]
    client.predict([gradio_client.handle_file(str(world / "fish" / "0.png"))], "mini", api_name="/own_photos")
    mine = ask(client, sketch, name="My own photos")[0]["picture"]
    assert len(mine.split("/")[1]) >= 20 and mine.split("/")[1] != found["picture"].split("/")[1]
    assert httpx.get(f"{address}/{mine}").headers["Cache-Control"] == "no-store"
    for path in ("photo/x/0", mine.replace("/0", "/1"), "photo/../app.py", "page/../app.py", "examples/%2e%2e/app.py"):
        assert httpx.get(f"{address}/{path}").status_code == 404


def test_one_picture_shows_the_sketch_and_what_it_finds(client, sketch):
    file = client.predict(gradio_client.handle_file(str(sketch)), "red", 0.5, "mini", None, api_name="/picture")
    with Image.open(file["path"] if isinstance(file, dict) else file) as picture:
        assert picture.width == 1200 and len(picture.convert("RGB").getcolors(1 << 24)) > 1000


def test_the_page_asks_no_other_host_and_runs_no_foreign_script(address):
    page = httpx.get(address)
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert httpx.head(address).status_code == 200
    for name in ("main.js", "style.css", "icon.svg"):
        assert httpx.get(f"{address}/page/{name}").headers["Cache-Control"] == "no-cache"


def test_many_clients_at_once_get_their_own_answers(address, gallery, world, tmp_path):
    """Each asks for its own sketch, in turn with words, a photo and, half of them, among photos of their own."""

    def one(number: int) -> int:
        name = ("clock", "tree", "fish", HOSTILE)[number % 4]
        file = write_sketch(tmp_path / f"{number}.png", ("clock", "tree", "fish", "mug")[number % 4], number)
        drawn, spoken = gallery.search(file, 5), gallery.search(file, 5, f"a {name}")
        near, rows = gallery.similar(drawn[0], 5), lambda results: [result.row for result in results]
        mine = [str(path) for path in sorted((world / name).glob("*.png"))[: 1 + number % 3]]
        own = connect(address)
        if number % 2:
            own.predict([gradio_client.handle_file(path) for path in mine], "mini", api_name="/own_photos")
        stop, asked = time.monotonic() + 5, 0
        while time.monotonic() < stop or not asked:
            asked += 1
            assert [photo["row"] for photo in ask(own, file)] == rows(drawn)
            assert [photo["row"] for photo in ask(own, file, f"a {name}")] == rows(spoken)
            found = own.predict(drawn[0].row, "mini", 5, api_name="/similar")["photos"]
            assert [photo["row"] for photo in found] == rows(near)
            if number % 2:
                assert len(ask(own, file, name="My own photos")) == len(mine)
        return asked

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert all(pool.map(one, range(CLIENTS)))


def test_it_tells_why_a_photo_was_found(client, gallery, sketch):
    """As `explain` does; all the numbers where they are wanted."""
    found = gallery.search(sketch, 1)[0]
    matches, file = gallery.explain(sketch, found), gradio_client.handle_file(str(sketch))
    short = client.predict(file, found.row, "mini", api_name="/explain")
    assert set(short) == {"grid", "pairs", "score"} and short["grid"] == list(matches.grid)
    assert [(tuple(pair["sketch"]), tuple(pair["photo"])) for pair in short["pairs"]] == [
        (pair.sketch, pair.photo) for pair in matches.pairs
    ]
    assert short["score"] == pytest.approx(matches.score, abs=1e-4)
    whole = client.predict(file, found.row, "mini", True, api_name="/explain")
    np.testing.assert_allclose(whole["cosines"], matches.cosines, atol=6e-4)
    assert whole["drawn"] == matches.drawn.tolist()
    assert [url.split(";")[0] for url in whole["squares"]] == ["data:image/png", "data:image/jpeg"]
    with pytest.raises(AppError, match="Nothing is drawn yet"):
        client.predict(None, found.row, "mini", api_name="/explain")


def test_a_sketch_in_white_on_black_is_remarked_on(client, sketch, tmp_path):
    with Image.open(sketch) as image:
        Image.eval(image.convert("L"), lambda value: 255 - value).save(tmp_path / "dark.png")
    dark = gradio_client.handle_file(str(tmp_path / "dark.png"))
    assert "inverted" in client.predict(dark, api_name="/search")["remark"]
    plain = client.predict(gradio_client.handle_file(str(sketch)), None, api_name="/search")  # no words
    assert "inverted" not in plain["remark"] and plain["photos"]


def test_it_answers_by_its_own_name_and_to_its_own_pages_only(address):
    """A page elsewhere reaches this server through its visitor's browser, by a name of its own or as another origin."""
    port = address.rpartition(":")[2]
    upload = f"{address}/gradio_api/upload"

    def status(url: str = upload, **headers: str) -> int:
        if url == upload:
            return httpx.post(url, files={"files": ("x.txt", b"x")}, headers=headers).status_code
        return httpx.get(url, headers=headers).status_code

    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", "[::1]", "192.0.2.7"):
        assert status(host=host) == status(f"{address}/config", host=host) == 200, host
        assert status(host=host, origin=f"http://{host}") == 200
    for host in ("attacker.example", f"attacker.example:{port}", "localhost.attacker.example", "", "127.0.0.1.example"):
        assert status(host=host) == status(f"{address}/config", host=host) == 403, host
    for origin in ("https://attacker.example", "null", f"http://127.0.0.1:{int(port) - 1}", "http://[", "x"):
        assert status(origin=origin) == status(f"{address}/config", origin=origin) == 403, origin
    answer = httpx.get(address, headers={"host": "attacker.example"})
    assert answer.text == (
        "This server is not known as 'attacker.example': start it with --allow-host attacker.example if it should be."
    )
    behind = {"host": f"127.0.0.1:{port}", "origin": "https://pics.example", "x-forwarded-host": "pics.example"}
    assert status(**behind) == 200  # a proxy that names the server itself


@pytest.mark.parametrize("busy", [False, True])
def test_a_stop_is_quick_and_leaves_nothing(gallery, world, tmp_path, busy):
    """As soon as it says that it runs, and while it encodes photos of its visitors; an upload that nobody used goes."""
    files = [gradio_client.handle_file(str(path)) for path in sorted(world.glob("*/*.png")) * 6]
    with serve(tmp_path, gallery) as address:
        if busy:
            httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.txt", b"x")}).raise_for_status()
            for _ in range(4):
                connect(address).submit(files, "mini", api_name="/own_photos")
            while not list(tmp_path.glob("splip-own-*/gallery*")):
                time.sleep(0.05)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "log"]
    assert not left and not list(tmp_path.glob("splip-*")) and not list(tmp_path.glob("tmp/splip-*"))
    assert "Traceback" not in (tmp_path / "log").read_text()
