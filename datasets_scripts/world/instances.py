"""The drawn world, version 1: instances of 40 categories, their captions, the difficulty knobs and the version hash.

Everything is a function of integers and strings (`numpy` generators seeded by `SeedSequence`, strings through CRC-32),
so the same seed gives the same world in every process. `world_render` turns instances into pictures.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from . import animals, carried, household, outdoors, plants  # noqa: F401  (they register the categories)
from .parts import CATEGORIES, Scale

WORLD_VERSION = "1"

COLOURS = {
    "red": (205, 45, 45),
    "orange": (230, 130, 40),
    "yellow": (225, 200, 60),
    "green": (70, 160, 70),
    "cyan": (70, 180, 190),
    "blue": (60, 90, 200),
    "purple": (130, 70, 170),
    "pink": (230, 130, 175),
    "brown": (130, 85, 50),
    "grey": (130, 130, 130),
    "white": (232, 232, 228),
    "black": (40, 40, 44),
}
TEXTURES = ("plain", "striped", "checked", "speckled", "mottled")
BACKGROUNDS = ("plain", "shaded", "striped", "cloudy", "horizon", "leafy")

TUNING = ("cat", "flower", "truck", "castle", "hammer", "teapot", "hat", "balloon", "apple", "guitar")
FOLDS = (
    ("fish", "rabbit", "tree", "car", "house", "scissors", "mug", "clock", "shirt", "carrot"),
    ("bird", "turtle", "cactus", "mushroom", "sailboat", "lighthouse", "key", "chair", "lamp", "boot"),
    ("snail", "butterfly", "ice cream", "airplane", "windmill", "umbrella", "ladder", "table", "bottle", "glasses"),
)
CATEGORY_NAMES = (*TUNING, *FOLDS[0], *FOLDS[1], *FOLDS[2])


@dataclass(frozen=True)
class PhotoKnobs:
    """How hard photos are. Lengths are in pixels of the 64 px image unless said otherwise.

    Attributes:
        hard: range of an instance's own hardness, see `Instance`.
        tilt: standard deviation of the object's rotation, degrees; shared with its sketches.
        stretch: largest relative change of width against height; shared with its sketches.
        size: range of the object's half extent, as a share of half the image.
        offset: largest shift of the object from the centre, as a share of half the image.
        clutter: largest number of distractor shapes behind the object.
        occlusion: probability that something covers a corner of the object.
        backdrop: range of the background pattern's strength, grey levels.
        blur: largest radius of the blur.
        noise: largest standard deviation of the noise, grey levels.
        texture: largest relative strength of the texture on the object.
        shade: largest relative strength of the shading.
    """

    hard: tuple[float, float] = (0.1, 1.0)
    tilt: float = 18.0
    stretch: float = 0.18
    size: tuple[float, float] = (0.68, 0.94)
    offset: float = 0.18
    clutter: int = 4
    occlusion: float = 0.2
    backdrop: tuple[float, float] = (10.0, 36.0)
    blur: float = 0.7
    noise: float = 12.0
    texture: float = 0.26
    shade: float = 0.4


@dataclass(frozen=True)
class SketchStyle:
    """How a sketch is drawn. Lengths are in pixels of the 64 px image.

    Attributes:
        width: range of the stroke's thickness (drawn at twice the size, so halves count).
        grey: range of the stroke's grey level, 0 black to 255 white.
        warp: largest displacement of the slow deformation of the whole drawing.
        shift: standard deviation of a part's own displacement.
        jitter: standard deviation of every stroke point's displacement.
        gap: probability that an outline is left unfinished.
        overshoot: probability that a closed outline overshoots where it began.
        skip: probability that a detail is not drawn.
        tilt: standard deviation of the sketch's rotation against its photo, degrees.
        size: range of the drawing's half extent, as a share of half the image.
    """

    width: tuple[float, float]
    grey: tuple[int, int]
    warp: float
    shift: float
    jitter: float
    gap: float
    overshoot: float
    skip: float
    tilt: float
    size: tuple[float, float]


@dataclass(frozen=True)
class Knobs:
    """The difficulty of the world: photos, the clean drawings of pretraining, the human scribbles of evaluation."""

    photo: PhotoKnobs = PhotoKnobs()
    web: SketchStyle = SketchStyle((1.5, 2.5), (0, 40), 0.6, 0.1, 0.1, 0.0, 0.1, 0.0, 2.0, (0.78, 0.92))
    human: SketchStyle = SketchStyle((0.5, 1.0), (60, 150), 2.0, 0.6, 0.35, 0.35, 0.4, 0.3, 4.0, (0.72, 0.92))


KNOBS = Knobs()


@dataclass(frozen=True)
class Instance:
    """One object: what it is, how it is posed, and how its photo is taken.

    Attributes:
        values: value of each of the category's attributes (a proportion, or an option's index).
        tilt: rotation in degrees, clockwise.
        stretch: width against height, about 1.
        size: half extent as a share of half the image; `x` and `y` are the centre, in the same unit.
        hard: 0 (dark contours on a pale ground, no clutter, occlusion or noise) to 1 (all that the knobs allow).
        seed: seed of everything in the pictures that no caption names.
    """

    category: str
    values: tuple[float, ...]
    tilt: float
    stretch: float
    mirrored: bool
    size: float
    x: float
    y: float
    colour: str
    accent: str
    texture: str
    background: str
    background_colour: str
    hard: float
    seed: int


def generator(*keys: int | str) -> np.random.Generator:
    """Return the random generator that belongs to these integers (not negative) and strings."""
    return np.random.default_rng([zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys])


def make_instance(
    category: str, number: int, stream: str, seed: int = 0, hard: float | None = None, knobs: Knobs = KNOBS
) -> Instance:
    """Return instance `number` of a category.

    Args:
        stream: name of the sequence of instances, such as "gallery"; sequences share no instance.
        hard: how hard its photo is, 0 to 1; where not given, drawn from `knobs.photo.hard`.

    Raises:
        ValueError: where the world has no such category.
    """
    if category not in CATEGORIES:
        raise ValueError(f"There is no category {category!r}: the drawn world has {', '.join(sorted(CATEGORIES))}.")
    kind, photo = CATEGORIES[category], knobs.photo
    rng = generator(WORLD_VERSION, seed, stream, category, number)
    u = rng.random(11 + len(kind.attributes)).tolist()
    values = tuple(
        a.low + (a.high - a.low) * r if isinstance(a, Scale) else int(r * len(a.phrases))
        for a, r in zip(kind.attributes.values(), u[11:], strict=True)
    )
    colours = list(COLOURS)
    main = int(u[0] * 12)
    low, high = photo.size
    return Instance(
        category=category,
        values=values,
        tilt=float(np.clip(rng.normal() * photo.tilt, -50, 50)),
        stretch=1 + photo.stretch * (2 * u[1] - 1),
        mirrored=not kind.symmetric and u[2] < 0.5,
        size=low + (high - low) * u[3],
        x=photo.offset * (2 * u[4] - 1),
        y=photo.offset * (2 * u[5] - 1),
        colour=colours[main],
        accent=colours[(main + 1 + int(u[6] * 11)) % 12],
        texture=TEXTURES[int(u[7] * len(TEXTURES))],
        background=BACKGROUNDS[int(u[8] * len(BACKGROUNDS))],
        background_colour=colours[(main + 1 + int(u[9] * 11)) % 12],
        hard=photo.hard[0] + (photo.hard[1] - photo.hard[0]) * u[10] if hard is None else hard,
        seed=int(rng.integers(2**31)),
    )


def _third(value: float, low: float, high: float, low_phrase: str, high_phrase: str) -> str:
    share = (value - low) / (high - low)
    return low_phrase if share < 1 / 3 else high_phrase if share > 2 / 3 else ""


def shape_phrases(instance: Instance) -> list[str]:
    """Return what is said of the proportions, counts and options of an instance's parts."""
    phrases = []
    for attribute, value in zip(CATEGORIES[instance.category].attributes.values(), instance.values, strict=True):
        if isinstance(attribute, Scale):
            phrases.append(_third(value, attribute.low, attribute.high, attribute.low_phrase, attribute.high_phrase))
        else:
            phrases.append(attribute.phrases[int(value)])
    return [phrase for phrase in phrases if phrase]


