"""Where the photos of a gallery come from: a folder, a prepared dataset, a Hub id, a list of files."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from ..common.hub import is_hub_id
from ..common.text import composed
from ..data.dataset import INFO_FILE, open_dataset
from ..image_files import MAX_PIXELS, image_formats, image_in_work, read_regular, upright_rgb
from .photo_files import left_out_sentence, list_photos

NOT_A_FILE = -1
LATEST = 2**63 - 1  # nanoseconds since 1970 that a table holds: until the year 2262
_SPLITS = ("train", "query", "gallery")


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo that can be read.

    Attributes:
        path: its name in the gallery, unique: relative to the folder, or `split/number` in a dataset.
        label: its class; in a folder the sub-folder that it lies in, "" at the top.
        size: bytes; 0 where it is not a file.
        mtime_ns: time of its last change; `NOT_A_FILE` where it is not a file, or the time is before 1970 or after
            2262, so that its content is compared.
        read: returns the encoded image.
        metadata: further columns.
    """

    path: str
    label: str
    size: int
    mtime_ns: int
    read: Callable[[], bytes]
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PhotoSource:
    """Photos in their order in the gallery.

    Attributes:
        name: what the user passed.
        root: the folder that paths are relative to, absolute; "" where there is none.
        photos: at least one, but for a source whose photos are not listed one by one.
        metadata: the features of further columns.
        left_out: in a folder, how many files of each suffix are no photos.
        drawn: whether they are pictures of the drawn world.
    """

    name: str
    root: str
    photos: list[Photo]
    metadata: dict[str, datasets.Value]
    left_out: dict[str, int] = field(default_factory=dict)
    drawn: bool = False


def find_photos(
    photos: str | os.PathLike | Sequence[str | os.PathLike] | datasets.Dataset,
    split: str | None = None,
    follow_paths: bool = False,
) -> PhotoSource:
    """List the photos of a source without decoding any.

    Args:
        photos: a folder of photos (searched recursively), a prepared dataset's folder (its gallery split), a Hub id
            `owner/name`, a list of files, or a `datasets.Dataset` with an image column.
        split: of a dataset; default: `gallery` where there is one, otherwise the only one or `train`.
        follow_paths: whether an image cell of a dataset that names a file of this machine is read from there.

    Raises:
        FileNotFoundError, ValueError, OSError: in one sentence, if there is no such source or no photo in it.
    """
    if isinstance(photos, datasets.Dataset):
        return _from_dataset("dataset", photos, split or str(photos.split or "photos"), follow_paths)
    if not isinstance(photos, str | os.PathLike):
        return _from_files([Path(path) for path in photos])
    name, folder = str(photos), Path(photos).expanduser()
    if folder.is_dir():
        if (folder / INFO_FILE).is_file():
            return _from_prepared(folder, split or "gallery", follow_paths)
        return _from_folder(folder)
    if folder.exists():
        raise ValueError(f"'{name}' is a file: pass the folder of photos, or a list of files in Python.")
    if is_hub_id(name):
        return _from_hub(name, split, follow_paths)
    raise FileNotFoundError(f"There is no folder '{name}': pass a folder of photos, a prepared dataset or a Hub id.")


