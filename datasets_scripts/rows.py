"""From photos and sketches to rows: which split, which instance, in which order."""

from collections.abc import Callable, Mapping, Sequence

from .archive import Member
from .base import Row, empty_rows
from .pictures import Picture, stem
from .verify import Photo


def make_rows(
    photos: Sequence[Photo],
    sketches: Mapping[Picture, str],
    seen: Sequence[str],
    unseen: Sequence[str],
    source: Callable[[str], str],
    photo_of: Callable[[str], str] | None,
) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows of every stored split, and the paths of the sketches whose photo is not there.

    A photo's id is `<class>/<stem>`, or with more of its path where that is taken. Pictures of classes on neither side
    are left out.

    Args:
        photos: every photo once.
        sketches: sketch -> class name.
        seen, unseen: class names, in label order.
        source: the column `source` by a picture's file name.
        photo_of: the stem of the photo that a sketch was drawn of, by the sketch's file name; None without pairs.
    """
    rows, unpaired = empty_rows(), []
    order = {name: index for index, name in enumerate([*seen, *unseen])}
    instances = _instances(photos)
    for photo in photos:
        if photo.label in order:
            instance = instances[photo.label, photo.member]
            row = Row(photo.member, "photo", photo.label, instance, source(photo.member.name), photo.copies)
            rows["train" if order[photo.label] < len(seen) else "gallery"].append(row)
    for picture, label in sketches.items():
        if label in order:
            instance = instances.get((label, photo_of(picture.name)), "") if photo_of else ""
            if photo_of and not instance:
                unpaired.append(picture.path)
            row = Row(picture, "sketch", label, instance, source(picture.name), 1)
            rows["train" if order[label] < len(seen) else "query"].append(row)
    for chosen in rows.values():
        chosen.sort(key=lambda row: (order[row.label], row.modality, row.picture.path))
    return rows, sorted(unpaired)


def _instances(photos: Sequence[Photo]) -> dict[tuple[str, str | Member], str]:
    """Return the id of every photo by its class and file, and by its class and each stem that it goes by."""
    instances: dict[tuple[str, str | Member], str] = {}
    taken: set[str] = set()
    for photo in photos:
        own, name, path = stem(photo.member.name), photo.member.name, photo.member.path
        # The stem may be taken: by a.png beside a.jpg, or by the other half of an archive.
        tried = (name, path) if (photo.label, own) in instances else (own, name, path)
        instance = next(f"{photo.label}/{each}" for each in tried if f"{photo.label}/{each}" not in taken)
        taken.add(instance)
        instances[photo.label, photo.member] = instance
        for each in photo.names:
            instances.setdefault((photo.label, stem(each)), instance)
    return instances
