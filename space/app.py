"""Draw in the browser and see the photos found."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from splip_space.endpoints import AT_ONCE, MAX_PIXELS, MAX_WAITING, SHOWN, Actions
from splip_space.server import known_names, serve, upload_folder
from splip_space.zero_gpu import lend_gpu
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from datasets_scripts import open23
from modeling_splip.loading import DEFAULT_MODEL, LARGER_MODEL, drawn_world_note
from modeling_splip.processing_splip import INVERSIONS
from modeling_splip.search import service
from modeling_splip.search.own_photos import OwnPhotos
from modeling_splip.search.packaged import open_packaged
from modeling_splip.search.photos import limit_images
from modeling_splip.search.service import Finder, check_address, chosen_galleries

FOLDER = Path(__file__).parent
TITLE = "Draw a sketch, find the photo"
EXAMPLES = ("sailboat", "butterfly", "umbrella", "motorbike", "strawberry", "cup")
OPEN23 = "open23"
MAX_FILE = "15mb"
KEEP_SECONDS = 3600
# The page asks no other host, and runs no script but its own.
POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'"


def about(finder: Finder) -> str:
    """Return what a visitor must know of the packaged photos and model, as HTML; nothing of other galleries."""
    if OPEN23 not in finder.galleries:
        return ""
    gallery = finder.galleries[OPEN23]
    text = (
        f"{len(gallery):,d} real photos of {len(gallery.labels())} categories "
        '(<a href="https://data.caltech.edu/records/mzrjq-6wc02">Caltech-101</a>, CC BY 4.0).'
    )
    if gallery.manifest["model"] == DEFAULT_MODEL:
        text += (
            " The model is small (8.5 million parameters, 64 px; its weights are for non-commercial research) and was "
            "trained on these categories too: this gallery shows how it works and proves nothing. A larger model: "
            f"<code>splip space --model {LARGER_MODEL}</code>."
        )
    return f"<p>{text}</p>"


def open_galleries(folders: list[str] | None, model: str | None) -> Finder:
    """Open what is named, by folder or Hub id; where nothing is, the photos that come with the package."""
    chosen = chosen_galleries(folders)
    if chosen:
        return Finder.open(chosen, model)
    return Finder({OPEN23: open_packaged(open23.FILES["photo"], model or DEFAULT_MODEL)})


def build_app(finder: Finder, *, tools: bool = False) -> tuple[gr.Blocks, list[BaseRoute]]:
    """Return the endpoints over opened galleries, and the routes of the page that asks them.

    Args:
        tools: whether the endpoints are tools for assistants too; these have no session for photos of their own.
    """
    actions, names = Actions(finder), list(finder.galleries)
    with gr.Blocks(title=TITLE, delete_cache=(600, KEEP_SECONDS)) as app:
        own = gr.State(None, time_to_live=KEEP_SECONDS, delete_callback=lambda value: value and value.delete())
        button, found, saved = gr.Button(), gr.JSON(label="found"), gr.Image(label="picture", format="png")
        sketch, words, add = gr.Image(), gr.Textbox("", max_length=service.MAX_WORDS), gr.Checkbox(False)
        whole = gr.Checkbox(False)
        gallery = gr.Dropdown([*names, service.OWN_PHOTOS], value=names[0])
        weight, k = gr.Number(0.5), gr.Number(SHOWN, precision=0)
        row, like = gr.Number(precision=0), gr.Number(None, precision=0)
        files = gr.File(file_count="multiple")
        for given in (sketch, weight, k, row, like):
            given.preprocess = lambda value: value  # the finder refuses what is wrong, in a sentence
        mine: dict[str, Any] = {"api_name": "own_photos", "api_visibility": "undocumented" if tools else "public"}
        asked = [sketch, words, weight, gallery]
        button.click(actions.search, [*asked, k, like, own], found, api_name="search")
        button.click(actions.similar, [row, gallery, k, own], found, api_name="similar")
        explained = [sketch, row, gallery, whole, own]
        button.click(actions.explain, explained, found, api_name="explain")
        button.click(actions.picture, [*asked, like, own], saved, api_name="picture")
        button.click(actions.own_photos, [files, gallery, add, own], [own, found], **mine)
        button.click(actions.galleries, None, found, api_name="galleries")
        app.unload(actions.leave)
    app.queue(default_concurrency_limit=AT_ONCE, max_size=MAX_WAITING, api_open=True)
    return app, [Route("/photo/{key}/{row:int}", actions.photo), *page_routes(finder)]


def page_routes(finder: Finder) -> list[BaseRoute]:
    """Return the routes of the page and of its files."""
    facts = {
        "galleries": [{"name": name, "title": title} for title, name in finder.titles()],
        "examples": EXAMPLES,
        "opens": EXAMPLES[0] if OPEN23 in finder.galleries else None,
        "own": service.OWN_PHOTOS,
        "ownLimit": service.MAX_OWN_PHOTOS,
    }
    page = (FOLDER / "page" / "index.html").read_text("utf-8")
    page = page.replace("{facts}", json.dumps(facts).replace("<", "\\u003c")).replace("{about}", about(finder))

    def whole(request: Request) -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})

    return [Route("/", whole), *[Mount(f"/{name}", _Fresh(directory=FOLDER / name)) for name in ("page", "examples")]]


class _Fresh(StaticFiles):
    """Files that a browser asks for again, so that a page never runs parts of two versions."""

    def file_response(self, *args: Any, **kwargs: Any) -> Any:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


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
    parser.add_argument("--mcp", action="store_true", help="also serve the actions as tools for assistants (MCP)")


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
    options: dict[str, Any] = {"max_file_size": MAX_FILE, "ssr_mode": False, "mcp_server": args.mcp}
    options |= {"server_name": args.host, "server_port": args.port}
    names = known_names(args.host or os.environ.get("GRADIO_SERVER_NAME"), args.allow_host)
    with upload_folder():  # read where components are made
        app, routes = build_app(finder, tools=args.mcp)
        # Before Gradio's own routes: the page stands in place of Gradio's.
        serve(app, names, app_kwargs={"routes": routes}, **options)
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
