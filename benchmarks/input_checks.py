"""Measure how often the doubts about inputs are right, on people's drawings and real photos.

    python -m benchmarks.input_checks --data FOLDER [FOLDER ...]

Each folder is a data set with `sketch/` and `photo/`. Writes counts by data set to `benchmarks/results`.
"""

import argparse
from collections import Counter
from pathlib import Path

from PIL import Image, ImageOps

from modeling_splip.common.files import write_json
from modeling_splip.image_files import has_dark_ground, is_line_drawing, is_no_drawing, open_image, upright_rgb

RESULTS = Path(__file__).parent / "results" / "input_checks.json"


def main() -> None:
    """Count over every picture of every folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with sketch/ and photo/ in each")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = {folder.name: count(folder) for folder in args.data}
    write_json(args.out, results)
    print(results)


def count(folder: Path) -> dict[str, int]:
    """Return how many pictures of a data set there are, and of how many each check says yes."""
    counts: Counter[str] = Counter()
    for path in sorted((folder / "sketch").rglob("*.*")):
        sketch = upright_rgb(open_image(path))
        inverted = ImageOps.invert(sketch)
        counts["sketches"] += 1
        tiny = inverted.resize((28, 28), Image.Resampling.BOX)
        counts["sketches: dark ground"] += has_dark_ground(sketch)
        counts["inverted sketches: dark ground"] += has_dark_ground(inverted)
        counts["inverted sketches of 28 pixels: dark ground"] += has_dark_ground(tiny)
        counts["sketches: line drawing"] += is_line_drawing(sketch)
        counts["sketches: no drawing"] += is_no_drawing(sketch)
    for path in sorted((folder / "photo").rglob("*.*")):
        photo = upright_rgb(open_image(path))
        counts["photos"] += 1
        counts["photos: dark ground"] += has_dark_ground(photo)
        counts["photos: line drawing"] += is_line_drawing(photo)
        counts["photos: no drawing"] += is_no_drawing(photo)
    return dict(counts)


if __name__ == "__main__":
    main()
