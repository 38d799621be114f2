"""The Space in a real browser, as a visitor meets it."""

import base64
import io
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from spaces import BROWSER_ARGUMENTS, CHROMIUM, HOSTILE, ROOT, build, outlines, serve, write_photos, write_sketch

from datasets_scripts.world.instances import CATEGORY_NAMES
from modeling_splip.search.explain import explain
from modeling_splip.search.service import Finder

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser's tests need splip[dev]")

# Screenshots for a person to look at; git ignores the folder.
SHOTS = ROOT / "runs" / "screenshots"
NOTHING_DRAWN = "Draw the outline of a thing, or write words."
CLIPBOARD = ["clipboard-read", "clipboard-write"]


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
def packaged(tmp_path_factory):
    """The Space as it opens where no gallery is named."""
    with serve(tmp_path_factory.mktemp("packaged")) as address:
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
    """The app's page, desktop size or what the test's `params` say."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 740}}))
    page = context.new_page()
    page.set_default_timeout(40_000)
    page.asked, page.faults = set(), []
    page.on("request", lambda asked: page.asked.add(re.sub(r"^\w+://([^/]*).*", r"\1", asked.url)))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(address)
    page.get_by_text(NOTHING_DRAWN).wait_for()
    yield page
    shoot(page, request.node.originalname)
    context.close()
    assert not page.faults


def shoot(page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    shot.quantize(256).save(SHOTS / f"{name}.png", optimize=True)


def stroke(page, points) -> None:
    """Draw a line through points in -1..1 around the canvas' centre."""
    box = page.locator("#canvas").bounding_box()
    x, y, side = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"] * 0.4
    page.mouse.move(x + points[0][0] * side, y + points[0][1] * side)
    page.mouse.down()
    for across, down in points[1:]:
        page.mouse.move(x + across * side, y + down * side, steps=2)
    page.mouse.up()


WALLS = [(-0.7, 0.9), (-0.7, -0.1), (0, -0.8), (0.7, -0.1), (0.7, 0.9), (-0.7, 0.9)]
ZIGZAG = [(-0.8, 0), (-0.4, -0.9), (0, 0.8), (0.4, -0.9), (0.8, 0)]


def drawn(page) -> Image.Image:
    """Return what is on the paper."""
    data = page.evaluate("document.querySelector('#canvas').toDataURL()").partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def shown(page) -> list[str]:
    return page.eval_on_selector_all(
        "#photos li",
        "all => all.map(one => ['.name', '.score'].map(part => one.querySelector(part).textContent).join(' '))",
    )


def found(page) -> list[str]:
    page.wait_for_selector("#photos img")
    return shown(page)


def wait_for(page, captions: list[str]) -> None:
    until = time.monotonic() + 40
    while shown(page) != captions and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert shown(page) == captions


def wait_for_others(page, captions: list[str]) -> list[str]:
    until = time.monotonic() + 40
    while shown(page) in ([], captions) and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert shown(page) not in ([], captions)
    return shown(page)


