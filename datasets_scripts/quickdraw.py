"""QuickDraw-Ext: 110 classes of Quick, Draw! sketches with photos."""

from typing import ClassVar

from .benchmark import BenchmarkBuilder


class QuickDraw(BenchmarkBuilder):
    """Builder of `splip prepare quickdraw | quickdraw-kdsbir`."""

    names = ("quickdraw", "quickdraw-kdsbir")
    dataset = "quickdraw"
    photo_lists = ("all_photo_train.txt", "all_photo_zero.txt")
    train_sketch_list = "sketch_train.txt"
    about: ClassVar = {
        "title": "QuickDraw-Ext for sketch-based image retrieval",
        "description": "Quick, Draw! sketches of 110 classes, 3,001 in most of them, and photos of the same classes.",
        "license": "other",
        "licence_note": "The sketches are Google's Quick, Draw! data (CC BY 4.0); the photos were collected from the "
        "web and carry no licence.",
        "citation": """@inproceedings{dey2019doodle,
  title = {Doodle to Search: Practical Zero-Shot Sketch-Based Image Retrieval},
  author = {Dey, Sounak and Riba, Pau and Dutta, Anjan and Llados, Josep and Song, Yi-Zhe},
  booktitle = {CVPR},
  year = {2019}
}""",
    }
