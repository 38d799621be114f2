"""Miniature archives of every layout in circulation, with their known defects, built by program.

A tree is a dict of path -> bytes. Every class of the benchmark is there, with a few images of 8 x 8 px each.
"""

import hashlib
import io
import re
import tarfile
import zipfile
from functools import cache
from pathlib import Path

from PIL import Image

from datasets_scripts.splits import FOLDER, load_split

Tree = dict[str, bytes]


@cache
def image(name: str, kind: str = "JPEG", size: int = 8) -> bytes:
    """Return an image whose pixels, and so its bytes, depend on `name`."""
    pixels = hashlib.shake_128(name.encode()).digest(3 * size * size)
    file = io.BytesIO()
    Image.frombytes("RGB", (size, size), pixels).save(file, kind)
    return file.getvalue()


def folders(dataset: str) -> dict[str, list[str]]:
    """Return readable class name -> known spellings of its folder, the first being SAKE's and ZSE-SBIR's."""
    import json

    data = json.loads((FOLDER / f"classes-{dataset}.json").read_text("utf-8"))
    return {entry["name"]: entry["spellings"] for entry in data["classes"]}


def photo_ids(folder: str) -> tuple[str, str]:
    """Return the ids of the two photos of a Sketchy class that sketches were drawn of."""
    number = int(hashlib.md5(folder.encode()).hexdigest()[:7], 16) % 10**8
    return f"n{number:08d}_1", f"n{number:08d}_22"


def underscored(folder: str) -> str:
    return re.sub(r"[ -]", "_", folder)


def sketchy_sake() -> Tree:
    """Layout 1: originals twice, lists of both splits, camel/c.jpg, junk; three sketches of two photos a class."""
    tree: Tree = {}
    for spellings in folders("sketchy").values():
        tree |= _sketchy_class(spellings[0])
    extend = "Sketchy/EXTEND_image_sketchy_ready/camel"
    tree[f"{extend}/c.jpg"] = tree.pop(f"{extend}/{photo_ids('camel')[1]}.jpg")
    for number, name in ((0, "sketchy2"), (1, "sketchy1")):
        tree |= _sketchy_lists(tree, f"zeroshot{number}", name)
    tree["Sketchy/EXTEND_image_sketchy_ready/cat/Thumbs.db"] = b"junk"
    tree["Sketchy/256x256/sketch/tx_000100000000/cat/a-1.png"] = image("another variant", "PNG")
    return tree


def _sketchy_class(folder: str) -> Tree:
    tree: Tree = {}
    for number, photo in enumerate(photo_ids(folder)):
        tree[f"Sketchy/256x256/photo/tx_000000000000_ready/{folder}/{photo}.jpg"] = image(photo)
        tree[f"Sketchy/EXTEND_image_sketchy_ready/{folder}/{photo}.jpg"] = image(photo)
        for k in range(1, 3 - number):
            sketch = f"{photo}-{k}"
            tree[f"Sketchy/256x256/sketch/tx_000000000000_ready/{folder}/{sketch}.png"] = image(sketch, "PNG")
    tree[f"Sketchy/EXTEND_image_sketchy_ready/{folder}/ext_1.jpg"] = image(f"ext {folder}")
    return tree


def _sketchy_lists(tree: Tree, folder: str, split_name: str) -> Tree:
    """Photo lists with every row, and a training list of sketches that lacks the second of each photo."""
    split, lists = load_split(split_name), {}
    of = {spellings[0]: name for name, spellings in folders("sketchy").items()}
    for half, names in (("train", split.seen), ("zero", split.unseen)):
        paths = [p.removeprefix("Sketchy/") for p in tree if p.split("/")[-2] in of and of[p.split("/")[-2]] in names]
        photos = [p for p in paths if p.endswith(".jpg")]
        sketches = [p for p in paths if p.endswith(".png") and (half == "zero" or not p.endswith("-2.png"))]
        rows = {"all_photo": photos, "sketch_tx_000000000000_ready": sketches}
        for kind, chosen in rows.items():
            text = "".join(f"{path} {names.index(of[path.split('/')[-2]])}\n" for path in sorted(chosen))
            lists[f"Sketchy/{folder}/{kind}_filelist_{half}.txt"] = text.encode()
    return lists


def sketchy_sempcyc() -> Tree:
    """Layout 2: underscored folders, `extended_photo`, no lists."""
    moves = {
        "256x256/photo/tx_000000000000_ready": "photo/tx_000000000000",
        "256x256/sketch/tx_000000000000_ready": "sketch/tx_000000000000",
        "EXTEND_image_sketchy_ready": "extended_photo",
    }
    tree = {}
    for path, content in sketchy_sake().items():
        for old, new in moves.items():
            if path.startswith(f"Sketchy/{old}/"):
                folder, name = path.split("/")[-2:]
                folder = underscored(folder) if folder.startswith(("hot-", "jack-")) else folder
                tree[f"Sketchy/{new}/{folder}/{name}"] = content
    return tree


def forked(tree: Tree, prefix: str = "") -> Tree:
    """Layout 3 of a layout-2 Sketchy tree: `sketch/<class>` and `photo/<class>`, every photo once."""
    moved = {}
    for path, content in tree.items():
        _, part, *_, folder, name = path.split("/")
        moved[f"{prefix}{'sketch' if part == 'sketch' else 'photo'}/{folder}/{name}"] = content
    return moved


