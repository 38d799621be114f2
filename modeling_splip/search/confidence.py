"""How far the photos found may be trusted: they are compared with what random scribbles find in the same gallery.

The score of a photo means little by itself, since it depends on the model and the gallery. So when a gallery is built,
random scribbles are searched for. Photos that a drawing finds are convincing if they are nearer to it than those of
most scribbles are to these. Scribbles and rule are choices of ours; docs/search.md tells how well they do.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COUNT = 100
FIRST = 3  # photos of a search that are looked at
CONVINCING = 0.5  # below this share of scribbles, photos are no more convincing than those of a scribble
_SIDE = 256
_encoded: dict[str, np.ndarray] = {}  # by model: building the next gallery needs no encoding


def scribble(rng: np.random.Generator) -> Image.Image:
    """Return 1 to 8 curved strokes at random places, black on white, that show nothing."""
    image = Image.new("RGB", (_SIDE, _SIDE), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 9)):
        place, angle, turn = rng.uniform(0.1, 0.9, 2), rng.uniform(0, 2 * math.pi), rng.normal(0, 0.25)
        length, points = rng.uniform(0.01, 0.04), [place]
        for _ in range(rng.integers(8, 60)):
            turn = 0.9 * turn + rng.normal(0, 0.15)
            angle += turn
            ahead = points[-1] + length * np.array([math.cos(angle), math.sin(angle)])
            if ahead.min() < 0.04 or ahead.max() > 0.96:
                angle += math.pi / 2  # turns at the edge
            points.append(ahead.clip(0.04, 0.96))
        pen.line([tuple(_SIDE * point) for point in points], "black", int(rng.integers(3, 7)), joint="curve")
    return image


def measure_scribbles(
    model: Any,
    processor: Any,
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]],
    vectors: Callable[[np.ndarray], np.ndarray],
    count: int,
    batch_size: int,
) -> dict:
    """Return what scribbles find in a gallery, as its manifest records it.

    Args:
        model: that encoded the photos.
        processor: its processor.
        search: returns scores and rows (Q, k) of the nearest photos of queries (Q, D), row -1 where there are fewer.
        vectors: returns the embeddings (M, D) of rows (M,).
        count: of the photos.
        batch_size: scribbles encoded at once.

    Returns:
        `mean`, the mean embedding of the scribbles (D,), and `levels`, how near the first photos of every scribble are
        to it, from low to high. How near is the mean of their scores, each less the photo's mean score with all
        scribbles: some photos are near to everything.
    """
    queries = _encode(model, processor, batch_size)  # (COUNT, D)
    scores, rows = search(queries, min(FIRST, count))  # (COUNT, FIRST)
    mean = queries.mean(axis=0)
    near = vectors(rows.clip(0).reshape(-1)).reshape(*rows.shape, -1)  # (COUNT, FIRST, D)
    levels = (scores - near @ mean).mean(axis=1, where=rows >= 0)
    return {"mean": [round(float(x), 6) for x in mean], "levels": sorted(round(float(x), 6) for x in levels)}


def share_beaten(facts: dict, scores: np.ndarray, vectors: np.ndarray) -> float:
    """Return the share of scribbles, in 0..1, whose first photos are less near than these.

    Args:
        facts: what `measure_scribbles` returned.
        scores: (M,) of the first photos.
        vectors: (M, D) their embeddings.
    """
    near = float((scores - vectors @ np.array(facts["mean"])).mean())
    return float(np.searchsorted(facts["levels"], near)) / len(facts["levels"])


def are_facts(facts: Any, dim: int) -> bool:
    """Return whether a manifest's entry has the form of what `measure_scribbles` returns."""
    if not isinstance(facts, dict) or set(facts) != {"mean", "levels"}:
        return False
    lists = facts["mean"], facts["levels"]
    numbers = all(
        isinstance(values, list) and values and all(isinstance(x, int | float) and math.isfinite(x) for x in values)
        for values in lists
    )
    return numbers and len(lists[0]) == dim and lists[1] == sorted(lists[1])


def _encode(model: Any, processor: Any, batch_size: int) -> np.ndarray:
    """Return the embeddings of the scribbles, (COUNT, D); those of a model are kept."""
    fingerprint = model.fingerprint(processor)
    if fingerprint not in _encoded:
        rng, parts = np.random.default_rng(0), []
        for start in range(0, COUNT, batch_size):
            images = [scribble(rng) for _ in range(min(batch_size, COUNT - start))]
            pixel_values = processor(images=images, modality="sketch")["pixel_values"].to(model.device)
            parts.append(model.encode(pixel_values, "sketch").cpu().numpy())
        _encoded[fingerprint] = np.concatenate(parts)
    return _encoded[fingerprint]
