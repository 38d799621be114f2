"""Pictures of the drawn world: an instance as a photo, and as sketches that share its geometry and pose."""

import hashlib
import math
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .instances import (
    CATEGORY_NAMES,
    COLOURS,
    KNOBS,
    Instance,
    Knobs,
    SketchStyle,
    generator,
    make_instance,
)
from .parts import CATEGORIES, Part

SIZE = 64
"""Side of a picture in pixels."""
FINE = 2
"""Outlines are drawn this many times larger, then averaged: antialiasing that does not depend on Pillow's own."""

_ROWS, _COLUMNS = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j].astype(np.float32)


@lru_cache(maxsize=1)
def _fields() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return banks to crop from: pixel noise (128, 128, 3), fine and coarse clouds (128, 128); mean 0, deviation 1."""
    rng = generator("fields")
    noise = rng.standard_normal((128, 128, 3)).astype(np.float32)
    clouds = []
    for passes, reach in ((2, 2), (3, 7)):
        field = rng.standard_normal((128, 128))
        for _ in range(passes):
            for axis in (0, 1):
                field = sum(np.roll(field, shift, axis) for shift in range(-reach, reach + 1))
        clouds.append(((field - field.mean()) / field.std()).astype(np.float32))
    return noise, clouds[0], clouds[1]


def _crop(field: np.ndarray, u: float, v: float) -> np.ndarray:
    y, x = int(u * (field.shape[0] - SIZE)), int(v * (field.shape[1] - SIZE))
    return field[y : y + SIZE, x : x + SIZE]


def _pattern(kind: str, u: list[float]) -> np.ndarray | float:
    """Return a texture with values in about [-1, 1], (64, 64); `u` are four numbers in [0, 1)."""
    _, fine, coarse = _fields()
    angle, rate = math.pi * u[0], 9 + 12 * u[1]
    if kind == "striped":
        return np.sign(np.sin(rate * (math.cos(angle) * _COLUMNS + math.sin(angle) * _ROWS)))
    if kind == "checked":
        return np.sign(np.sin(rate * _COLUMNS + 6 * u[2]) * np.sin(rate * _ROWS + 6 * u[3]))
    if kind == "speckled":
        return 1.4 * (_crop(fine, u[2], u[3]) > 0.9) - 0.4
    if kind in ("mottled", "leafy"):
        return np.clip(_crop(fine, u[2], u[3]), -1, 1)
    if kind == "cloudy":
        return np.clip(0.7 * _crop(coarse, u[2], u[3]), -1, 1)
    if kind == "shaded":
        return math.cos(2 * angle) * _COLUMNS + math.sin(2 * angle) * _ROWS
    if kind == "horizon":
        return np.sign(_ROWS - 0.8 * u[1])
    return 0.0


def _placed(
    parts: list[Part], instance: Instance, size: float, centre: tuple[float, float], tilt: float
) -> tuple[np.ndarray, float]:
    """Return all parts' points, (N, 2), in fine pixels, and the fine pixels of one unit-frame length."""
    points = np.array([point for part in parts for point in part.points], dtype=np.float64)
    stretched = points * (instance.stretch * (-1 if instance.mirrored else 1), 1 / instance.stretch)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    turned = stretched @ np.array([[cos, sin], [-sin, cos]])
    low, high = turned.min(0), turned.max(0)
    unit = size * SIZE * FINE / float((high - low).max())
    return (turned - (low + high) / 2) * unit + (np.array(centre) + 1) * (SIZE * FINE / 2), unit