def clipprompt(tree: Tree) -> Tree:
    """Layout 4 of a layout-2 Sketchy tree: halves, sketches under .jpg names that are JPEG files."""
    unseen = {spellings[0] for name, spellings in folders("sketchy").items() if name in load_split("sketchy2").unseen}
    moved = {}
    for path, content in forked(tree).items():
        modality, folder, name = path.split("/")
        half = "val" if folder in unseen else "train"
        content = image(name) if modality == "sketch" else content
        moved[f"Sketchy/{half}/{modality}/{folder}/{name.replace('.png', '.jpg')}"] = content
    return moved


def table(tree: Tree) -> Tree:
    """Layout 5: a CSV file with another machine's paths, beside files in folders of no known layout."""
    rows, moved = ["img_path,text,m1,m2,label"], {}
    for number, (path, content) in enumerate(forked(tree).items()):
        modality, folder, name = path.split("/")
        part = "drawings" if modality == "sketch" else "pictures"
        moved[f"somewhere/{part}/{folder}/{name}"] = content
        text = f'"a photo of a {folder}, perhaps."' if number % 2 else f"a photo of a {folder}."
        rows.append(f"/data/dataset/x/{part}/{folder}/{name},{text},{int(modality == 'sketch')},3,{number}")
    return moved | {"lists/all_sketchy.csv": "\n".join(rows).encode()}


def tuberlin_sake() -> Tree:
    """Layout 1: folder names with spaces and hyphens, .JPEG photos, lists without duplicates."""
    tree: Tree = {}
    for number, (_, (folder, *_)) in enumerate(folders("tuberlin").items()):
        tree[f"TUBerlin/png_ready/{folder}/{80 * number + 1}.png"] = image(f"tu sketch {folder}", "PNG")
        for k in range(2):
            tree[f"TUBerlin/ImageResized_ready/{folder}/n{number:08d}_{k}.JPEG"] = image(f"tu {folder} {k}")
    split = load_split("tuberlin")
    of = {spellings[0]: name for name, spellings in folders("tuberlin").items()}
    for half, names in (("train", split.seen), ("zero", split.unseen)):
        photos = [p for p in tree if p.endswith(".JPEG") and of[p.split("/")[2]] in names]
        rows = [f"{p.removeprefix('TUBerlin/')} {names.index(of[p.split('/')[2]])}\n" for p in photos]
        tree[f"TUBerlin/zeroshot/ImageResized_ready_filelist_{half}.txt"] = "".join(rows).encode()
    return tree


def tuberlin_sempcyc() -> Tree:
    """Layout 2 before its renames: sketches with underscores, photos with joined and misspelt folders."""
    tree: Tree = {}
    for folder, *others in folders("tuberlin").values():
        joined = next((s for s in others if " " not in s and "-" not in s), folder)
        tree[f"TU-Berlin/sketches/{underscored(folder)}/1.png"] = image(f"tu sketch {folder}", "PNG")
        tree[f"TU-Berlin/images/{joined}/pic_00001.jpg"] = image(f"tu {folder}")
    return tree


def quickdraw() -> Tree:
    """Layout 1: mixed separators, free photo names, the misspelt photo folder, a script and a list among the images."""
    tree: Tree = {}
    for number, (folder, *_) in enumerate(folders("quickdraw").values()):
        photos = "effiel_tower" if folder == "eiffel tower" else folder
        tree[f"QuickDraw/sketches/{folder}/{4 * 10**15 + number}.png"] = image(f"qd sketch {folder}", "PNG")
        tree[f"QuickDraw/images/{photos}/image_00001.jpg"] = image(f"qd {folder}")
        tree[f"QuickDraw/images/{photos}/a {folder} in the sun"] = image(f"qd free {folder}")
    tree["QuickDraw/images/cactus/s.sh"] = b"#!/bin/sh\n"
    tree["QuickDraw/images/class_labels.txt"] = b"airplane\n"
    return tree


def qmul(label: str, halves: bool) -> Tree:
    """ShoeV2 or ChairV2: three training and two test photos with two sketches each, and a sketch of no photo."""
    root, tree = f"{label.title()}V2", {}
    ids = [f"11{number}" for number in range(5)]
    for number, name in enumerate(ids):
        half = "train" if number < 3 else "test"
        photo = f"{root}/{half}B" if halves else f"{root}_F/{root}_photo"
        sketch = f"{root}/{half}A" if halves else f"{root}_F/{root}_sketch_png"
        tree[f"{photo}/{name}.png"] = image(f"{label} {name}", "PNG")
        tree |= {f"{sketch}/{name}_{k}.png": image(f"{label} {name} {k}", "PNG") for k in (1, 2)}
    tree[f"{root}/trainA/999_1.png" if halves else f"{root}_F/{root}_sketch_png/999_1.png"] = image("lost", "PNG")
    if not halves:
        for half, names in (("train", ids[:3]), ("test", ids[3:])):
            tree[f"{root}_F/photo_{half}.txt"] = "\n".join(f"{name}.png" for name in names).encode()
    return tree


def write(tree: Tree, target: Path) -> Path:
    """Write a tree as a folder, or as the .zip, .tar or .tar.gz file that `target` names."""
    if target.name.endswith(".zip"):
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in tree.items():
                archive.writestr(path, content)
    elif ".tar" in target.name:
        with tarfile.open(target, "w:gz" if target.name.endswith("gz") else "w") as archive:
            for path, content in tree.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for path, content in tree.items():
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return target
