"""Anyone's own data: `sketch/<class>/*` and `photo/<class>/*`, as categories or as instance pairs."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets

from modeling_splip.common.text import quoted, readable, spelling_key

from .archive import Member, list_files
from .base import Plan, Row, SbirBuilder, is_image, photo_id_of, stem
from .splits import Split, load_split, resolve
from .verify import Photo, merge_equal_bytes

PLACE = re.compile(r"(?:^|/)(sketch(?:es)?|photos?|images?)/(?:([^/]+)/)?([^/]+)$", re.IGNORECASE)
PAIRED_SHARE = 0.9  # instance pairs are assumed where at least this share of the sketches names a photo


@dataclass
class FolderConfig(datasets.BuilderConfig):
    """Settings of `Folder`.

    - `split`: name of a packaged split, or path of a JSON file `{"seen": [...], "unseen": [...]}`.
    - `unseen`: instead of `split`, the unseen classes; all others are seen.
    - `pairs`: whether sketch `<id>-<k>` was drawn of photo `<id>`; None finds out.
    - `scratch`: where compressed tar files may be unpacked.
    """

    split: str | None = None
    unseen: list[str] | None = None
    pairs: bool | None = None
    scratch: str | None = None


class Folder(SbirBuilder):
    """Builder of `splip prepare folder`."""

    BUILDER_CONFIG_CLASS = FolderConfig
    config: FolderConfig

    def make_plan(self) -> Plan:
        """List `data_dir`. Raises FileNotFoundError, ValueError: no folder, no images, wrong split, missing photos."""
        files, problems = _find(self.config.data_dir, self.config.scratch)
        names = _class_names(files)
        split = _split(self.config)
        unseen = resolve(split.unseen, names, f"the unseen classes of '{split.name}'")
        if split.seen is None:
            seen = [name for name in sorted(set(names.values())) if name not in unseen]
        else:
            seen = resolve(split.seen, names, f"the seen classes of '{split.name}'")
        _require_both(files, seen, unseen, problems)
        unused = sorted(set(names.values()) - {*seen, *unseen})
        if unused:
            problems["classes_in_no_list"] = unused
        pairs = pairing(files, self.config.pairs)
        merged: list[str] = []
        photos = [Photo(member, name, {"photo": [member]}) for member, name in files["photo"].items()]
        photos = merge_equal_bytes(photos, merged)
        report = {
            "split": split.name,
            "split_source": split.source,
            "instance_pairs": pairs is not None,
            "photos_merged_same_bytes": merged,
            "files_outside_sketch_and_photo": problems.pop("ignored", []),
        }
        if pairs is not None:
            problems["unpaired"] = sorted(f.path for f in files["sketch"] if not pairs[f])
        rows = _rows(photos, files["sketch"], seen, unseen, pairs)
        return Plan(seen, unseen, rows, {k: v for k, v in problems.items() if v}, report)


Found = dict[str, dict[Member, str]]  # modality -> file -> readable class


def _find(data_dir: str | None, scratch: str | None) -> tuple[Found, dict[str, list[str]]]:
    if not data_dir:
        raise ValueError("no data folder: --data-dir names the one that holds sketch/<class>/ and photo/<class>/")
    files: Found = {"sketch": {}, "photo": {}}
    places: dict[str, set[str]] = {"sketch": set(), "photo": set()}
    problems: dict[str, list[str]] = defaultdict(list)
    others = []
    for member in list_files(data_dir, scratch):
        match = PLACE.search(member.path)
        if not match:
            others.append(member.path)
        elif match[2] and is_image(member):
            modality = "sketch" if match[1].lower().startswith("sketch") else "photo"
            files[modality][member] = readable(match[2])
            places[modality].add(member.path[: match.end(1)])
        else:
            problems["junk"].append(member.path)
    for modality, found in files.items():
        if not found:
            raise ValueError(f"no images in {modality}/<class>/ below '{data_dir}'; expected sketch/ and photo/ there")
        if len(places[modality]) > 1:
            which = quoted(sorted(places[modality]))
            raise ValueError(f"{modality} folders in several places ({which}); keep one of them in --data-dir")
    inside = tuple(f"{place}/" for found_places in places.values() for place in found_places)
    for path in others:
        problems["too_deep" if path.startswith(inside) else "ignored"].append(path)
    return files, problems


def _class_names(files: Found) -> dict[str, str]:
    """Return spelling key -> readable name; the photo folder's spelling wins, and spellings are made one."""
    names: dict[str, str] = {}
    for modality in ("photo", "sketch"):
        for name in files[modality].values():
            names.setdefault(spelling_key(name), name)
    for found in files.values():
        found.update({member: names[spelling_key(name)] for member, name in found.items()})
    return names