def pose_phrases(instance: Instance) -> list[str]:
    """Return what is said of an instance's rotation, side and width."""
    side = "turned left" if instance.tilt < 0 else "turned right"
    strongly = "far " if abs(instance.tilt) > 22 else ""
    phrases = [strongly + side if abs(instance.tilt) > 8 else "upright"]
    if not CATEGORIES[instance.category].symmetric:
        phrases.append("facing right" if instance.mirrored else "facing left")
    return phrases


def place_phrases(instance: Instance, knobs: Knobs = KNOBS) -> list[str]:
    """Return what is said of an object's size and position in its photo, and of the background."""
    offset, (low, high) = knobs.photo.offset, knobs.photo.size
    across = _third(instance.x, -offset, offset, "left", "right")
    down = _third(instance.y, -offset, offset, "top", "bottom")
    place = " ".join(filter(None, ("at", down, across))) if across or down else "at centre"
    size = _third(instance.size, low, high, "small", "large")
    return [*filter(None, (size, place)), f"on {instance.background} {instance.background_colour} background"]


def caption(
    instance: Instance, modality: str = "photo", rng: np.random.Generator | None = None, keep: float = 0.75
) -> str:
    """Return a caption that names what tells the instance apart: parts, pose, and for a photo colours and place.

    Args:
        modality: the caption's first word; "photo" adds colour, texture, position, size and background.
        rng: where given, each phrase is kept with probability `keep`; otherwise all are kept.
    """
    is_photo = modality == "photo"
    looks = [instance.texture, instance.colour] if is_photo else []
    rest = [shape_phrases(instance), pose_phrases(instance), place_phrases(instance) if is_photo else []]
    phrases = [phrase for group in rest for phrase in group]
    if rng is not None:
        looks = [word for word in looks if rng.random() < keep]
        phrases = [phrase for phrase in phrases if rng.random() < keep]
    return " ".join([modality, "of a", *looks, instance.category, *phrases])


