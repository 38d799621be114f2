"""Tiny made-up pictures for the pretraining, in both forms that it reads."""

import gzip
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ["cat", "cow", "owl", "palm tree"]  # "cow" and the "tree" are test classes of Sketchy-2
FINE = ["tabby", "ox"]  # whose everyday words are "cat" and "cow"


def photo(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Return a photo of one colour, which tells its number."""
    return Image.new("RGB", size, (20 * (number % 12), 100, 255 - 20 * (number // 12)))


def drawing(number: int) -> Image.Image:
    """Return a dark polygon on white with `3 + number` corners."""
    image = Image.new("L", (96, 96), 255)
    angles = np.arange(3 + number) * 2 * np.pi / (3 + number)
    corners = [(48 + 40 * np.cos(angle), 48 + 40 * np.sin(angle)) for angle in angles]
    ImageDraw.Draw(image).polygon(corners, outline=0, width=3)
    return image


def write_folders(root: Path) -> list[str]:
    """Write photos in folders, drawings as `.ndjson` and in folders; return the command's arguments for them."""
    for number, name in enumerate([*CLASSES, *FINE]):
        folder = root / "photos" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for index in range(4):
            photo(4 * number + index, (80, 70)).save(folder / f"{index}.jpg", quality=95)
    (root / "drawings" / "palm_tree").mkdir(parents=True)
    drawing(3).save(root / "drawings" / "palm_tree" / "1.png")
    for name in CLASSES[:3]:
        strokes = [[[0, 200, 200], [0, 0, 100]], [[50, 60], [10, 90], [0, 12]]]  # raw files tell times, too
        lines = [{"word": name, "recognized": index != 1, "drawing": strokes} for index in range(4)]
        (root / "drawings" / f"{name}.ndjson").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return ["--photos", str(root / "photos"), "--drawings", str(root / "drawings")]


def write_packed(root: Path) -> list[str]:
    """Write 4 photos of every class in mosaics of 2 x 2 and 3 drawings of every class; return the arguments."""
    root.mkdir(parents=True)
    names = [*CLASSES, *FINE]
    everyday = {4: 0, 5: 1}
    fine = [index % len(names) for index in range(4 * len(names))]
    for mosaic in range(len(fine) // 4):
        sheet = Image.new("RGB", (128, 128))
        for place in range(4):
            sheet.paste(photo(4 * mosaic + place), (64 * (place % 2), 64 * (place // 2)))
        sheet.save(root / f"photos-{mosaic:04d}.jpg", quality=98, subsampling=0)
    drawn = [index % len(CLASSES) for index in range(3 * len(CLASSES))]
    ink = np.stack([np.asarray(drawing(label).resize((128, 128))) < 128 for label in drawn])  # (M, 128, 128)
    (root / "drawings.bin.gz").write_bytes(gzip.compress(np.packbits(ink).tobytes()))
    meta = {"names": names, "fine": fine, "coarse": [everyday.get(label, -1) for label in fine], "drawings": drawn}
    (root / "meta.json").write_text(json.dumps(meta))
    return ["--packed", str(root)]


def write_selection(root: Path) -> list[str]:
    """Write two classes of `{sketch,photo}/<class>/`; return the command's arguments."""
    for number, name in enumerate(["kite", "star"]):
        for modality in ("sketch", "photo"):
            (root / modality / name).mkdir(parents=True)
        for index in range(2):
            drawing(number).save(root / "sketch" / name / f"{index}.png")
            photo(9 * number + index).save(root / "photo" / name / f"{index}.jpg")
    return ["--select", str(root)]
