"""Write the pictures of the Space in docs/images: `python tests/screenshots.py`. It needs Debian's chromium."""

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from spaces import BROWSER_ARGUMENTS, CHROMIUM, ROOT, serve

# Width and height, colours, and whether the first photo is opened.
PICTURES = {
    "space-1280": (1280, 820, "light", False),
    "space-768": (768, 1024, "dark", False),
    "space-390": (390, 844, "light", False),
    "space-why": (1280, 820, "light", True),
}
EXAMPLE = "umbrella"


def main() -> None:
    """Open the packaged photos in a browser, choose an example, and photograph the page."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder)) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=str(CHROMIUM), args=BROWSER_ARGUMENTS) as browser,
    ):
        for name, (width, height, colours, opened) in PICTURES.items():
            size = {"width": width, "height": height}
            photograph(browser.new_page(viewport=size, color_scheme=colours), address, name, opened)


def photograph(page: Page, address: str, name: str, opened: bool) -> None:
    """Write one picture."""
    page.goto(address)
    page.wait_for_selector("#photos img")
    page.get_by_role("button", name=EXAMPLE, exact=True).click()
    page.wait_for_selector(f"#photos button[aria-label*='{EXAMPLE}']")
    if opened:
        page.locator("#photos button").first.click()
        page.wait_for_selector("#pair .dot")
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)  # until every picture is drawn
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.convert("RGB").save(ROOT / "docs" / "images" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
