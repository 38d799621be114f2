"""The `open23` data set: people's drawings and photos of 23 categories, which come with the package under CC BY 4.0.

The pictures are encoded files, PNG drawings and JPEG photos, in `open23/sketches.parquet` and `open23/photos.parquet`.
The two files were made once, from folders `sketch/<category>/` and `photo/<category>/`, by

    python -m datasets_scripts.open23 FOLDER

- Drawings: Quick, Draw! by Google Creative Lab, a choice of them, their strokes drawn on 160 x 160 px.
- Photos: Caltech-101 by Fei-Fei Li, Rob Fergus and Pietro Perona (CaltechDATA), made smaller: at most 160 px a side.
  Near-duplicates, grey photos and drawings were left out, and classes renamed: `ibis` and `pigeon` are "bird".

The packaged backbone has seen photos of six categories (`BACKBONE_SAW`), which are always seen. The 17 others are dealt
out to three folds of unseen categories by `draw_folds`; `class_lists/open23-fold*.json` hold the result by name.
"""

import argparse
import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from modeling_splip.common.files import written_whole
from modeling_splip.common.text import readable

from .base import Builder, Plan, Row, empty_rows
from .splits import load_split

FOLDER = Path(__file__).parent / "open23"
FILES = {"sketch": FOLDER / "sketches.parquet", "photo": FOLDER / "photos.parquet"}
COLUMNS = datasets.Features(
    {"image": datasets.Image(), "label": datasets.Value("string"), "id": datasets.Value("string")}
)
BACKBONE_SAW = ("bird", "brain", "car", "octopus", "scissors", "tree")
FOLDS = ("open23-fold0", "open23-fold1", "open23-fold2")
FOLD_SEED = 23


class Stored(NamedTuple):
    """A picture in one of the two Parquet files: which file, which row, its file name, and its size in bytes."""

    path: str
    size: int
    modality: str
    row: int

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.path.rpartition("/")[2]

    def read(self) -> bytes:
        """Return the encoded image."""
        return _table(self.modality)["image"][self.row]["bytes"].as_py()


class Open23(Builder):
    """Builder of `splip prepare open23-fold0 | open23-fold1 | open23-fold2`; it needs no data folder."""

    names = FOLDS
    needs_data = False
    about: ClassVar = {
        "title": "open23: people's drawings and photos of 23 categories",
        "description": "593 Quick, Draw! drawings and 1,112 Caltech-101 photos of 23 everyday categories, at most 160 "
        "pixels a side. The unseen categories of the three folds differ; none of their photos was seen by the "
        "backbone `small_clip`.",
        "license": "cc-by-4.0",
        "licence_note": "Both sources are under CC BY 4.0. Drawings: The Quick, Draw! Dataset, Google Creative Lab; "
        "strokes were drawn as pictures. Photos: Caltech-101, Fei-Fei Li, Rob Fergus and Pietro Perona, CaltechDATA "
        "(doi 10.22002/D1.20086); photos were chosen, made smaller, and some classes renamed.",
        "citation": """@article{feifei2007learning,
  title = {Learning Generative Visual Models from Few Training Examples: An Incremental Bayesian Approach Tested on 101
           Object Categories},
  author = {Fei-Fei, Li and Fergus, Rob and Perona, Pietro},
  journal = {Computer Vision and Image Understanding},
  year = {2007}
}
@article{ha2017neural,
  title = {A Neural Representation of Sketch Drawings},
  author = {Ha, David and Eck, Douglas},
  journal = {arXiv:1704.03477},
  year = {2017}
}""",
    }

    def plan(self) -> Plan:
        """Return the rows of this fold; no picture is read."""
        split = load_split(self.name)
        seen, unseen = list(split.seen or ()), list(split.unseen)
        rows = empty_rows()
        for modality, place in (("photo", "gallery"), ("sketch", "query")):
            for label, name, picture in _pictures(modality):
                instance = f"{label}/{name}" if modality == "photo" else ""
                row = Row(picture, modality, label, instance, "open23", 1)
                rows["train" if label in seen else place].append(row)
        order = {label: index for index, label in enumerate(seen + unseen)}
        for chosen in rows.values():
            chosen.sort(key=lambda row: (order[row.label], row.modality, row.picture.path))
        return Plan(seen, unseen, rows, report={"split": split.title, "split_source": split.source})


def draw_folds(categories: Sequence[str]) -> list[list[str]]:
    """Deal the categories whose photos the backbone has not seen out to three folds of unseen ones, 6, 6 and 5."""
    names = sorted(set(categories) - set(BACKBONE_SAW))
    random.Random(FOLD_SEED).shuffle(names)
    return [sorted(names[start : start + 6]) for start in (0, 6, 12)]


def pack(folder: Path) -> None:
    """Write the two Parquet files anew from `sketch/<category>/*` and `photo/<category>/*` below `folder`."""
    for modality, target in FILES.items():
        files = sorted((folder / modality).glob("*/*"), key=lambda file: (readable(file.parent.name), file.name))
        rows = [
            {
                "image": {"bytes": file.read_bytes(), "path": file.name},
                "label": readable(file.parent.name),
                "id": file.stem,
            }
            for file in files
        ]
        with written_whole(target) as partial:
            pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS.arrow_schema), partial, compression="zstd")


@functools.cache
def _table(modality: str) -> pa.Table:
    return pq.read_table(FILES[modality])


def _pictures(modality: str) -> list[tuple[str, str, Stored]]:
    """Return (category, id, picture) of every picture of one modality."""
    table = _table(modality)
    found = []
    for row, (image, label, name) in enumerate(zip(*(table[key] for key in ("image", "label", "id")), strict=True)):
        path = f"{modality}/{label}/{image['path']}"
        found.append((label.as_py(), name.as_py(), Stored(path, len(image["bytes"].as_buffer()), modality, row)))
    return found


def main() -> None:
    """Pack the pictures of a folder."""
    parser = argparse.ArgumentParser(description="Write the Parquet files of open23 anew from folders of pictures.")
    parser.add_argument("folder", type=Path, help="holds sketch/<category>/ and photo/<category>/")
    pack(parser.parse_args().folder)


if __name__ == "__main__":
    main()
