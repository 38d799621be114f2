"""Put together the photos and drawings that `small_splip` is trained on, from several `{sketch,photo}/<class>` folders.

    python -m pretraining.small_splip_data --out merged FOLDER [FOLDER ...]
    splip prepare folder --data-dir merged --out data/small_splip --unseen aircraft_carrier
    accelerate launch train_accelerate.py --recipe small_splip --dataset data/small_splip

The classes of Sketchy-2's test are left out, and classes that are kinds of these. The merged folder holds links.
"""

import argparse
import re
import sys
from pathlib import Path

from datasets_scripts.splits import load_split
from modeling_splip.common.text import quoted, spelling_key

# Classes that are near to a test class, and so are left out too.
NEAR = ("bird", "cattle", "cottage", "gull", "hut", "log_cabin", "rhino")
# Two names of one class.
SAME = {"cup": "coffee_cup"}
# Collections name the same drawing with or without its origin: `qd_123.png`, `quickdraw_123.png`, `123.png`.
ORIGIN = re.compile(r"^(qd|quickdraw|sketchy|tuberlin)_")
# At most this many sketches and photos of a class from one folder, so that none outweighs the others.
MOST = 150


def main() -> int:
    """Merge the folders and print how many pictures came from each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of {sketch,photo}/<class>/")
    parser.add_argument("--out", required=True, type=Path, help="new folder")
    args = parser.parse_args()
    try:
        print(merge(args.folders, args.out))
    except (OSError, ValueError) as error:
        print(f"small_splip_data: {error}", file=sys.stderr)
        return 2
    return 0


def merge(folders: list[Path], out: Path) -> str:
    """Link every picture that may be trained on to `out/{sketch,photo}/<class>/`; return a line on what was linked.

    Raises:
        ValueError: if `out` is not empty, or a folder has no `sketch` and `photo` in it.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"'{out}' is not empty: pass a new folder.")
    left_out = {spelling_key(name) for name in (*load_split("sketchy2").unseen, *NEAR)}
    counts, dropped = {}, set()
    for folder in folders:
        missing = [name for name in ("sketch", "photo") if not (folder / name).is_dir()]
        if missing:
            raise ValueError(f"'{folder}' has no folder {quoted(missing)}: pass one of {{sketch,photo}}/<class>/.")
        for place in sorted((*folder.glob("sketch/*/"), *folder.glob("photo/*/"))):
            if spelling_key(place.name) in left_out:
                dropped.add(place.name)
                continue
            counts[folder] = counts.get(folder, 0) + link(
                place, out / place.parent.name / SAME.get(place.name, place.name)
            )
    linked = ", ".join(f"{count:,} of {folder.name}" for folder, count in counts.items())
    return f"{out}: {linked} linked; classes left out: {quoted(sorted(dropped)) or 'none'}"


def link(place: Path, target: Path) -> int:
    """Link the first pictures of a class that are not there yet under the same name; return how many."""
    target.mkdir(parents=True, exist_ok=True)
    known = {ORIGIN.sub("", path.stem) for path in target.iterdir()}
    new = [path for path in sorted(place.iterdir()) if ORIGIN.sub("", path.stem) not in known][:MOST]
    for path in new:
        (target / path.name).symlink_to(path.resolve())
    return len(new)


if __name__ == "__main__":
    raise SystemExit(main())
