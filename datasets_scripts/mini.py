"""The `mini` data set: photos and sketches of the drawn world, with three unseen folds and one for tuning.

python -m datasets_scripts.mini docs/images/world_contact_sheet.png    # draw the contact sheet
"""

import argparse
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from .schema import features
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


@dataclass
class MiniConfig(datasets.BuilderConfig):
    """How many pictures of which categories.

    Attributes:
        seen: categories of the `train` split; unseen: those of `query` and `gallery`.
        train_photos: photos of a seen category, with one or two sketches each in turn.
        gallery_photos: photos of an unseen category; the first `fine_photos` have `fine_sketches` sketches each,
            which are the queries.
        seed: seed of the instances.
    """

    seen: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    train_photos: int = 80
    gallery_photos: int = 120
    fine_photos: int = 20
    fine_sketches: int = 3
    seed: int = 0

    @property
    def data_version(self) -> str:
        """The world's version and hash: results of different worlds are never put in one table."""
        return f"{WORLD_VERSION}-{world_hash()}"


def mini_config(name: str, **sizes: int) -> MiniConfig:
    """Return the configuration of this name; `sizes` replace its numbers of pictures.

    Raises:
        ValueError: where there is no such configuration.
    """
    if name not in UNSEEN:
        raise ValueError(f"unknown configuration {name!r} of mini: choose one of {', '.join(UNSEEN)}.")
    unseen = UNSEEN[name]
    seen = tuple(category for category in CATEGORY_NAMES if category not in unseen)
    version = datasets.Version(f"{WORLD_VERSION}.0.0")
    return MiniConfig(name=name, version=version, seen=seen, unseen=unseen, **sizes)


def generate(split: str, config: MiniConfig) -> Iterator[tuple[str, dict]]:
    """Yield keys and examples, with the columns of `schema.features`, images as PNG bytes.

    An instance is the same in whichever configuration it appears, but train and gallery share none.

    Args:
        split: "train" (seen, both modalities), "query" (unseen sketches) or "gallery" (unseen photos).
    """
    names, stream, count = {
        "train": (config.seen, "train", config.train_photos),
        "query": (config.unseen, "gallery", config.fine_photos),
        "gallery": (config.unseen, "gallery", config.gallery_photos),
    }[split]
    for name in names:
        for number in range(count):
            instance = make_instance(name, number, stream, config.seed)
            own = f"{name.replace(' ', '_')}_{stream}_{number:04d}"
            if split != "query":
                yield own, _example(draw_photo(instance), "photo", name, own)
            sketches = {"train": 1 + number % 2, "query": config.fine_sketches, "gallery": 0}[split]
            for index in range(sketches):
                yield f"{own}-{index + 1}", _example(draw_sketch(instance, index), "sketch", name, own)


def _example(pixels: np.ndarray, modality: str, label: str, instance_id: str) -> dict:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=4)
    return {
        "image": {"bytes": file.getvalue(), "path": None},
        "modality": modality,
        "label": label,
        "instance_id": instance_id,
        "source": "mini",
        "copies": 1,
    }


class Mini(datasets.GeneratorBasedBuilder):
    """Builder of `mini`: `Mini(config_name="mini-fold0", cache_dir=...).download_and_prepare(out, ...)`."""

    BUILDER_CONFIG_CLASS = MiniConfig
    BUILDER_CONFIGS = [mini_config(name) for name in UNSEEN]  # noqa: RUF012
    DEFAULT_CONFIG_NAME = "mini"

    def _info(self) -> datasets.DatasetInfo:
        config = self.config
        return datasets.DatasetInfo(
            description=f"Objects of {len(CATEGORY_NAMES)} categories drawn by program, as photos and as sketches.",
            features=features([*config.seen, *config.unseen]),
            license="Apache-2.0",
            version=config.version,
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        splits = ("train", "query", "gallery")
        return [datasets.SplitGenerator(datasets.NamedSplit(s), gen_kwargs={"split": s}) for s in splits]

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        yield from generate(split, self.config)


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
