"""The columns that every prepared dataset has: the interface between the builders and the models."""

from collections.abc import Sequence

import datasets

MODALITIES = ("sketch", "photo")
SOURCES = ("sketchy", "extended", "tuberlin", "quickdraw", "qmul", "mini", "open23", "user")
SPLITS = ("train", "query", "gallery")


def features(class_names: Sequence[str]) -> datasets.Features:
    """Return the columns of a prepared dataset.

    - `image`: the picture, its bytes embedded.
    - `modality`: "sketch" or "photo".
    - `label`: `ClassLabel` over all classes, seen and unseen, by readable name (it goes into prompts).
    - `instance_id`: a photo's own id; for a sketch the photo that it was drawn of; "" where unknown.
    - `source`: one of `SOURCES`.
    - `copies`: how often the archive's own list holds this photo; without a list, the number of its files.

    Args:
        class_names: every class, in label order; must be unique.
    """
    return datasets.Features(
        {
            "image": datasets.Image(),
            "modality": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(class_names)),
            "instance_id": datasets.Value("string"),
            "source": datasets.Value("string"),
            "copies": datasets.Value("int32"),
        }
    )
