"""Sketchy with its extended gallery: splits 1 and 2, its test classes alone, and folds of them, with instance pairs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from modeling_splip.common.text import quoted

from .archive import Member, list_files
from .benchmark import BenchmarkBuilder
from .pictures import photo_id_of

ORIGINAL = re.compile(r"n\d+_\d+")  # an ImageNet id; added photos are called ext_<number>
FLAWS = ("error", "ambiguous", "pose", "context")


@dataclass
class Sketchy(BenchmarkBuilder):
    """Builder of `splip prepare sketchy1 | sketchy2 | ...`; sketch `n02691156_58-1.png` is of `n02691156_58.jpg`.

    `sketchy21` is `sketchy2` without its seen classes: for testing only. Its folds train on 14 of the 21 unseen classes
    and test on 7.

    Attributes:
        drop_flawed: kinds of flawed sketches to leave out: any of `FLAWS`.
        info_dir: folder or archive with the `invalid-<kind>.txt` lists; the data folder where "".
    """

    names = (
        *("sketchy1", "sketchy2", "sketchy1-sempcyc"),
        *("sketchy21", "sketchy21-fold0", "sketchy21-fold1", "sketchy21-fold2"),
    )
    dataset = "sketchy"
    photo_lists = ("all_photo_filelist_train.txt", "all_photo_filelist_zero.txt")
    train_sketch_list = "sketch_tx_000000000000_ready_filelist_train.txt"
    photo_of = staticmethod(photo_id_of)
    about: ClassVar = {
        "title": "Sketchy-Ext for sketch-based image retrieval",
        "description": "75,481 human-drawn sketches of 12,500 photos in 125 classes, and 60,502 further photos.",
        "license": "other",
        "licence_note": "The Sketchy Database states no explicit licence; its photos come from ImageNet "
        "(non-commercial research). Check both before you publish a copy.",
        "citation": """@article{sangkloy2016sketchy,
  title = {The Sketchy Database: Learning to Retrieve Badly Drawn Bunnies},
  author = {Sangkloy, Patsorn and Burnell, Nathan and Ham, Cusuh and Hays, James},
  journal = {ACM Transactions on Graphics},
  year = {2016}
}""",
    }

    drop_flawed: Sequence[str] = ()
    info_dir: str = ""

    def source(self, name: str) -> str:
        """Return "sketchy" for a sketch or a photo that sketches were drawn of, "extended" for an added photo."""
        return "sketchy" if ORIGINAL.match(name) else "extended"

    def flawed_sketches(self, files: Sequence[Member]) -> set[str] | None:
        """Return the ids of the sketches that `invalid-<kind>.txt` names."""
        if not self.drop_flawed:
            return None
        unknown = [kind for kind in self.drop_flawed if kind not in FLAWS]
        if unknown:
            raise ValueError(f"--drop-flawed does not know {quoted(unknown)}: take some of {', '.join(FLAWS)}.")
        files = list_files(self.info_dir, self.scratch) if self.info_dir else files
        ids: set[str] = set()
        for kind in self.drop_flawed:
            member = next((m for m in files if m.name == f"invalid-{kind}.txt"), None)
            if member is None:
                raise FileNotFoundError(
                    f"invalid-{kind}.txt of Sketchy's info archive is missing: name its folder by --info-dir."
                )
            lines = member.read().decode("utf-8", "replace").split()
            ids.update(line.replace(",", "-").removesuffix(".png") for line in lines)
        return ids
