"""What the Space's tests share: photos of the drawn world, a server in a process of its own, strokes of a mouse."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets_scripts.world.instances import make_instance
from datasets_scripts.world.parts import CATEGORIES
from datasets_scripts.world.render import draw_photo, draw_sketch
from modeling_splip.loading import load_retriever
from modeling_splip.search.gallery import Gallery

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")
BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "mug<b>bold"  # a label that must stay text in a page


def write_photos(folder: Path, names: Sequence[str], count: int = 6) -> Path:
    """Draw photos of categories of the drawn world, those of "mug" in a folder of a hostile name."""
    for name in names:
        label = HOSTILE if name == "mug" else name
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = draw_photo(make_instance(name, number, "gallery"))
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def write_sketch(file: Path, name: str, number: int) -> Path:
    """Draw a sketch of the photo of this number."""
    Image.fromarray(draw_sketch(make_instance(name, number, "gallery"), 0)).save(file)
    return file


def build(photos: Path, out: Path) -> Gallery:
    """Index photos with the frozen backbone of the drawn world."""
    return Gallery.build(photos, *load_retriever("clip:mini_clip"), out, model_name="clip:mini_clip", progress=False)


@contextlib.contextmanager
def serve(folder: Path, *galleries: Gallery, options: Sequence[str] = ()) -> Iterator[str]:
    """Run the app as a plain script in a process of its own, from this folder, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "space" / "app.py"), "--port", str(port), *options]
    for gallery in galleries:
        command += ["--gallery", str(gallery.folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"GRADIO_TEMP_DIR": str(folder / "tmp"), "TMPDIR": str(folder)}
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as server,
    ):
        try:
            while server.poll() is None and "Running on" not in log.read_text():
                time.sleep(0.2)
            assert server.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            assert server.wait(60) == 0, log.read_text()


def outlines(name: str, number: int) -> list[np.ndarray]:
    """Return the clean outlines of an instance's parts, each (N, 2), the longer side of the whole spanning [-1, 1]."""
    instance = make_instance(name, number, "draw")
    parts = CATEGORIES[name].draw(*instance.values)
    lines = [np.array(part.points if part.width else [*part.points, part.points[0]]) for part in parts]
    points = np.concatenate(lines)
    low, high = points.min(0), points.max(0)
    return [(line - (low + high) / 2) * 2 / (high - low).max() for line in lines]