def _split(config: FolderConfig) -> Split:
    if config.split and config.unseen:
        raise ValueError("give either a split or --unseen, not both")
    if config.split:
        return load_split(config.split)
    if not config.unseen:
        raise ValueError("no split: give --unseen a,b,c, --split NAME or --split-file FILE.json")
    return Split("--unseen", None, tuple(config.unseen))


def _require_both(files: Found, seen: list[str], unseen: list[str], problems: dict[str, list[str]]) -> None:
    have = {modality: set(found.values()) for modality, found in files.items()}
    no_photo = [name for name in seen + unseen if name not in have["photo"]]
    if no_photo:
        raise ValueError(f"no photos for {quoted(no_photo)}: add photo/<class>/ or leave the class out of the split")
    no_sketch = [name for name in seen if name not in have["sketch"]]
    if no_sketch:
        raise ValueError(f"no sketches for seen {quoted(no_sketch)}: add sketch/<class>/ or leave it out of the split")
    problems["classes_without_sketches"] = [name for name in unseen if name not in have["sketch"]]


def pairing(files: Found, wanted: bool | None) -> dict[Member, str] | None:
    """Return every sketch's photo stem ("" where there is no such photo), or None where data are not paired."""
    if wanted is False:
        return None
    photos = {(name, stem(member.name)) for member, name in files["photo"].items()}
    pairs = {}
    for sketch, name in files["sketch"].items():
        photo = photo_id_of(sketch.name)
        pairs[sketch] = photo if (name, photo) in photos else ""
    paired = sum(map(bool, pairs.values()))
    if wanted and not paired:
        raise ValueError(
            "--pairs: no sketch names a photo; sketch/<class>/<id>-<k>.png belongs to photo/<class>/<id>.*"
        )
    return pairs if wanted or paired >= PAIRED_SHARE * len(pairs) else None


def _rows(
    photos: Sequence[Photo],
    sketches: Mapping[Member, str],
    seen: list[str],
    unseen: list[str],
    pairs: Mapping[Member, str] | None,
) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {"train": [], "query": [], "gallery": []}
    order = {name: index for index, name in enumerate(seen + unseen)}
    instances: dict[tuple[str, str], str] = {}  # (class, stem) of every photo's files -> its id
    for photo in photos:
        name, file = photo.label, photo.member.name
        instance = f"{name}/{file if (name, stem(file)) in instances else stem(file)}"  # a.jpg beside a.png
        for own in photo.names:
            instances.setdefault((name, stem(own)), instance)
        if name in order:
            row = Row(photo.member, "photo", name, instance, "user", len(photo.members["photo"]))
            rows["train" if order[name] < len(seen) else "gallery"].append(row)
    for member, name in sketches.items():
        if name in order:
            instance = instances[name, pairs[member]] if pairs and pairs[member] else ""
            row = Row(member, "sketch", name, instance, "user", 1)
            rows["train" if order[name] < len(seen) else "query"].append(row)
    for chosen in rows.values():
        chosen.sort(key=lambda row: (order[row.label], row.modality, row.member.path))
    return rows
