"""The `mini` data set: photos and sketches of the drawn world, with three unseen folds and one for tuning.

python -m datasets_scripts.mini docs/images/world_contact_sheet.png    # draw the contact sheet
"""

import argparse
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .base import Builder, Plan, Row
from .schema import SPLITS
from .world.instances import CATEGORY_NAMES, FOLDS, KNOBS, TUNING, WORLD_VERSION, make_instance, world_hash
from .world.render import draw_photo, draw_sketch

UNSEEN = {
    "mini": FOLDS[0],
    "mini-fold0": FOLDS[0],
    "mini-fold1": FOLDS[1],
    "mini-fold2": FOLDS[2],
    "mini-tuning": TUNING,
}
"""Unseen categories of each configuration; all others are seen. The folds are reported, `mini-tuning` never is."""


class Drawn(NamedTuple):
    """A picture of an instance, which is drawn when it is read.

    Attributes:
        category, number, stream, seed: the instance, see `make_instance`.
        sketch: number of the sketch, -1 for the photo.
    """

    category: str
    number: int
    stream: str
    seed: int
    sketch: int = -1
    size: int = 10_000  # bytes, roughly: the unit of parallel work depends on it

    @property
    def instance_id(self) -> str:
        """The instance's id."""
        return f"{self.category.replace(' ', '_')}_{self.stream}_{self.number:04d}"

    @property
    def name(self) -> str:
        """File name."""
        return f"{self.instance_id}.png" if self.sketch < 0 else f"{self.instance_id}-{self.sketch + 1}.png"

    path = name

    def read(self) -> bytes:
        """Return the picture as PNG."""
        instance = make_instance(self.category, self.number, self.stream, self.seed)
        pixels = draw_photo(instance) if self.sketch < 0 else draw_sketch(instance, self.sketch)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=4)
        return file.getvalue()


@dataclass
class Mini(Builder):
    """Builder of `splip prepare mini-fold0 | ...`; it needs no data folder.

    Attributes:
        train_photos: photos of a seen category, with one or two sketches each in turn.
        gallery_photos: photos of an unseen category; the first `fine_photos` have `fine_sketches` sketches each,
            which are the queries.
        seed: seed of the instances.
    """

    names = tuple(UNSEEN)
    needs_data = False

    train_photos: int = 80
    gallery_photos: int = 120
    fine_photos: int = 20
    fine_sketches: int = 3
    seed: int = 0

    @property
    def title(self) -> str:
        """`mini` is `mini-fold0`."""
        return "mini-fold0" if self.name == "mini" else self.name

    def plan(self) -> Plan:
        """Return the rows; nothing is drawn. The version is the world's, with its hash."""
        unseen = UNSEEN[self.name]
        seen = [category for category in CATEGORY_NAMES if category not in unseen]
        rows = {split: list(self._rows(split, unseen if split != "train" else seen)) for split in SPLITS}
        return Plan(seen, list(unseen), rows, version=f"{WORLD_VERSION}-{world_hash()}")

    def _rows(self, split: str, categories: Iterable[str]) -> Iterator[Row]:
        """Yield the rows of a split. An instance is the same in every configuration; train and gallery share none."""
        stream = "train" if split == "train" else "gallery"
        count = {"train": self.train_photos, "query": self.fine_photos, "gallery": self.gallery_photos}[split]
        for category in categories:
            for number in range(count):
                photo = Drawn(category, number, stream, self.seed)
                sketches = {"train": 1 + number % 2, "query": self.fine_sketches, "gallery": 0}[split]
                if split != "query":
                    yield Row(photo, "photo", category, photo.instance_id, "mini", 1)
                for index in range(sketches):
                    drawn = photo._replace(sketch=index)
                    yield Row(drawn, "sketch", category, photo.instance_id, "mini", 1)


def contact_sheet() -> Image.Image:
    """Return all categories in two columns: for two instances each a photo, a clean drawing and two sketches."""
    blocks = []
    for name in CATEGORY_NAMES:
        cells = []
        for number in range(2):
            instance = make_instance(name, number, "contact sheet")
            cells += [draw_photo(instance), draw_sketch(instance, 0, KNOBS.web)]
            cells += [draw_sketch(instance, index) for index in (0, 1)]
        blocks.append(np.concatenate(cells, axis=1))
    half = len(blocks) // 2
    return Image.fromarray(np.concatenate([np.concatenate(blocks[:half]), np.concatenate(blocks[half:])], axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the contact sheet of the drawn world.")
    parser.add_argument("out", type=Path, help="file to write, such as sheet.png")
    args = parser.parse_args()
    contact_sheet().quantize(128).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
