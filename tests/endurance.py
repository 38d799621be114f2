"""Kills and corrupts what splip writes and reads, and counts what was lost and what ended in a traceback: nothing may.

`python tests/endurance.py [--small] [--json FILE]`, on Linux. It is no part of the tests that run each time: with all
counts it takes up to an hour. It works in a temporary folder, on a random CLIP and drawn pictures. Each try runs in a
fork, so that a crash is counted like any other failure; `--seed` makes the same tries again.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}

import faiss  # noqa: F401  before torch and in the parent, so that forks are quick
import torch
from archives import write
from galleries import draw, make_photos
from kill_index import die_before
from PIL import ExifTags, Image
from preparing import tree_of
from tiny import SEEN, UNSEEN, draw_pair, save_clip, tiny_config

from datasets_scripts import prepare  # noqa: F401
from modeling_splip.commands.main import main as splip
from modeling_splip.data.dataset import open_dataset
from modeling_splip.image_files import image_formats, open_image, upright_rgb
from modeling_splip.search.gallery import Gallery
from modeling_splip.training import train  # noqa: F401

COUNTS = {"kills": 100, "images": 1000, "galleries": 50, "archives": 50}
SMALL = {"kills": 9, "images": 100, "galleries": 10, "archives": 12}
FORMATS = {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
FORMATS |= {"jp2": "JPEG2000", "avif": "AVIF"}


class FailedError(Exception):
    """Something was lost, or was not refused in one sentence."""


def expect(right: bool, what: str) -> None:
    if not right:
        raise FailedError(what)


# Tries in forks


def forked(work: Callable[[], int | None], change: int | None = None, seconds: float | None = None) -> tuple[int, str]:
    """Do some work in a fork; return its exit status, negative for a signal, and all that it printed.

    Args:
        change: the fork dies by kill -9 just before this change of the disk.
        seconds: it dies after so long.
    """
    with tempfile.TemporaryFile("w+") as said:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            _work_and_leave(work, change)
        timer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL)) if seconds is not None else None
        if timer:
            timer.start()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if timer:
            timer.cancel()
        said.seek(0)
        return status, said.read()


def _work_and_leave(work: Callable[[], int | None], change: int | None) -> None:
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    status = 1
    try:
        if change is not None:
            die_before(change)
        status = work() or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def command(*words: str | Path) -> Callable[[], int]:
    return lambda: splip([str(word) for word in words])


def done(work: Callable[[], int | None], what: str) -> str:
    """Do work that must succeed; return what it printed."""
    status, said = forked(work)
    expect(status == 0, f"{what} ended with {status}: {said[-1500:]}")
    return said


def done_or_refused(work: Callable[[], int | None], what: str) -> bool:
    """Return whether the work was done; otherwise it must be refused in one sentence."""
    status, said = forked(work)
    sentences = [line for line in said.splitlines() if line.startswith("splip: ")]
    expect(status in (0, 2) and "Traceback" not in said, f"{what} ended with {status}: {said[-1500:]}")
    expect(
        status == 0 or (len(sentences) == 1 and sentences[0].endswith(".")), f"{what} is refused with: {said[-800:]}"
    )
    return status == 0


# Kills


def kill_and_repeat(
    rng: random.Random,
    tries: int,
    fresh: Callable[[], None],
    work: Callable[[], int],
    again: Callable[[], int],
    check: Callable[[str], None],
) -> Counter:
    """Kill a command again and again, half of the times before a change of the disk, else at any moment.

    Args:
        fresh: makes the state before the command.
        work, again: the command, and the one that goes on after a kill.
        check: raises if something was lost; called with "killed" after a kill, "done" after the next run.
    """
    fresh()
    begin = time.monotonic()
    done(work, "The command")
    seconds, changes, counts = time.monotonic() - begin, _changes(fresh, work), Counter()
    for number in range(3 * tries):  # those that were done before the kill do not count
        if counts["killed"] == tries:
            break
        fresh()
        at = {"change": rng.randrange(changes)} if number % 2 else {"seconds": rng.uniform(0, seconds)}
        status, said = forked(work, **at)
        expect(status in (0, -signal.SIGKILL), f"Before the kill at {at}: {said[-1500:]}")
        counts["killed" if status else "done before the kill"] += 1
        try:
            check("killed")
            done(again, f"The run after a kill at {at}")
            check("done")
        except FailedError as failure:
            counts["lost"] += 1
            print(f"LOST, killed at {at}: {failure}")
    return counts


def _changes(fresh: Callable[[], None], work: Callable[[], int]) -> int:
    """Return how many changes of the disk a command makes."""

    def count() -> int:
        made = die_before(-1)
        status = work()
        print(f"\n{made()}")
        return status

    fresh()
    return int(done(count, "The command").split()[-1])


def remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(path.with_name(path.name + ".partial"), ignore_errors=True)


def kill_index(rng: random.Random, tries: int, place: Path, clip: str) -> Counter:
    before, out, photos = place / "before", place / "G", make_photos(place / "photos")
    words = ("index", photos, "--model", f"clip:{clip}", "--quiet", "--out")
    done(command(*words, before), "index")
    (photos / "cup" / "000.png").unlink()
    for number in range(30):
        draw(200 + number, "blue").save(photos / "zebra" / f"new{number}.png")

    def fresh() -> None:
        remove(out)
        shutil.copytree(before, out)

    def check(when: str) -> None:
        def searched() -> None:
            found = Gallery.open(out)
            assert len(found.search(draw(1), len(found))) == len(found) in ((24, 53) if when == "killed" else (53,))

        done(searched, f"The gallery when {when}")

    return kill_and_repeat(rng, tries, fresh, command(*words, out), command(*words, out), check)


def kill_prepare(rng: random.Random, tries: int, place: Path, raw: Path) -> Counter:
    """Every other time there is a data set before, which is replaced."""
    before, wanted, out, turn = place / "before", place / "wanted", place / "out", iter(range(10**9))
    words = ("prepare", "folder", "--data-dir", raw, "--title", "drawn")
    done(command(*words, "--unseen", "bell,fish", "--out", before), "prepare")
    done(command(*words, "--unseen", "bell", "--out", wanted), "prepare")
    trees = {"old": tree_of(before), "new": tree_of(wanted)}
    work = command(*words, "--unseen", "bell", "--out", out, "--overwrite")
    state = {"old": False}

    def fresh() -> None:
        remove(out)
        state["old"] = next(turn) % 4 > 1
        if state["old"]:
            shutil.copytree(before, out)

    def check(when: str) -> None:
        if when == "killed" and state["old"] and not out.exists():  # between two renames: the next run puts it back
            done_or_refused(command(*words, "--unseen", "bell", "--out", out), "prepare")
            expect(out.exists(), "the old data set is gone")
        found = tree_of(out) if out.exists() else None
        found = found and {path: data for path, data in found.items() if not path.startswith("old/")}
        allowed = [trees["new"], trees["old"] if state["old"] else None] if when == "killed" else [trees["new"]]
        expect(found in allowed, f"the data set when {when} is neither the old nor the new one")
        expect(when == "killed" or not (out / "old").exists(), "an old data set stays")

    return kill_and_repeat(rng, tries, fresh, work, work, check)


def kill_train(rng: random.Random, tries: int, place: Path, clip: str, dataset: Path) -> Counter:
    out, wanted = place / "run", {}
    words = ("train", "--dataset", dataset, "--base", clip, "--batch_size", "12", "--validation_classes", "2")
    words = (*words, "--epochs", "1", "--max_steps", "4", "--checkpoint_every", "1", "--output", out)

    def again() -> int:
        whole = list(out.glob("checkpoints/step-*/loop.json"))
        return splip([str(word) for word in (*words, *(["--resume"] if whole else []))])

    def check(when: str) -> None:
        if when == "killed":
            return
        weights = (out / "model" / "model.safetensors").read_bytes()
        expect(wanted.setdefault("weights", weights) == weights, "the weights are not those of an uninterrupted run")
        record = json.loads((out / "run.json").read_text())
        expect(record["finished"] and record["steps"] == 4, "the record is not that of a whole run")

    done(command(*words), "train")
    check("done")
    return kill_and_repeat(rng, tries, lambda: remove(out), command(*words), again, check)


# Corrupt files


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return the bytes with one to four faults: bits flipped, pieces cut out, doubled, overwritten or cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 200))
        piece = slice(at, at + rng.choice((1, 2, 4, 16, 64)))
        fault = rng.randrange(6)
        if fault == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif fault == 1:
            data[piece] = rng.randbytes(len(data[piece]))
        elif fault == 2:
            data[piece] = rng.choice((b"\xff", b"\0", b"\x7f")) * len(data[piece])
        elif fault == 3:
            del data[piece]
        elif fault == 4:
            data[at:at] = data[piece]
        else:
            del data[max(at, 1) :]
        data = data or bytearray(b"\0")
    return bytes(data)


def mutate_images(rng: random.Random, tries: int, place: Path, clip: str) -> Counter:
    """Mutated pictures through the one reader, and all of them through `splip index`."""
    folder, counts = place / "pictures", Counter()
    folder.mkdir()
    kinds = [(suffix, name) for suffix, name in FORMATS.items() if name in image_formats()]
    for number in range(tries):
        suffix, name = kinds[number % len(kinds)]
        file = io.BytesIO()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "camera"
        draw(number, "blue").save(file, name, exif=exif)
        (folder / f"{number:04d}.{suffix}").write_bytes(mutated(rng, file.getvalue()))
    for file in sorted(folder.iterdir()):
        status, said = forked(lambda file=file: _read(file))
        kind = {0: "read", 2: "refused"}.get(status, "crashed")
        counts[kind] += 1
        if kind == "crashed":
            print(f"CRASHED at {file.name}, {status}: {said[-1500:]}")
    if done_or_refused(command("index", folder, "--model", f"clip:{clip}", "--out", place / "G", "--quiet"), "index"):
        manifest = json.loads((place / "G" / "manifest.json").read_text())
        counts["indexed"], counts["named by index"] = manifest["count"], len(manifest["unreadable"])
        counts["lost"] = tries - manifest["count"] - len(manifest["unreadable"])
    return counts


def _read(file: Path) -> int:
    warnings.simplefilter("ignore")
    try:
        upright_rgb(open_image(file))
    except ValueError as error:
        return 2 if len(str(error).splitlines()) == 1 else 1
    return 0


def mutate_galleries(rng: random.Random, tries: int, place: Path, clip: str) -> Counter:
    """Galleries with one damaged file, opened, searched and brought up to date."""
    photos, whole, bad = make_photos(place / "photos"), place / "whole", place / "bad"
    words = ("index", photos, "--model", f"clip:{clip}", "--index", "hnsw", "--quiet", "--out")
    done(command(*words, whole), "index")
    sketch = place / "sketch.png"
    draw(5).save(sketch)
    search = ("search", sketch, "--json", "--gallery")
    wanted = _found(done(command(*search, whole), "search"), whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    counts: Counter = Counter()
    for number in range(tries):
        remove(bad)
        shutil.copytree(whole, bad)
        file = bad / files[number % len(files)]
        file.write_bytes(mutated(rng, file.read_bytes()))
        try:
            if done_or_refused(command(*search, bad), f"search with a damaged {file.name}"):
                found = _found(done(command(*search, bad), "search"), bad)
                counts["found the same" if found == wanted else "OTHER"] += 1
                expect(found == wanted, f"with a damaged {file.name} other photos are found: {found[:300]}")
            else:
                counts["refused"] += 1
            again = done_or_refused(command(*words, bad), f"index over a damaged {file.name}")
            counts["built again" if again else "not built again"] += 1
            if again:
                found = _found(done(command(*search, bad), "search after index"), bad)
                expect(found == wanted, f"after index over a damaged {file.name} other photos are found")
        except FailedError as failure:
            counts["failed"] += 1
            shutil.copytree(bad, place / f"failed{number}")
            print(f"FAILED, gallery {number}: {failure}")
    return counts


def _found(said: str, gallery: Path) -> str:
    """Return which photos were found, and how well."""
    found = json.loads(said[said.index("{" if said.lstrip()[0] == "{" else "[") :])
    rows = found["photos"] if isinstance(found, dict) and "photos" in found else found
    return json.dumps(rows).replace(str(gallery), "")


def odd_archives(rng: random.Random, raw: Path, place: Path) -> Iterator[tuple[str, Path]]:
    """Yield archives without end: with odd entries, then with mutated bytes; each with its name."""
    tree, good = tree_of(raw), next(iter(tree_of(raw).values()))
    names = [
        "../out.png",
        "/tmp/out.png",
        "photo/cup/..",
        "photo\\ant\\x.png",
        "photo/cup/a\x1b[31m.png",
        "photo//cup/.png",
    ]
    names += [
        "photo/cup/" + 250 * "x" + ".png",
        40 * "deep/" + "x.png",
        "photo/caf\u00e9/x.png",
        "photo/cafe\u0301/x.png",
    ]
    for suffix in ("zip", "tar", "tar.gz"):
        for number, name in enumerate(names):
            yield name, write(tree | {name: good}, place / f"odd{number}.{suffix}")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE):
        file = write(tree, place / f"kind{kind.decode()}.tar")
        with tarfile.open(file, "a") as archive:
            info = tarfile.TarInfo("photo/cup/special.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        yield f"tar entry of type {kind.decode()}", file
    file = write(tree, place / "bits.zip")
    for offset, name in ((6, "encrypted"), (8, "of an unknown compression")):
        data = bytearray(file.read_bytes())
        at = data.index(b"PK\x01\x02")
        data[at + offset + 2] |= 1 if offset == 6 else 77
        (place / f"bits{offset}.zip").write_bytes(data)
        yield f"zip entry that is {name}", place / f"bits{offset}.zip"
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(next(iter(tree)), good)
    yield "a path twice", file
    wholes = [write(tree, place / f"whole.{suffix}") for suffix in ("zip", "tar", "tar.gz")]
    while True:
        for whole in wholes:
            file = place / f"mutated.{whole.name.partition('.')[2]}"
            file.write_bytes(mutated(rng, whole.read_bytes()))
            yield f"mutated {file.suffix}", file


def try_archives(rng: random.Random, tries: int, place: Path, raw: Path) -> Counter:
    """Odd archives through `splip prepare`: whole data sets or none come out, and nothing lies anywhere else."""
    counts, out, folder = Counter(), place / "out", place / "archives"
    folder.mkdir()
    archives = odd_archives(rng, raw, folder)
    # Odd ones of all sorts in any number of tries: a third of these, then mutated ones.
    odd = [next(archives) for _ in range(38)]
    rng.shuffle(odd)
    for number in range(tries):
        name, file = odd.pop() if odd and number % 3 else next(archives)
        before = {*place.rglob("*")}
        try:
            made = done_or_refused(
                command("prepare", "folder", "--data-dir", file, "--unseen", "bell", "--out", out), f"prepare of {name}"
            )
            counts["prepared" if made else "refused"] += 1
            if made:
                done(lambda: expect(len(open_dataset(out).train) > 0, "it is empty"), f"opening what {name} gave")
                remove(out)
            left = sorted(str(path.relative_to(place)) for path in {*place.rglob("*")} - before)
            expect(not left, f"prepare of {name} left {left[:4]}")
        except FailedError as failure:
            counts["failed"] += 1
            remove(out)
            print(f"FAILED: {failure}")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="about a tenth of everything")
    for name, count in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, help=f"how many (default: {count})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts")
    args = parser.parse_args()
    given = {name: getattr(args, name) for name in COUNTS if getattr(args, name) is not None}
    tries = (SMALL if args.small else COUNTS) | given
    torch.set_num_threads(1)
    rng, counts = random.Random(args.seed), {}
    with tempfile.TemporaryDirectory(prefix="splip-endurance-") as folder, contextlib.chdir(folder):
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        for name, part in parts(Path(folder), tries).items():
            begin = time.monotonic()
            (Path(folder) / name).mkdir()
            try:
                counts[name] = dict(part(rng, Path(folder) / name))
            except FailedError as error:
                counts[name] = {"failed": 1}
                print(f"FAILED: {error}")
            print(f"{name}: {counts[name]} ({time.monotonic() - begin:.0f} s)", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"seed": args.seed, "counts": counts}, indent=2) + "\n")
    bad = sum(part.get(kind, 0) for part in counts.values() for kind in ("lost", "crashed", "failed"))
    print("Nothing was lost, and no traceback was seen." if not bad else f"{bad} FAILED.")
    return int(bad > 0)


def parts(folder: Path, tries: dict[str, int]) -> dict[str, Callable[[random.Random, Path], Counter]]:
    """Return what is tried, by name, after making the model and the data that it is tried on."""
    clip, raw, dataset = save_clip(tiny_config(), folder / "clip"), folder / "raw", folder / "dataset"
    for corners, name in enumerate((*SEEN, *UNSEEN), 3):
        for modality in ("photo", "sketch"):
            (raw / modality / name).mkdir(parents=True)
        for number in range(6):
            draw_pair(raw, name, corners, number, 2)
    done(command("prepare", "folder", "--data-dir", raw, "--unseen", ",".join(UNSEEN), "--out", dataset), "prepare")
    third = tries["kills"] // 3
    return {
        "kills of index": lambda rng, place: kill_index(rng, tries["kills"] - 2 * third, place, clip),
        "kills of prepare": lambda rng, place: kill_prepare(rng, third, place, raw),
        "kills of train": lambda rng, place: kill_train(rng, third, place, clip, dataset),
        "images": lambda rng, place: mutate_images(rng, tries["images"], place, clip),
        "galleries": lambda rng, place: mutate_galleries(rng, tries["galleries"], place, clip),
        "archives": lambda rng, place: try_archives(rng, tries["archives"], place, raw),
    }


if __name__ == "__main__":
    sys.exit(main())
