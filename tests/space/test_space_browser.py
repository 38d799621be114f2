"""The Space in a real browser, as a visitor meets it."""

import io
import re
import time
from pathlib import Path

import pytest
from PIL import Image
from spaces import (
    BROWSER_ARGUMENTS,
    BRUSH_IN_HAND,
    CHROMIUM,
    HOSTILE,
    ROOT,
    build,
    outlines,
    serve,
    write_photos,
    write_sketch,
)

from datasets_scripts.world.instances import CATEGORY_NAMES

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser's tests need splip[dev]")

# Screenshots for a person to look at; git ignores the folder.
SHOTS = ROOT / "runs" / "screenshots"
NOTHING_DRAWN = "Nothing is drawn yet: draw the outline of a thing"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("world") / "photos", ["fish", "tree", "house", "clock", "mug"])


@pytest.fixture(scope="module")
def gallery(world, tmp_path_factory):
    return build(world, tmp_path_factory.mktemp("space") / "mini")


@pytest.fixture(scope="module")
def whole_world(tmp_path_factory):
    """Six photos of every category of the drawn world."""
    folder = tmp_path_factory.mktemp("whole")
    return build(write_photos(folder / "photos", CATEGORY_NAMES), folder / "world")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def address(gallery, whole_world, server):
    with serve(server, gallery, whole_world) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}: install Debian's chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=BROWSER_ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address, request):
    """The app's page, its canvas ready; desktop size, or what the test's `params` say."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 740}}))
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.asked = set()
    page.on("request", lambda asked: page.asked.add(re.sub(r"^\w+://([^/]*).*", r"\1", asked.url)))
    page.goto(address)
    page.wait_for_selector(BRUSH_IN_HAND)
    yield page
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    shot.quantize(256).save(SHOTS / f"{request.node.originalname}.png", optimize=True)
    context.close()


def stroke(page, points) -> None:
    """Draw a line through points in -1..1 around the canvas' centre."""
    box = page.locator("#sketch canvas").first.bounding_box()
    x, y, side = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, min(box["width"], box["height"]) * 0.3
    page.mouse.move(x + points[0][0] * side, y + points[0][1] * side)
    page.mouse.down()
    for across, down in points[1:]:
        page.mouse.move(x + across * side, y + down * side, steps=2)
    page.mouse.up()


WALLS = [(-0.7, 0.9), (-0.7, -0.1), (0, -0.8), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9)]
DOOR = [(-0.2, 0.9), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.9)]
ZIGZAG = [(-0.8, 0), (-0.4, -0.9), (0, 0.8), (0.4, -0.9), (0.8, 0)]


def found(page) -> list[str]:
    page.wait_for_selector("#photos img")
    return shown(page)


def shown(page) -> list[str]:
    return page.eval_on_selector_all("#photos img", "all => all.map(image => image.alt)")


def wait_until(page, condition: str, captions: list[str]) -> list[str]:
    """Wait until the captions shown fulfil a condition on `now` and `then`; return them."""
    script = "then => { const now = [...document.querySelectorAll('#photos img')].map(image => image.alt); return %s; }"
    page.wait_for_function(script % condition, arg=captions)
    return shown(page)


def wait_for(page, captions: list[str]) -> None:
    wait_until(page, "now.join() === then.join()", captions)


def wait_for_others(page, captions: list[str]) -> list[str]:
    return wait_until(page, "now.length && now.join() !== then.join()", captions)


def tool(page, label: str) -> None:
    page.locator(f'#sketch button[aria-label="{label}"]').click()


def captions_of(results) -> list[str]:
    return [f"{result.label} {result.score:.3f}" for result in results]


def choose_gallery(page, name: str) -> None:
    settings, box = page.get_by_text("Settings and your own photos"), page.get_by_label("Gallery and its model")
    settings.click()
    box.click()
    page.get_by_role("option", name=name).click()
    settings.click()
    box.wait_for(state="hidden")  # nothing moves under the pen any more


def test_a_drawn_lamp_is_found_among_all_categories(page):
    """The model is the frozen backbone, trained on this world; the strokes are a lamp's own clean outlines."""
    choose_gallery(page, "world")
    live = page.get_by_label("Search after each stroke")
    live.uncheck()
    for line in outlines("lamp", 5):
        stroke(page, line.tolist())
    live.check()
    page.click("#search")
    captions = found(page)
    assert captions[0].startswith("lamp") and sum(caption.startswith("lamp") for caption in captions[:6]) >= 3