def vocabulary() -> list[str]:
    """Return every word that a caption can hold, sorted, with the modality words and a few for templates."""
    words = {*COLOURS, *TEXTURES, *BACKGROUNDS, *CATEGORY_NAMES, "photo sketch drawing of a an the with and background"}
    words |= {"turned far upright facing left right top bottom at centre small large on picture object"}
    for kind in CATEGORIES.values():
        for attribute in kind.attributes.values():
            if isinstance(attribute, Scale):
                words |= {attribute.low_phrase, attribute.high_phrase}
            else:
                words |= set(attribute.phrases)
    return sorted({part for phrase in words for part in phrase.replace("-", " ").split()})


def world_hash(names: Sequence[str] = CATEGORY_NAMES) -> str:
    """Return 16 hex digits over knobs, categories, captions and the parts of three instances a category.

    Nothing here is drawn, so the hash does not depend on the version of Pillow; pixels have their own check.
    """
    digest = hashlib.sha256(json.dumps([WORLD_VERSION, asdict(KNOBS), TUNING, FOLDS], sort_keys=True).encode())
    for name in names:
        for number in range(3):
            instance = make_instance(name, number, "hash")
            fields = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(instance).items()}
            fields["values"] = [round(value, 4) for value in instance.values]
            digest.update(json.dumps([fields, caption(instance)], sort_keys=True).encode())
            for part in CATEGORIES[name].draw(*instance.values):
                flat = [round(float(v), 3) + 0.0 for point in part.points for v in point]
                digest.update(json.dumps([flat, part.role, round(part.width, 3), part.detail]).encode())
    return digest.hexdigest()[:16]