def press(page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def captions_of(results) -> list[str]:
    return [f"{result.label} {result.score:.3f}" for result in results]


def test_a_drawn_lamp_is_found_among_all_categories(page):
    """The model is the frozen backbone, trained on this world; the strokes are a lamp's own clean outlines."""
    page.get_by_label("Gallery and its model").select_option("world")
    for line in outlines("lamp", 5):
        stroke(page, (line * 0.75).tolist())
    page.wait_for_timeout(1000)
    captions = found(page)
    assert captions[0].startswith("lamp") and sum(caption.startswith("lamp") for caption in captions[:6]) >= 3


def test_photos_appear_as_one_draws(page, address):
    stroke(page, WALLS)
    captions = found(page)
    assert len(captions) == 12
    assert all(re.fullmatch(rf"(fish|tree|house|clock|{HOSTILE}) -?\d\.\d{{3}}", caption) for caption in captions)
    assert not page.query_selector_all("#photos b")
    scores = [float(caption.split()[-1]) for caption in captions]
    assert scores == sorted(scores, reverse=True)
    assert re.fullmatch(r"12 photos in \d+ ms\.", page.inner_text("#status"))
    page.wait_for_function("[...document.querySelectorAll('#photos img')].every(image => image.naturalWidth === 64)")
    assert page.asked == {address.removeprefix("http://")}  # no other host is asked


def test_each_stroke_searches_with_pen_undo_redo_rubber_and_after_clearing(page):
    stroke(page, WALLS)
    walls = found(page)
    stroke(page, ZIGZAG)
    both = wait_for_others(page, walls)
    press(page, "Undo")
    wait_for(page, walls)
    press(page, "Redo")
    wait_for(page, both)
    press(page, "Rubber")
    stroke(page, ZIGZAG)
    erased = wait_for_others(page, both)
    press(page, "Clear the drawing")
    wait_for(page, [])
    page.get_by_text(NOTHING_DRAWN).wait_for()
    press(page, "Undo")
    wait_for(page, erased)
    press(page, "Clear the drawing")
    press(page, "Pen")
    stroke(page, WALLS)
    wait_for(page, walls)


def test_going_on_from_a_photo_and_back(page, gallery):
    """Similar photos, refined by words and by drawing on; the chips' crosses and the browser's history lead back."""
    finder = Finder({"mini": gallery})
    page.get_by_label("Words beside the drawing").fill("a tree")
    page.keyboard.press("Enter")
    spoken = gallery.search(None, 12, "a tree")
    wait_for(page, captions_of(spoken))
    page.locator("#photos button").nth(2).click()
    assert page.get_by_role("dialog").get_by_role("heading").inner_text() == spoken[2].label
    assert Path(spoken[2].path).name in page.inner_text("#detail-facts")  # the file's own name
    press(page, "Similar photos")
    liked = spoken[2].row
    assert page.inner_text(".chip").startswith(f"Like {spoken[2].label}")
    wait_for(page, captions_of(finder.search(None, "a tree", 0.5, "mini", 12, like=liked)))
    page.get_by_label("What counts more?").fill("0.2")
    wait_for(page, captions_of(finder.search(None, "a tree", 0.2, "mini", 12, like=liked)))
    page.get_by_label("Words beside the drawing").fill("")
    page.keyboard.press("Enter")
    alone = captions_of(finder.similar(liked, "mini", 12))
    wait_for(page, alone)
    stroke(page, WALLS)
    wait_for_others(page, alone)
    assert page.locator(".chip").count() == 2
    press(page, "Search without the drawing: Your drawing")
    wait_for(page, alone)
    page.locator(".chip button").click()
    house = wait_for_others(page, alone)
    assert page.locator(".chip").count() == 0
    page.locator("#photos button").first.click()
    press(page, "Similar photos")
    wait_for_others(page, house)
    assert page.locator(".chip").count() == 1  # by the photo alone, until one draws on
    press(page, "← Back")
    wait_for(page, house)


def test_why_a_photo_was_found(page, gallery):
    """The best pairs are numbered on both pictures, and a part that is pointed at shows what it resembles."""
    stroke(page, WALLS)
    found(page)
    page.locator("#photos button").first.click()
    page.wait_for_selector("#pair .dot")
    result = gallery.search(drawn(page), 1)[0]
    matches = explain(gallery.model, gallery.processor, drawn(page), result.thumbnail)
    dots = page.eval_on_selector_all(
        "#pair figure:first-child .dot", "all => all.map(dot => [dot.style.top, dot.style.left])"
    )
    rows, columns = matches.grid
    wanted = [pair.sketch for pair in matches.pairs[:6]]
    assert [(float(top[:-1]) / 100 * rows - 0.5, float(left[:-1]) / 100 * columns - 0.5) for top, left in dots] == [
        pytest.approx(place) for place in wanted
    ]
    page.locator("#pair .dot").first.focus()
    heat = "document.querySelector('#pair figure:last-of-type canvas')"
    pixels = page.evaluate(f"[...{heat}.getContext('2d').getImageData(0, 0, {columns}, {rows}).data]")
    strengths = np.array(pixels).reshape(rows, columns, 4)[..., 3]
    assert np.unravel_index(strengths.argmax(), strengths.shape) == matches.pairs[0].photo
    box = page.locator("#pair figure").first.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)  # nothing is drawn there
    assert page.evaluate("document.querySelector('#pair.pointing')") is None
    page.keyboard.press("ArrowRight")
    page.get_by_text("number 2 of 12").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0


