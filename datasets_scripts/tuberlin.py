"""TU-Berlin sketches with the extended photo gallery."""

from typing import ClassVar

from .benchmark import BenchmarkBuilder


class TuBerlin(BenchmarkBuilder):
    """Builder of `splip prepare tuberlin | tuberlin-sempcyc | tuberlin-kdsbir`."""

    names = ("tuberlin", "tuberlin-sempcyc", "tuberlin-kdsbir")
    dataset = "tuberlin"
    photo_lists = ("ImageResized_ready_filelist_train.txt", "ImageResized_ready_filelist_zero.txt")
    train_sketch_list = "png_ready_filelist_train.txt"
    about: ClassVar = {
        "title": "TU-Berlin-Ext for sketch-based image retrieval",
        "description": "20,000 human-drawn sketches in 250 classes, and about 204,000 photos of the same classes.",
        "license": "other",
        "licence_note": "The sketches are licensed by their authors under Creative Commons Attribution 4.0; "
        "the photos were collected from ImageNet and the web and carry no licence.",
        "citation": """@article{eitz2012humans,
  title = {How Do Humans Sketch Objects?},
  author = {Eitz, Mathias and Hays, James and Alexa, Marc},
  journal = {ACM Transactions on Graphics},
  year = {2012}
}""",
    }
