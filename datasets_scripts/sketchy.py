"""Sketchy with its extended gallery, splits 1 and 2, with the photo that each sketch was drawn of."""

import re
from collections.abc import Sequence
from typing import ClassVar

from .archive import Member, list_files
from .base import photo_id_of
from .benchmark import BenchmarkBuilder, check_flaws, configs

ORIGINAL = re.compile(r"n\d+_\d+")  # an ImageNet id; added photos are called ext_<number>


class Sketchy(BenchmarkBuilder):
    """Builder of `splip prepare sketchy1 | sketchy2 | sketchy1-sempcyc`."""

    BUILDER_CONFIGS = configs("sketchy1", "sketchy2", "sketchy1-sempcyc")
    dataset = "sketchy"
    photo_lists = ("all_photo_filelist_train.txt", "all_photo_filelist_zero.txt")
    train_sketch_list = "sketch_tx_000000000000_ready_filelist_train.txt"
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

    def source(self, name: str) -> str:
        """Return "sketchy" for a sketch or a photo that sketches were drawn of, "extended" for an added photo."""
        return "sketchy" if ORIGINAL.match(name) else "extended"

    def photo_of(self, name: str) -> str:
        """Return the photo's stem: `n02691156_58-1.png` was drawn of `n02691156_58.jpg`."""
        return photo_id_of(name)

    def _flawed_sketches(self, files: Sequence[Member]) -> set[str]:
        """Return the ids of the sketches that `invalid-<kind>.txt` names."""
        kinds = self.config.drop_flawed or []
        check_flaws(kinds)
        if self.config.info_dir:
            files = list_files(self.config.info_dir, self.config.scratch)
        ids: set[str] = set()
        for kind in kinds:
            member = next((m for m in files if m.name == f"invalid-{kind}.txt"), None)
            if member is None:
                raise FileNotFoundError(
                    f"invalid-{kind}.txt of Sketchy's info archive is missing; name it by --info-dir"
                )
            lines = member.read().decode("utf-8", "replace").split()
            ids.update(line.replace(",", "-").removesuffix(".png") for line in lines)
        return ids
