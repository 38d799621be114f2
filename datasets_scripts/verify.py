"""Compare an archive with what is known of it: files of each class, checksums of its lists, double photos."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm.auto import tqdm

from modeling_splip.common.images import MAX_BYTES

from .archive import Member
from .layouts import Found, list_files_below
from .splits import Classes


@dataclass
class Photo:
    """One photo, however often the archive holds it.

    Attributes:
        member: the file to keep; if the photo is an original, the file of the original part.
        label: readable class name.
        members: all its files by part, the kept one included.
        copies: how often the archive's list names it; without a list, the number of its files.
    """

    member: Member
    label: str
    members: dict[str, list[Member]]
    copies: int = 1

    @property
    def names(self) -> set[str]:
        """Every file name that the photo goes by."""
        return {member.name for members in self.members.values() for member in members}


def count_differences(found: Found, classes: Classes, names: Sequence[str]) -> list[str]:
    """Return one line for every class among `names` and part whose number of files is not the known one."""
    have: dict[tuple[str, str], int] = defaultdict(int)
    for part, members in found.parts.items():
        for name in members.values():
            have[name, part] += 1
    lines = []
    for name in names:
        for part, expected in classes.counts[name].items():
            count = have[name, part]
            if part == "extended" and not found.parts["extended"] and found.parts["photo"]:
                part, count = "photo", have[name, "photo"]  # one folder for all photos, which holds each once
            if found.parts[part] and count != expected:
                lines.append(f"{name}: {count} {part} files, {expected} known")
    return lines


def list_differences(files: Sequence[Member], classes: Classes) -> tuple[list[str], list[str]]:
    """Return the list files whose checksum is the known one, and those whose checksum is not."""
    same: list[str] = []
    other: list[str] = []
    for path, known in classes.lists.items():
        folder, _, name = path.rpartition("/")
        member = list_files_below(files, folder).get(name)
        if member:
            digest = hashlib.md5(member.read(), usedforsecurity=False).hexdigest()
            (same if digest == known else other).append(path)
    return same, other


def merge_photos(found: Found) -> tuple[list[Photo], dict[str, list[str]]]:
    """Return every photo once, and the files that were merged: by name, and by equal bytes, within a class.

    Files of one name in different parts are one photo, kept as the original part has it where they differ. Within a
    part, files of one name are one photo only where their bytes are equal.
    """
    by_name: dict[tuple[str, str], list[Photo]] = defaultdict(list)
    for part in ("original", "photo", "extended"):
        for member, label in found.parts[part].items():
            known = by_name[label, member.name]
            photo = next((photo for photo in known if part not in photo.members), None)
            if photo is None:
                photo = Photo(member, label, defaultdict(list))
                known.append(photo)
            photo.members[part].append(member)
    photos = [photo for known in by_name.values() for photo in known]
    merged: dict[str, list[str]] = {"same_name_other_size": [], "same_bytes": []}
    for photo in photos:
        others = [m for members in photo.members.values() for m in members if m is not photo.member]
        if any(other.size != photo.member.size for other in others):
            merged["same_name_other_size"].append(photo.member.path)
    return merge_equal_bytes(photos, merged["same_bytes"]), merged


def names_taken_twice(photos: Sequence[Photo]) -> list[str]:
    """Return the files of different photos of one class that have one name."""
    by_name: dict[tuple[str, str], list[str]] = defaultdict(list)
    for photo in photos:
        by_name[photo.label, photo.member.name].append(photo.member.path)
    return [path for paths in by_name.values() if len(paths) > 1 for path in paths]


def merge_equal_bytes(photos: list[Photo], merged: list[str]) -> list[Photo]:
    """Merge photos of one class with equal bytes into the first of them, and append the others' paths to `merged`.

    Only files of equal size are read.
    """
    by_size: dict[tuple[str, int], list[Photo]] = defaultdict(list)
    for photo in photos:
        for size in {member.size for members in photo.members.values() for member in members} - {0}:
            if size <= MAX_BYTES:  # a larger one is no picture
                by_size[photo.label, size].append(photo)
    groups = [(size, group) for (_, size), group in by_size.items() if len(group) > 1]
    gone: dict[int, Photo] = {}
    for size, group in tqdm(groups, desc="comparing photos of equal size", unit="size", disable=not groups):
        first: dict[bytes, Photo] = {}
        for photo in group:
            for digest in _digests(photo, size):
                keeper, double = _kept(first.setdefault(digest, photo), gone), _kept(photo, gone)
                if keeper is not double:
                    gone[id(double)] = keeper
                    for part, members in double.members.items():
                        keeper.members[part] += members
                    merged.append(double.member.path)
    return [photo for photo in photos if id(photo) not in gone]


def _kept(photo: Photo, gone: Mapping[int, Photo]) -> Photo:
    while id(photo) in gone:
        photo = gone[id(photo)]
    return photo


def _digests(photo: Photo, size: int) -> set[bytes]:
    """Return the hashes of a photo's files of that size; none for files that cannot be read."""
    digests = set()
    for member in [m for members in photo.members.values() for m in members if m.size == size]:
        try:
            digests.add(hashlib.blake2b(member.read(), digest_size=16).digest())
        except Exception:  # reported as unreadable when its turn comes
            continue
    return digests