def test_a_link_opens_the_same_drawing(page, browser, address):
    page.context.grant_permissions(CLIPBOARD)
    page.get_by_label("Gallery and its model").select_option("world")
    page.get_by_role("button", name="cup").click()
    first = found(page)
    stroke(page, WALLS)
    wait_for_others(page, first)
    press(page, "Rubber")
    stroke(page, ZIGZAG)
    page.wait_for_timeout(1500)
    page.get_by_label("Words beside the drawing").fill("red & blue")
    page.keyboard.press("Enter")
    page.wait_for_timeout(1500)
    captions, paper = shown(page), drawn(page)
    press(page, "Copy link")
    page.get_by_text("The link is copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    other = browser.new_context().new_page()
    other.goto(link)
    wait_for(other, captions)
    assert np.array_equal(np.asarray(drawn(other)), np.asarray(paper))
    assert other.get_by_label("Gallery and its model").input_value() == "world"
    other.goto(f"{address}/#drawing=zz.%3Cb%3E.0a0a&gallery=none&weight=x")  # what is no drawing is left out
    wait_for_others(other, captions)
    assert drawn(other).convert("L").histogram()[0]  # the dot at the link's end
    other.context.close()


def test_what_was_found_is_saved_as_a_picture(page):
    page.get_by_role("button", name="umbrella").click()
    found(page)
    with page.expect_download() as download:
        press(page, "Save picture")
    assert download.value.suggested_filename == "found by drawing.png"
    with Image.open(download.value.path()) as picture:
        assert picture.width == 1200


def test_a_picture_of_a_sketch_is_opened_but_fits_no_link(page, tmp_path):
    page.set_input_files("#open", write_sketch(tmp_path / "sketch.png", "house", 1))
    assert len(found(page)) == 12
    press(page, "Copy link")
    page.get_by_text("A picture of yours does not fit into a link").wait_for()
    (tmp_path / "bad.png").write_bytes(b"x")
    page.set_input_files("#open", tmp_path / "bad.png")
    page.get_by_text("This browser cannot read that picture").wait_for()


def test_own_photos_are_searched_at_once_and_go_with_the_page(page, tmp_path, world, server):
    """A folder is chosen, more files are dropped; what is no photo is left out, what cannot be read is named."""
    stroke(page, WALLS)
    others = found(page)
    mine = tmp_path / "mine"
    for number, file in enumerate(sorted(world.glob("*/*.png"))[:20]):
        (mine / str(number % 2)).mkdir(parents=True, exist_ok=True)
        (mine / str(number % 2) / f"holiday {number}.png").write_bytes(file.read_bytes())
    (mine / "notes.txt").write_text("no photo")
    (mine / "broken.heic").write_bytes(b"x")
    page.set_input_files("#folder", mine)
    page.get_by_text("20 photos of yours can be searched now. Could not be read: broken.heic").wait_for()
    assert page.get_by_label("Gallery and its model").input_value() == "My own photos"
    captions = wait_for_others(page, others)
    assert len(captions) == 12 and all(caption.startswith("holiday ") for caption in captions)
    assert len(list(server.glob("splip-own-*"))) == 1
    page.evaluate(
        """async () => {
          const content = await (await fetch('examples/cup.png')).blob(), transfer = new DataTransfer();
          transfer.items.add(new File([content], 'dropped.png', {type: 'image/png'}));
          document.querySelector('#drop').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true}));
        }"""
    )
    page.get_by_text("21 photos of yours can be searched now.").wait_for()
    page.set_input_files("#files", mine / "notes.txt")
    page.get_by_text("There is no photo among these files").wait_for()
    shoot(page, "own-photos")
    page.goto("about:blank")
    until = time.monotonic() + 120
    while list(server.glob("splip-own-*")) and time.monotonic() < until:
        time.sleep(0.2)
    assert not list(server.glob("splip-own-*"))


def test_a_server_that_is_gone_is_told_in_a_sentence(page):
    page.route("**/gradio_api/run/**", lambda route: route.abort())
    stroke(page, WALLS)
    page.get_by_text("The server does not answer: try again in a moment.").wait_for()


def test_everything_but_drawing_works_with_the_keyboard(page):
    """Every control is reached by Tab, has a name, and shows that it has the focus."""
    page.get_by_role("button", name="cup").focus()
    page.keyboard.press("Enter")
    first = found(page)
    names, outlined = [], "(at => getComputedStyle(at.closest('label.tool, label.link') ?? at).outlineStyle)"
    page.mouse.click(3, 3)  # Tab goes on from there
    for _ in range(60):
        page.keyboard.press("Tab")
        at = "document.activeElement"
        if page.evaluate(f"{at} === document.body"):
            break
        label = page.evaluate(f"{at}.ariaLabel || {at}.labels?.[0]?.innerText || {at}.innerText")
        assert label and page.evaluate(f"{outlined}({at})") != "none", label
        if not page.evaluate(f"{at}.matches('a')"):
            names.append(label.strip())
    assert len(set(names)) == len(names), names
    wanted = ["Pen", "Rubber", "Undo", "Clear the drawing", "Open a picture of a sketch", "Save picture", "Copy link"]
    wanted += ["sailboat", "cup", "Words beside the drawing", "Search", "Gallery and its model", "files", "a folder"]
    assert set(wanted) <= set(names) and sum(name.startswith("Photo ") for name in names) == 12
    page.locator("#photos button").first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Similar photos").focus()
    page.keyboard.press("Enter")
    wait_for_others(page, first)
    page.get_by_role("button", name="← Back").focus()
    page.keyboard.press("Enter")
    wait_for(page, first)


PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "locale": "es-ES"}


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_on_a_phone_the_photos_lie_directly_below_the_paper(page):
    stroke(page, WALLS)
    assert len(found(page)) == 12
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("scrollTo(0, 0)")
    boxes = [image.bounding_box() for image in page.query_selector_all("#photos img")]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    bar, paper, words = (page.locator(place).bounding_box() for place in (".bar", "#paper", "#words"))
    assert bar["y"] + bar["height"] <= paper["y"]  # the tools lie on nothing
    below = boxes[0]["y"] - (paper["y"] + paper["height"])
    assert 0 < below < 60 and words["y"] > boxes[-1]["y"]  # a line about the photos, and the photos
    assert boxes[3]["y"] + 40 < 844  # two rows are seen without scrolling


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_packaged_page_opens_with_photos_and_without_faults_of_access(browser, packaged, width, colours):
    """By axe, for the page and for a photo's dialog."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="the check of access needs splip[dev]"
    ).Axe()
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=colours)
    page = context.new_page()
    page.set_default_timeout(40_000)
    page.goto(packaged)
    captions = found(page)
    assert sum(caption.startswith("sailboat") for caption in captions) >= 10  # the first example, searched at once
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper)[:3])) < 60) == (colours == "dark")
    assert faults(axe, page) == []
    shoot(page, f"page-{width}-{colours}")
    page.locator("#photos button").first.click()
    page.wait_for_selector("#pair .dot")
    assert faults(axe, page) == []
    shoot(page, f"why-{width}-{colours}")
    context.close()


def faults(axe, page) -> list[str]:
    found = axe.run(page).response["violations"]
    return [f"{fault['id']}: {[node['html'] for node in fault['nodes']]}" for fault in found]