def _slices(parts: list[Part]) -> list[slice]:
    ends = np.cumsum([len(part.points) for part in parts]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _tint(name: str, rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(min(255, max(0, c + d))) for c, d in zip(COLOURS[name], rng.normal(0, 16, 3).tolist(), strict=True))
    return r, g, b


def _patterned(instance: Instance) -> float:
    """Return the share of the patterns' strength that this hardness allows: the easiest photos are plain."""
    return min(1.0, 0.1 + 1.2 * instance.hard)


def _background(instance: Instance, rng: np.random.Generator, knobs: Knobs) -> Image.Image:
    """Return the backdrop with its clutter, 64 x 64."""
    u = rng.random(8).tolist()
    base = np.array(_tint(instance.background_colour, rng), dtype=np.float32)
    base = 255 - (255 - base) * min(1.0, 0.2 + 1.2 * instance.hard)
    low, high = knobs.photo.backdrop
    strength = (low + (high - low) * u[4]) * _patterned(instance)
    pattern = _pattern(instance.background, u) * np.ones_like(_ROWS)
    picture = Image.fromarray(np.clip(base + strength * pattern[..., None], 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(u[5] * (knobs.photo.clutter * instance.hard + 1))):
        x, y, a, b, c, d, e = rng.random(7).tolist()
        colour = tuple(
            int(0.6 * p + 0.4 * q) for p, q in zip(_tint(list(COLOURS)[int(e * 12)], rng), base, strict=True)
        )
        x, y, w, h = x * SIZE, y * SIZE, 4 + 14 * a, 4 + 14 * b
        if c < 0.4:
            draw.ellipse([x - w, y - h, x + w, y + h], fill=colour)
        elif c < 0.7:
            draw.polygon([x - w, y - h * d, x + w * d, y - h, x + w, y + h, x - w * d, y + h], fill=colour)
        else:
            draw.line([x - 2 * w, y - h, x + 2 * w * d, y + h], fill=colour, width=1 + int(3 * d))
    return picture


def _object(instance: Instance, rng: np.random.Generator, knobs: Knobs) -> tuple[np.ndarray, np.ndarray]:
    """Return the shaded, textured object: colours times coverage, (64, 64, 3), and coverage, (64, 64, 1), 0 to 1."""
    parts = CATEGORIES[instance.category].draw(*instance.values)
    points, unit = _placed(parts, instance, instance.size, (instance.x, instance.y), instance.tilt)
    dark, light = rng.integers(25, 70), rng.integers(205, 250)
    inks = {"body": _tint(instance.colour, rng), "second": _tint(instance.accent, rng)}
    inks |= {"dark": (int(dark),) * 3, "light": (int(light),) * 3}
    canvas = Image.new("RGBA", (SIZE * FINE, SIZE * FINE))
    draw = ImageDraw.Draw(canvas)
    # The easiest photos have the dark contours of a cartoon, the hardest the darker rim of a round body.
    depth, rim = 0.15 + 0.45 * instance.hard, 1 + round(2 * (1 - instance.hard))
    for part, where in zip(parts, _slices(parts), strict=True):
        flat = points[where].ravel().tolist()
        ink, edge = (*inks[part.role], 255), (*(int(depth * c) for c in inks[part.role]), 255)
        if part.width:
            thick = max(2, round(part.width * unit))
            draw.line(flat, fill=edge, width=thick + rim, joint="curve")
            draw.line(flat, fill=ink, width=max(1, thick - rim), joint="curve")
        else:
            draw.polygon(flat, fill=ink)
            draw.line([*flat, *flat[:2]], fill=edge, width=rim)
    rgba = np.asarray(canvas.convert("RGBa").reduce(FINE), dtype=np.float32)
    u = rng.random(7).tolist()
    angle, shade = 2 * math.pi * u[0], knobs.photo.shade * u[1]
    light_field = (
        1
        + shade * (math.cos(angle) * (_COLUMNS - instance.x) + math.sin(angle) * (_ROWS - instance.y))
        + knobs.photo.texture * _patterned(instance) * (0.4 + 0.6 * u[2]) * _pattern(instance.texture, u[3:])
    )
    return rgba[..., :3] * light_field[..., None], rgba[..., 3:] / 255


def draw_photo(instance: Instance, knobs: Knobs = KNOBS) -> np.ndarray:
    """Return the instance's photo, (64, 64, 3) uint8 RGB."""
    rng = generator(instance.seed, "photo")
    backdrop = np.asarray(_background(instance, rng, knobs), dtype=np.float32)
    colours, coverage = _object(instance, rng, knobs)
    scene = np.clip(colours + (1 - coverage) * backdrop, 0, 255)
    u = rng.random(9).tolist()
    picture = Image.fromarray(scene.astype(np.uint8))
    if u[0] < knobs.photo.occlusion * instance.hard:
        _occlude(picture, instance, rng)
    picture = picture.filter(ImageFilter.GaussianBlur(0.3 + knobs.photo.blur * instance.hard * u[1]))
    noise = _crop(_fields()[0], u[2], u[3]) * (knobs.photo.noise * instance.hard * u[4])
    gain, lift = 1 + 0.25 * (u[5] - 0.5), 24 * (u[6] - 0.5)
    return np.clip(np.asarray(picture, dtype=np.float32) * gain + lift + noise, 0, 255).astype(np.uint8)


def _occlude(picture: Image.Image, instance: Instance, rng: np.random.Generator) -> None:
    """Cover one edge of the object by a bar or a disc."""
    a, b, c, d = rng.random(4).tolist()
    reach, angle = instance.size * SIZE / 2, 2 * math.pi * a
    x = (1 + instance.x) * SIZE / 2 + reach * math.cos(angle)
    y = (1 + instance.y) * SIZE / 2 + reach * math.sin(angle)
    draw, ink = ImageDraw.Draw(picture), _tint(list(COLOURS)[int(b * 12)], rng)
    if c < 0.5:
        r = (0.22 + 0.2 * d) * reach
        draw.ellipse([x - r, y - r, x + r, y + r], fill=ink)
    else:
        dx, dy = -math.sin(angle) * SIZE, math.cos(angle) * SIZE
        draw.line([x - dx, y - dy, x + dx, y + dy], fill=ink, width=3 + int(5 * d))


def draw_sketch(instance: Instance, index: int, style: SketchStyle = KNOBS.human) -> np.ndarray:
    """Return sketch number `index` of an instance, (64, 64, 3) uint8: strokes on white along the photo's own outlines.

    Pose (mirroring, tilt) and proportions are the photo's; position and size are the sheet's.
    """
    rng = generator(instance.seed, "sketch", index)
    parts = [
        p for p in CATEGORIES[instance.category].draw(*instance.values) if not (p.detail and rng.random() < style.skip)
    ]
    u = rng.random(8).tolist()
    size = style.size[0] + (style.size[1] - style.size[0]) * u[0]
    centre = (0.25 * instance.x + 0.05 * (u[1] - 0.5), 0.25 * instance.y + 0.05 * (u[2] - 0.5))
    points, unit = _placed(parts, instance, size, centre, instance.tilt + style.tilt * float(rng.normal()))
    where = _slices(parts)
    points += _warp(points, style.warp * FINE * u[3], rng)
    shifts = rng.normal(0, style.shift * FINE, (len(parts), 2))
    points += np.repeat(shifts, [len(p.points) for p in parts], axis=0)
    ink = int(style.grey[0] + (style.grey[1] - style.grey[0]) * u[4])
    width = max(1, round(FINE * (style.width[0] + (style.width[1] - style.width[0]) * u[5])))
    sheet = Image.new("L", (SIZE * FINE, SIZE * FINE), 255)
    draw = ImageDraw.Draw(sheet)
    chances = rng.random((len(parts), 4)).tolist()
    wobble = rng.normal(0, style.jitter * FINE, points.shape)
    for part, span, chance in zip(parts, where, chances, strict=True):
        _draw_part(draw, part, points[span], wobble[span], unit, style, chance, ink, width)
    grey = np.asarray(sheet.reduce(FINE))
    return np.repeat(grey[..., None], 3, axis=2)


def _warp(points: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Return a slow wave displacement of at most `amount`, (N, 2)."""
    a, b, c, d = rng.random(4).tolist()
    waves = points[:, ::-1] * (2 * math.pi / (SIZE * FINE)) * (0.6 + 0.8 * np.array([a, b]))
    return amount * np.sin(waves + 2 * math.pi * np.array([c, d]))


def _draw_part(
    draw: ImageDraw.ImageDraw,
    part: Part,
    points: np.ndarray,
    wobble: np.ndarray,
    unit: float,
    style: SketchStyle,
    chance: list[float],
    ink: int,
    width: int,
) -> None:
    """Hide what lies behind the part, then draw its outline in one stroke."""
    stroke = points + wobble
    if part.width:
        thick = part.width * unit
        if thick > 7 * FINE / 2 and part.role != "dark":
            # A thick line has two edges: a band in ink, then its inside in white.
            flat = stroke.ravel().tolist()
            draw.line(flat, fill=ink, width=round(thick + width), joint="curve")
            draw.line(flat, fill=255, width=max(1, round(thick - width)), joint="curve")
            return
    else:
        draw.polygon(points.ravel().tolist(), fill=255)
        count = len(stroke)
        start = int(chance[0] * count)
        stroke = np.roll(stroke, -start, axis=0)
        over = 2 if chance[1] < style.overshoot else 1
        stroke = np.concatenate([stroke, stroke[:over] + (0 if over == 1 else wobble[:over] * 3)])
    if chance[2] < style.gap:
        stroke = stroke[: max(2, int(len(stroke) * (0.7 + 0.28 * chance[3])))]
    draw.line(cast(list[float], stroke.ravel().tolist()), fill=ink, width=width)


def pixel_hash() -> str:
    """Return 16 hex digits over a sample of pictures; it may differ between versions of Pillow (see `world_hash`)."""
    digest = hashlib.sha256()
    for name in CATEGORY_NAMES:
        instance = make_instance(name, 0, "hash")
        for picture in (draw_photo(instance), draw_sketch(instance, 0, KNOBS.web), draw_sketch(instance, 0)):
            digest.update(picture.tobytes())
    return digest.hexdigest()[:16]