def test_draw_press_and_see_photos(page, address):
    page.get_by_label("Search after each stroke").uncheck()
    stroke(page, WALLS)
    stroke(page, DOOR)
    page.wait_for_timeout(2000)
    assert not shown(page)
    page.click("#search")
    captions = found(page)
    assert len(captions) == 12
    assert all(re.fullmatch(rf"(fish|tree|house|clock|{HOSTILE}) -?\d\.\d{{3}}", caption) for caption in captions)
    assert not page.query_selector_all("#photos b")
    scores = [float(caption.split()[-1]) for caption in captions]
    assert scores == sorted(scores, reverse=True)
    assert re.search(r"12 photos in \d+ ms", page.inner_text("#status"))
    page.wait_for_function("[...document.querySelectorAll('#photos img')].every(image => image.naturalWidth === 64)")
    assert page.asked == {address.removeprefix("http://")}  # no other host is asked


def test_each_stroke_searches_with_pen_undo_redo_eraser_and_after_clearing(page):
    stroke(page, WALLS)
    walls = found(page)
    stroke(page, ZIGZAG)
    both = wait_for_others(page, walls)
    tool(page, "Undo")
    wait_for(page, walls)
    tool(page, "Redo")
    wait_for(page, both)
    tool(page, "Erase")
    stroke(page, ZIGZAG)
    erased = wait_for_others(page, both)
    tool(page, "Clear canvas")
    page.wait_for_selector(BRUSH_IN_HAND)
    page.click("#search")
    page.get_by_text(NOTHING_DRAWN).wait_for()
    stroke(page, ZIGZAG)
    wait_for_others(page, erased)


def test_a_blank_canvas_gives_a_sentence(page):
    page.click("#search")
    page.get_by_text(NOTHING_DRAWN).wait_for()
    assert not shown(page)


def test_a_click_finds_similar_photos_where_the_photo_was_found(page, gallery):
    page.get_by_label("Words beside the sketch").fill("a tree")
    page.keyboard.press("Enter")
    wanted = gallery.search(None, 12, "a tree")
    assert found(page) == captions_of(wanted)
    choose_gallery(page, "world")
    page.locator("#photos button:has(img)").nth(2).click()
    wait_for(page, captions_of(gallery.similar(wanted[2], 12)))


def test_upload_a_sketch_and_own_photos_that_go_with_the_page(page, tmp_path, world, server):
    page.set_input_files('#sketch input[type="file"]', write_sketch(tmp_path / "sketch.png", "house", 1))
    assert len(found(page)) == 12
    page.get_by_text("Settings and your own photos").click()
    own = '#own input[type="file"], input[type="file"][multiple]'
    page.set_input_files(own, sorted((world / HOSTILE).glob("*.png")))
    page.get_by_text("6 photos of yours can be searched now.").wait_for()
    page.wait_for_function("!document.querySelector('#photos img')")  # those of the other gallery
    page.click("#search")
    page.get_by_text("6 photos in").wait_for()
    assert len(found(page)) == 6 and len(list(server.glob("splip-own-*"))) == 1
    page.goto("about:blank")
    until = time.monotonic() + 120
    while list(server.glob("splip-own-*")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not list(server.glob("splip-own-*"))


def test_an_example_is_found(page):
    page.get_by_role("button", name="umbrella").click()
    assert len(found(page)) == 12


def test_everything_but_drawing_works_with_the_keyboard(page):
    page.get_by_label("Words beside the sketch").focus()
    page.keyboard.type("a tree")
    page.keyboard.press("Enter")
    first = found(page)
    reached, where = set(), "document.activeElement.closest('#search, #examples, #photos, #sketch')?.id"
    page.keyboard.press("Shift+Tab")
    for _ in range(60):
        reached.add(page.evaluate(where))
        if page.evaluate(where) == "photos" and {"search", "examples", "sketch"} <= reached:
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for_others(page, first)
    assert all(page.eval_on_selector_all("#photos img, #examples img", "all => all.map(image => image.alt)"))


@pytest.mark.parametrize(
    "page",
    [
        {
            "viewport": {"width": 390, "height": 844},
            "color_scheme": "dark",
            "has_touch": True,
            "locale": "es-ES",
        }
    ],
    indirect=True,
)
def test_a_phone_in_the_dark_in_another_language(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    stroke(page, WALLS)
    assert len(found(page)) == 12
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [image.bounding_box() for image in page.query_selector_all("#photos img")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    canvas, search = (page.locator(place).bounding_box() for place in ("#sketch", "#search"))
    below = boxes[0]["y"] - (canvas["y"] + canvas["height"])
    assert 0 < below < 120 and search["y"] > boxes[-1]["y"]  # a line about the photos, and the photos
    assert page.evaluate("document.body.classList.contains('dark')")
