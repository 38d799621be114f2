"""Draw in the browser and see the photos found."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from splip_space.server import known_names, serve, upload_folder
from splip_space.zero_gpu import lend_gpu

from datasets_scripts import open23
from modeling_splip.loading import DEFAULT_MODEL, LARGER_MODEL, drawn_world_note
from modeling_splip.processing_splip import INVERSIONS
from modeling_splip.search import service
from modeling_splip.search.packaged import open_packaged
from modeling_splip.search.photos import limit_images
from modeling_splip.search.service import (
    Finder,
    OwnPhotos,
    check_address,
    chosen_galleries,
    read_sketch,
)

FOLDER = Path(__file__).parent
EXAMPLES = ("sailboat", "butterfly", "umbrella", "motorbike", "strawberry", "cup")
OPEN23 = "open23"
MAX_FILE = "15mb"
MAX_PIXELS = 40_000_000
KEEP_SECONDS = 3600


class Actions:
    """What happens on a press, a stroke or a call of the API."""

    def __init__(self, finder: Finder):
        self.finder = finder
        self._own: WeakValueDictionary[str | None, OwnPhotos] = WeakValueDictionary()  # by session

    def draw(self, editor: dict | None, words: str, weight: float, name: str, k: float, own: OwnPhotos | None) -> tuple:
        """Search by the canvas, words or both: pictures, their gallery and rows, a line about them."""
        sketch = (editor or {}).get("composite")
        pictures, shown, status = _pictures(name, self.finder.search, sketch, words, weight, name, k, own)
        return pictures, shown, " ".join(filter(None, [status, self.finder.remark(sketch)]))

    def stroke(self, live: bool, editor: dict | None, *args: Any) -> tuple:
        """Search after a stroke, if that is wanted and something is drawn."""
        if not live or self.finder.is_blank((editor or {}).get("composite")):
            return gr.skip(), gr.skip(), gr.skip()
        return self.draw(editor, *args)

    def greet(self) -> tuple:
        """Search the packaged photos by the first example, so that a page does not open empty."""
        if OPEN23 not in self.finder.galleries:
            return gr.skip(), gr.skip(), gr.skip()
        sketch = read_sketch(str(_example(EXAMPLES[0])), MAX_PIXELS)
        pictures, shown, _ = self.draw({"composite": sketch}, "", 0.5, OPEN23, 12, None)
        return pictures, shown, f"Found with the first example, a {EXAMPLES[0]}. **Now draw a thing yourself.**"

    def click(self, event: gr.SelectData, shown: tuple[str, list[int]], k: float, own: OwnPhotos | None) -> tuple:
        """Find photos like the one clicked, in the gallery that it was found in."""
        name, rows = shown
        return _pictures(name, self.finder.similar, rows[event.index], name, k, own)

    def upload(self, files: list[str], gallery: str | None, request: gr.Request) -> tuple:
        """Make this session's photos searchable with a gallery's model, in place of its earlier ones."""
        new = _sentence(self.finder.index, files, gallery, MAX_PIXELS)
        self.leave(request)
        self._own[request.session_hash] = new
        choices = [*self.finder.titles(), service.OWN_PHOTOS]
        return new, gr.Dropdown(choices=choices, value=service.OWN_PHOTOS), new.summary()

    def leave(self, request: gr.Request) -> None:
        """Delete the photos of a session that ends."""
        own = self._own.pop(request.session_hash, None)
        if own is not None:
            own.delete()

    def search(
        self, sketch: str | None, words: str, weight: float, gallery: str, k: float, own: OwnPhotos | None
    ) -> dict[str, list]:
        """Search by a sketch's file, words or both; at least one of them. Returns photos, best first, and a remark.

        The remark is there if the sketch is inverted or does not look drawn.
        """
        image = _sentence(read_sketch, sketch, MAX_PIXELS) if sketch else None
        found = _sentence(self.finder.search, image, words, weight, gallery, k, own)
        remark = self.finder.remark(image)
        return {"photos": [result.as_public_dict() for result in found]} | ({"remark": remark} if remark else {})

    def similar(self, row: float, gallery: str, k: float, own: OwnPhotos | None) -> dict[str, list]:
        """Find photos like one that was found, by its row. Returns photos, best first."""
        return {"photos": [result.as_public_dict() for result in _sentence(self.finder.similar, row, gallery, k, own)]}

    def galleries(self) -> dict[str, int]:
        """List the galleries by name, with their numbers of photos."""
        return {name: len(gallery) for name, gallery in self.finder.galleries.items()}


def _sentence(action: Callable, *args: Any) -> Any:
    """Run it; what is wrong with the input is shown to the visitor in a sentence."""
    try:
        return action(*args)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _pictures(name: str, action: Callable, *args: Any) -> tuple[list, tuple[str, list[int]], str]:
    start = time.perf_counter()
    found = _sentence(action, *args)
    pictures = [(it.thumbnail, f"{it.label or it.as_public_dict()['name']} {it.score:.3f}") for it in found]
    took = 1000 * (time.perf_counter() - start)
    status = f"{len(found)} photos in {took:.0f} ms, best first, with their scores. Click one for similar ones."
    return pictures, (name, [result.row for result in found]), status


def _example(name: str) -> Path:
    return FOLDER / "examples" / f"{name}.png"


def about(finder: Finder) -> list[str]:
    """Return what a visitor must know of the packaged photos and model, in one line; nothing of other galleries."""
    if OPEN23 not in finder.galleries:
        return []
    gallery = finder.galleries[OPEN23]
    line = (
        f"{len(gallery):,d} real photos of {len(gallery.labels())} categories "
        "([Caltech-101](https://data.caltech.edu/records/mzrjq-6wc02), CC BY 4.0)."
    )
    if gallery.manifest["model"] == DEFAULT_MODEL:
        line += (
            " The model is small (8.5 million parameters, 64 px; its weights are for non-commercial research) and was "
            "trained on these categories too: this gallery shows how it works and proves nothing. A larger model: "
            f"`--model {LARGER_MODEL}`."
        )
    return [line]


def open_galleries(folders: list[str] | None, model: str | None) -> Finder:
    """Open what is named, by folder or Hub id; where nothing is, the photos that come with the package."""
    chosen = chosen_galleries(folders)
    if chosen:
        return Finder.open(chosen, model)
    return Finder({OPEN23: open_packaged(open23.FILES["photo"], model or DEFAULT_MODEL)})


def build_app(finder: Finder) -> gr.Blocks:
    """Return the app over opened galleries."""
    actions = Actions(finder)
    with gr.Blocks(title="Draw a sketch, find the photo", delete_cache=(600, KEEP_SECONDS)) as app:
        own = gr.State(None, time_to_live=KEEP_SECONDS, delete_callback=lambda value: value and value.delete())
        shown = gr.State(("", []))
        gr.Markdown("\n\n".join(["# Draw a sketch, find the photo", *about(finder)]), elem_id="about")
        with gr.Row():
            with gr.Column(scale=2, min_width=280, elem_id="draw"):
                sketch, examples, button, live, words = _drawing()
            with gr.Column(scale=3, min_width=280, elem_id="found"):
                status, photos = _found()
        name, k, weight, files = _settings(finder.titles())
        inputs, outputs = [sketch, words, weight, name, k, own], [photos, shown, status]
        quiet: dict[str, Any] = {"api_visibility": "private"}
        gr.on([button.click, words.submit], actions.draw, inputs, outputs, **quiet)
        rest = gr.Button(visible="hidden", elem_id="stroke")
        stroke = rest.click(actions.stroke, [live, *inputs], outputs, show_progress="hidden", **quiet)
        stroke.then(js="() => answered()", **quiet)
        sketch.upload(js="() => ask()", **quiet)
        examples.load_input_event.then(js="() => ask()", **quiet)
        photos.select(actions.click, [shown, k, own], outputs, **quiet)
        sketch.clear(js="() => takeBrush()", **quiet)
        greeted = app.load(js=(FOLDER / "page.js").read_text("utf-8"), **quiet).then(
            actions.greet, None, outputs, **quiet
        )
        greeted.then(js="() => answered()", **quiet)
        uploaded = files.upload(actions.upload, [files, name], [own, name, status], api_name="own_photos")
        uploaded.then(lambda: ([], ("", [])), None, [photos, shown], **quiet)
        app.unload(actions.leave)
        row = _api(actions, [words, weight, name, k, own], [name, k, own])
        for number in (k, weight, row):
            number.preprocess = lambda value: value  # the finder refuses what is no number, Gradio fails on it
    return app.queue(default_concurrency_limit=16, max_size=200)


def _drawing() -> tuple:
    tools: dict[str, Any] = {"brush": gr.Brush(4, colors=["#000000"], color_mode="fixed"), "eraser": gr.Eraser(28)}
    tools |= {"layers": False, "transforms": (), "buttons": []}
    sketch = gr.Sketchpad(
        label="Your sketch",
        elem_id="sketch",
        type="pil",
        image_mode="RGB",
        sources=("upload", "clipboard"),
        canvas_size=(512, 512),
        fixed_canvas=True,
        height=400,
        **tools,
    )
    files = [[str(_example(name))] for name in EXAMPLES]
    examples = gr.Examples(files, sketch, label="Examples, drawn by people", elem_id="examples")
    button = gr.Button("Search", variant="primary", elem_id="search")
    live = gr.Checkbox(True, label="Search after each stroke")
    words = gr.Textbox(
        label="Words beside the sketch", value="", placeholder="for example: red", max_length=service.MAX_WORDS
    )
    return sketch, examples, button, live, words


def _settings(titles: list[tuple[str, str]]) -> tuple:
    with gr.Accordion("Settings and your own photos", open=False):
        name = gr.Dropdown(titles, value=titles[0][1], label="Gallery and its model")
        k = gr.Slider(1, service.MAX_RESULTS, 12, step=1, label="Photos wanted")
        weight = gr.Slider(0, 1, 0.5, step=0.05, label="Weight of the words")
        text = f"Upload up to {service.MAX_OWN_PHOTOS} photos to search"
        files = gr.UploadButton(text, file_count="multiple", file_types=["image"], elem_id="own")
    return name, k, weight, files


def _found() -> tuple:
    status = gr.Markdown("Draw the outline of a thing, then press **Search**.", elem_id="status")
    look: dict[str, Any] = {"show_label": False, "height": "auto", "object_fit": "contain", "buttons": []}
    photos = gr.Gallery(label="Photos found", elem_id="photos", allow_preview=False, format="jpeg", **look)
    return status, photos


def _api(actions: Actions, search_inputs: list, similar_inputs: list) -> gr.Number:
    """Add the endpoints for programs, on components that no browser shows; return the one for a row."""
    with gr.Row(visible=False):
        button, found = gr.Button(), gr.JSON()
        sketch, row = gr.File(label="sketch"), gr.Number(label="row", precision=0)
        button.click(actions.search, [sketch, *search_inputs], found, api_name="search")
        button.click(actions.similar, [row, *similar_inputs], found, api_name="similar")
        button.click(actions.galleries, None, found, api_name="galleries")
    return row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip space`."""
    parser.add_argument(
        "--gallery",
        action="append",
        help="folder of `splip index`, or Hub dataset; repeatable (default: runs/demo/gallery, otherwise photos that "
        "come with splip)",
    )
    parser.add_argument(
        "--model", help=f"default: the one that the gallery was built with; for splip's own photos {DEFAULT_MODEL}"
    )
    parser.add_argument(
        "--invert-sketches",
        choices=INVERSIONS,
        help="invert sketches: auto: those that look white on black; true: all; false: none (default: the model's)",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--allow-host", action="append", default=[], help="another name of this server; repeatable")


def run(args: argparse.Namespace) -> int:
    """Open the galleries and serve the app until it is stopped."""
    check_address(args.host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), args.port)
    OwnPhotos.sweep()
    finder = open_galleries(args.gallery, args.model or os.environ.get("SPLIP_MODEL"))
    for gallery in finder.galleries.values():
        if args.invert_sketches:
            gallery.processor.invert_sketches = args.invert_sketches
        note = drawn_world_note(gallery.model, gallery.manifest.get("drawn", False))
        if note:
            print(note, file=sys.stderr)
    for gallery_model in {id(gallery.model): gallery.model for gallery in finder.galleries.values()}.values():
        lend_gpu(gallery_model)
    limit_images(MAX_PIXELS)
    options: dict[str, Any] = {"max_file_size": MAX_FILE, "ssr_mode": False, "footer_links": ["api"]}
    options["css"] = (FOLDER / "page.css").read_text("utf-8")
    options |= {"server_name": args.host, "server_port": args.port}
    names = known_names(args.host or os.environ.get("GRADIO_SERVER_NAME"), args.allow_host)
    with upload_folder():
        serve(build_app(finder), names, **options)
    return 0


def main() -> int:
    """Run the app as a script, as a hosted Space does."""
    parser = argparse.ArgumentParser(description="Draw in the browser and see the photos found.")
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except (OSError, ValueError) as error:
        print(f"splip: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
