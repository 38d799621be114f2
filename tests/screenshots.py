"""Write the pictures of the Space in docs/images: `python tests/screenshots.py`. It needs Debian's chromium."""

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from spaces import BROWSER_ARGUMENTS, BRUSH_IN_HAND, CHROMIUM, ROOT, serve

PICTURES = {"space": (1280, 740), "space-390": (390, 844)}
EXAMPLE = "umbrella"


def main() -> None:
    """Open the packaged photos in a browser, choose an example, and photograph the page."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder)) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=str(CHROMIUM), args=BROWSER_ARGUMENTS) as browser,
    ):
        for name, (width, height) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            page.wait_for_selector(BRUSH_IN_HAND)
            page.get_by_role("button", name=EXAMPLE).click()
            page.wait_for_selector(f"#photos img[alt^='{EXAMPLE}']")
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
            page.wait_for_timeout(1500)  # until every picture is drawn
            shot = Image.open(io.BytesIO(page.screenshot(full_page=True)))
            shot.convert("RGB").save(ROOT / "docs" / "images" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
