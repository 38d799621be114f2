"""Sixteen programs ask the Space at once for a minute: waiting times, errors, and answers that are another's.

    python -m benchmarks.space_load --out benchmarks/results/space_load.json

A Space over photos of the drawn world runs in a process of its own, searched by the frozen backbone. Every client is
a session that asks in turn by its own drawings, by a drawing with words, and for photos like one found; half of them
also search photos that they upload. What the server answers is compared with what the gallery itself finds. The
clients share the machine with the server: a server of its own would answer sooner.
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio
import gradio_client
import numpy as np
import torch
from gradio_client import Client, handle_file
from PIL import Image
from tqdm import tqdm

from datasets_scripts.world.instances import CATEGORY_NAMES, make_instance
from datasets_scripts.world.render import draw_photo, draw_sketch
from modeling_splip.common.files import check_writable, write_json
from modeling_splip.loading import load_retriever
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.result import Result
from modeling_splip.search.service import OWN_PHOTOS

ROOT = Path(__file__).resolve().parents[1]
K = 12
OWN = 4
TIMEOUT_S = 120


def write_photos(folder: Path, each: int) -> list[Path]:
    """Draw photos of every category of the drawn world."""
    files = []
    for name in tqdm(CATEGORY_NAMES, desc="Drawing", unit="category"):
        for number in range(each):
            file = folder / name / f"{name}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_photo(make_instance(name, number, "load"))).save(file)
            files.append(file)
    return files


@contextlib.contextmanager
def serve(gallery: Gallery, folder: Path) -> Iterator[str]:
    """Run the Space in a process of its own, and yield its address.

    Raises:
        RuntimeError: if it does not start.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "space" / "app.py"), "--gallery", str(gallery.folder), "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_TEMP_DIR": str(folder / "tmp")}
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as server,
    ):
        try:
            while server.poll() is None and "Running on" not in log.read_text():
                time.sleep(0.2)
            if server.poll() is not None:
                raise RuntimeError(f"The Space did not start: {log.read_text()}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@dataclass
class Question:
    """What a client asks of which gallery, and the names and scores of photos that may answer it."""

    endpoint: str
    gallery: str
    inputs: dict[str, Any]
    answer: dict[str, float]

    def is_answered_by(self, photos: list[dict[str, Any]]) -> bool:
        """Return whether these photos are the best ones, but for near ties."""
        known = all(abs(self.answer.get(photo["name"], 9) - photo["score"]) < 1e-3 for photo in photos)
        return known and len(photos) == min(K, len(self.answer))


class Visitor(threading.Thread):
    """One client: a session, its questions, and its own photos where it has any.

    Attributes:
        waits: seconds until each answer.
        mixed: number of answers to something else than was asked.
        errors: what was raised, in words.
    """

    def __init__(self, address: str, questions: list[Question], own: list[Path]):
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self.mixed = 0
        self.errors: list[str] = []
        self._address, self._questions, self._own = address, questions, own

    def start_with(self, others: threading.Barrier, seconds: float) -> None:
        """Upload now; ask in turn for some seconds as soon as all others have uploaded, too."""
        self._others, self._seconds = others, seconds
        self.start()

    def run(self) -> None:
        try:
            client = Client(self._address, verbose=False, httpx_kwargs={"timeout": TIMEOUT_S})
            if self._own:
                client.predict([handle_file(str(file)) for file in self._own], api_name="/own_photos")
            self._others.wait()
            stop_at = time.monotonic() + self._seconds
            for question in itertools.cycle(self._questions):
                if time.monotonic() >= stop_at:
                    break
                self._ask(client, question)
        except Exception as error:  # whatever it is, it counts
            self.errors.append(f"{type(error).__name__}: {error}")
            self._others.abort()

    def _ask(self, client: Client, question: Question) -> None:
        start = time.perf_counter()
        inputs = {"gallery": question.gallery, "k": K, **question.inputs}
        photos = client.predict(**inputs, api_name=question.endpoint)["photos"]
        self.waits.append(time.perf_counter() - start)
        self.mixed += not question.is_answered_by(photos)


def questions_of(number: int, gallery: Gallery, own: list[Path], folder: Path) -> list[Question]:
    """Return what client `number` asks about two drawings that no other client has."""
    name, questions = Path(gallery.folder).name, []

    def ask(endpoint: str, inputs: dict[str, Any], results: list[Result], where: str = name) -> None:
        answer = {Path(result.path).name: result.score for result in results}
        questions.append(Question(endpoint, where, inputs, answer))

    for index in range(2):
        category = CATEGORY_NAMES[(2 * number + index) % len(CATEGORY_NAMES)]
        file, words = folder / f"sketch{number}-{index}.png", f"a {category}"
        Image.fromarray(draw_sketch(make_instance(category, number, "load"), index)).save(file)
        sketch = {"sketch": handle_file(str(file))}
        drawn = gallery.search(file, 2 * K)
        ask("/search", sketch | {"words": ""}, drawn)
        ask("/search", sketch | {"words": words}, gallery.search(file, 2 * K, words))
        ask("/similar", {"row": drawn[0].row}, gallery.similar(drawn[0], 2 * K))
        if own:
            paths = [file.relative_to(gallery.manifest["root"]).as_posix() for file in own]
            ask("/search", sketch | {"words": ""}, gallery.search(file, K, where={"path": paths}), OWN_PHOTOS)
    return questions


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Build a gallery, serve it, and let all clients ask for some seconds."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        photos = write_photos(folder / "photos", args.photos)
        name = "clip:mini_clip"
        gallery = Gallery.build(folder / "photos", *load_retriever(name), folder / "world", model_name=name)
        with serve(gallery, folder) as address:
            visitors = []
            for number in tqdm(range(args.clients), desc="Preparing", unit="client"):
                own = photos[number * OWN : (number + 1) * OWN] if number % 2 else []
                questions = questions_of(number, gallery, own, folder)
                visitors.append(Visitor(address, questions, own))
            took = let_them_ask(visitors, args.seconds)
    return {"photos": len(gallery), "clients": args.clients, "seconds": round(took, 1), **summary(visitors, took)}


def let_them_ask(visitors: list[Visitor], seconds: float) -> float:
    """Let all ask at once; return the seconds that it took."""
    everybody = threading.Barrier(len(visitors) + 1)
    for visitor in visitors:
        visitor.start_with(everybody, seconds)
    with contextlib.suppress(threading.BrokenBarrierError):  # the one who broke it has the reason
        everybody.wait()
    start = time.monotonic()
    for _ in tqdm(range(round(seconds)), desc="Asking", unit="s"):
        time.sleep(1)
    for visitor in visitors:
        visitor.join()
    return time.monotonic() - start


def summary(visitors: list[Visitor], seconds: float) -> dict[str, Any]:
    waits = 1000 * np.array([wait for visitor in visitors for wait in visitor.waits])
    ranks = (50, 95, 99) if len(waits) else ()
    return {
        "answers": len(waits),
        "answers_per_s": round(len(waits) / seconds, 1),
        "fewest_of_a_client": min(len(visitor.waits) for visitor in visitors),
        **{f"p{rank}_ms": round(float(np.percentile(waits, rank)), 1) for rank in ranks},
        "mixed": sum(visitor.mixed for visitor in visitors),
        "errors": [error for visitor in visitors for error in visitor.errors],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--photos", type=int, default=25, help="of each of the 40 categories")
    parser.add_argument("--quick", action="store_true", help="5 seconds, 3 photos each: to see that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON, which is printed anyway")
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.photos = 5, 3
    if args.out:
        check_writable(args.out)
    record = measure(args)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "gradio": gradio.__version__}
    versions["gradio_client"] = gradio_client.__version__
    record["machine"] = {"cores": os.cpu_count(), "processor": platform.machine(), **versions}
    print(json.dumps(record, indent=1))
    if args.out:
        write_json(args.out, record)
    return 1 if record["errors"] or record["mixed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