@contextmanager
def photo_in_work(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Yield a decoded image: RGB, upright by its EXIF orientation, transparency laid on white.

    While a large one is in work, other large ones wait.

    Raises:
        ValueError: if it is no image of a common format, damaged, or of more than `max_pixels`.
    """
    with image_in_work(data, max_pixels) as image:
        yield upright_rgb(image)


def limit_images(max_pixels: int) -> None:
    """Let PIL, wherever this process calls it, open few formats and sizes: Gradio, too, opens images by PIL.

    In the formats left out, a tiny file may ask for much memory by its tiles. `photo_in_work` checks that first.
    """
    Image.ID[:] = [name for name in image_formats() if name not in ("JPEG2000", "TIFF")]
    Image.MAX_IMAGE_PIXELS = max_pixels // 2  # PIL refuses an image of more than twice this before decoding it


def file_photo(file: Path, name: str, label: str) -> Photo:
    """Return a photo that is a file, under a name in the gallery and with a label."""
    try:
        facts = file.stat()
        size, mtime_ns = facts.st_size, facts.st_mtime_ns
        if not 0 <= mtime_ns <= LATEST:
            mtime_ns = NOT_A_FILE
    except OSError:  # a dangling link: when it is read, it is named
        size, mtime_ns = 0, NOT_A_FILE
    return Photo(name, label, size, mtime_ns, partial(read_regular, file))


def _from_folder(folder: Path) -> PhotoSource:
    found = folder_photos(folder)
    if not found.photos:
        others = f" ({left_out_sentence(found.left_out)})" if found.left_out else ""
        raise ValueError(f"Folder '{folder}' has no photo at any depth{others}: check the path.")
    return found


def folder_photos(folder: Path) -> PhotoSource:
    """Return the photos below a folder, which may be none."""
    root = folder.resolve()
    files, left_out = list_photos(root)
    names = [file.relative_to(root) for file in files]
    found = [
        file_photo(file, name.as_posix(), composed(name.parent.name)) for file, name in zip(files, names, strict=True)
    ]
    return PhotoSource(str(folder), str(root), found, {}, left_out)


def _from_files(files: list[Path]) -> PhotoSource:
    if not files:
        raise ValueError("The list of photos is empty: pass at least one file.")
    unique = dict.fromkeys(file.expanduser().absolute() for file in files)
    return PhotoSource("files", "", [file_photo(file, file.as_posix(), "") for file in unique], {})


def _from_prepared(folder: Path, split: str, follow_paths: bool) -> PhotoSource:
    prepared = open_dataset(str(folder))
    if split not in _SPLITS:
        raise ValueError(f"Prepared dataset '{folder}' has no split '{split}', only {', '.join(_SPLITS)}.")
    found = _from_dataset(str(folder), getattr(prepared, split), split, follow_paths)
    return replace(found, drawn=prepared.drawn)


def _from_hub(name: str, split: str | None, follow_paths: bool) -> PhotoSource:
    try:
        splits = datasets.load_dataset(name)
    except Exception as error:  # the Hub client raises a dozen kinds: offline, gated, unknown, script-based
        raise OSError(
            f"'{name}' is no folder here, and no dataset came from the Hub or the cache ({type(error).__name__}): "
            f"check the name and the network."
        ) from error
    chosen = split or next((known for known in ("gallery", "train") if known in splits), next(iter(splits)))
    if chosen not in splits:
        raise ValueError(f"Dataset '{name}' has no split '{chosen}', only {', '.join(splits)}: pass one of them.")
    return _from_dataset(name, splits[chosen], chosen, follow_paths)


def _from_dataset(name: str, dataset: datasets.Dataset, split: str, follow_paths: bool) -> PhotoSource:
    columns = photo_columns(name, dataset.features)
    if len(dataset) == 0:
        raise ValueError(f"Split '{split}' of dataset '{name}' is empty: pass one with photos.")
    dataset = dataset.with_format(None)
    encoded = dataset.cast_column(columns.image, datasets.Image(decode=False))
    rest = dataset.remove_columns([key for key in dataset.features if key not in columns.scalars])
    found = [
        columns.photo(f"{split}/{row:07d}", values, _cell_reader(encoded, columns.image, row, follow_paths))
        for row, values in enumerate(rest if rest.column_names else [{} for _ in range(len(dataset))])
    ]
    return PhotoSource(name, "", found, columns.metadata)


_SCALARS = (datasets.Value, datasets.ClassLabel)


@dataclass(frozen=True)
class PhotoColumns:
    """Which columns of a data set make up a photo.

    Attributes:
        image: the column of the pictures.
        scalars: the features of the columns of one value each, the label among them.
    """

    image: str
    scalars: dict[str, datasets.Value | datasets.ClassLabel]

    @property
    def metadata(self) -> dict[str, datasets.Value]:
        """The features of the further columns of a gallery."""
        return {key: _value_feature(feature) for key, feature in self.scalars.items() if key != "label"}

    def photo(self, path: str, values: Mapping[str, Any], read: Callable[[], bytes]) -> Photo:
        """Return the photo of a row, of which `values` are those of the scalar columns."""
        label, feature = values.get("label"), self.scalars.get("label")
        if isinstance(feature, datasets.ClassLabel) and label is not None and label >= 0:
            label = feature.names[label]
        metadata = {key: _value(self.scalars[key], value) for key, value in values.items() if key != "label"}
        return Photo(path, "" if label is None else composed(str(label)), 0, NOT_A_FILE, read, metadata)


def photo_columns(name: str, features: datasets.Features) -> PhotoColumns:
    """Return which columns of a data set make up a photo.

    Raises:
        ValueError: if there is no column of pictures.
    """
    image = next((key for key, feature in features.items() if isinstance(feature, datasets.Image)), None)
    if image is None:
        raise ValueError(f"Dataset '{name}' has no image column, only {', '.join(features)}: pass one with images.")
    return PhotoColumns(image, {key: feature for key, feature in features.items() if isinstance(feature, _SCALARS)})


def cell_bytes(cell: Mapping[str, Any] | None, follow_paths: bool) -> bytes:
    """Return the encoded picture of an image cell.

    Raises:
        OSError: if the file that it names cannot be read.
        ValueError: if it is empty, or names a file that `follow_paths` does not allow to read.
    """
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("its cell is empty")
    if cell["bytes"] is not None:
        return cell["bytes"]
    if not follow_paths and not _is_downloaded(cell["path"]):
        raise ValueError(
            "its cell names a file instead of holding the picture: --follow-paths (follow_paths=True) reads it"
        )
    return read_regular(Path(cell["path"]))


def _value_feature(feature: datasets.Value | datasets.ClassLabel) -> datasets.Value:
    return datasets.Value("string") if isinstance(feature, datasets.ClassLabel) else feature


def _value(feature: datasets.Value | datasets.ClassLabel, value: Any) -> Any:
    if isinstance(feature, datasets.ClassLabel) and value is not None:
        return feature.names[value] if value >= 0 else None
    return value


def _is_downloaded(path: str) -> bool:
    """Return whether a file lies in the caches of the Hub's client, where a data set of files has its pictures."""
    caches = (HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)
    return any(Path(os.path.realpath(path)).is_relative_to(os.path.realpath(cache)) for cache in caches)


def _cell_reader(dataset: datasets.Dataset, column: str, row: int, follow_paths: bool) -> Callable[[], bytes]:
    return lambda: cell_bytes(dataset[row][column], follow_paths)
