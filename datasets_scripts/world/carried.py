"""Things of the drawn world that are carried or worn, as parametric parts in the unit frame of `parts`."""

import math

from .parts import Part, Scale, arc, box, category, ellipse, line, option, polygon, sector, smooth


@category(
    "hammer",
    handle=Scale(0.9, 1.4, "short handle", "long handle"),
    head=Scale(0.35, 0.65, "short head", "long head"),
    thick=Scale(0.06, 0.13, "thin handle", "thick handle"),
    kind=option("claw", "double head", "pointed head"),
)
def hammer(handle: float, head: float, thick: float, kind: int) -> list[Part]:
    top = -0.7
    parts = [box(-thick, top, thick, top + handle + 0.2, "second")]
    if kind == 0:
        parts.append(
            smooth(
                [
                    (0.1, top - 0.14),
                    (head + 0.2, top - 0.05),
                    (head + 0.32, top + 0.25),
                    (head * 0.7, top + 0.08),
                    (0.1, top + 0.14),
                ]
            )
        )
    elif kind == 1:
        parts.append(box(0, top - 0.17, head, top + 0.17))
    else:
        parts.append(polygon([(0, top - 0.16), (head + 0.3, top), (0, top + 0.16)]))
    return [*parts, box(-head, top - 0.19, 0.14, top + 0.19)]


@category(
    "scissors",
    opening=Scale(8, 32, "closed blades", "open blades"),
    rings=Scale(0.15, 0.27, "small rings", "big rings"),
    blades=Scale(0.6, 1.0, "short blades", "long blades"),
    shape=option("round rings", "long rings"),
)
def scissors(opening: float, rings: float, blades: float, shape: int) -> list[Part]:
    parts: list[Part] = []
    for s in (-1, 1):
        a = math.radians(s * opening)
        c, si = math.sin(a), -math.cos(a)
        tip, end = (blades * c, 0.1 + blades * si), (-0.5 * c, 0.1 - 0.5 * si)
        side = (0.09 * si, -0.09 * c)
        parts.append(polygon([(0 + side[0], 0.1 + side[1]), tip, (0 - side[0], 0.1 - side[1])], "light"))
        parts.append(line([(0, 0.1), end], 0.09, "body"))
        ring = end[0] - s * rings * 0.6, end[1] + rings * 0.6
        tall = rings * (1.0 if shape == 0 else 1.4)
        parts.append(Part([*ellipse(ring[0], ring[1], rings, tall).points, (ring[0] + rings, ring[1])], "body", 0.1))
    return [*parts, ellipse(0, 0.1, 0.06, 0.06, "dark")]


@category(
    "key",
    bow=Scale(0.2, 0.36, "small bow", "big bow"),
    shape=option("round bow", "square bow", "triple bow"),
    teeth=option("one tooth", "two teeth", "three teeth"),
    length=Scale(0.7, 1.15, "short shaft", "long shaft"),
    tooth=Scale(0.14, 0.34, "short teeth", "long teeth"),
)
def key(bow: float, shape: int, teeth: int, length: float, tooth: float) -> list[Part]:
    x = -0.85 + 2 * bow
    parts = [line([(x - 0.05, 0), (x + length, 0)], 0.11, "body")]
    for k in range(teeth + 1):
        px = x + length - 0.07 - 0.19 * k
        parts.append(box(px - 0.06, 0, px + 0.06, 0.05 + tooth * (1 if k != 1 else 0.7)))
    cx = -0.85 + bow
    if shape == 1:
        parts.append(box(cx - bow, -bow, cx + bow, bow))
    elif shape == 2:
        parts += [
            ellipse(cx + dx * bow, dy * bow, bow * 0.62, bow * 0.62)
            for dx, dy in ((0.3, -0.75), (0.3, 0.75), (-0.6, 0))
        ]
    else:
        parts.append(ellipse(cx, 0, bow, bow))
    return [*parts, ellipse(cx, 0, bow * 0.42, bow * 0.42, "light")]


@category(
    "umbrella",
    width=Scale(0.6, 0.95, "narrow canopy", "wide canopy"),
    height=Scale(0.4, 0.8, "flat canopy", "high canopy"),
    panels=option("two panels", "three panels", "four panels"),
    handle=option("hook handle", "straight handle", "knob handle"),
)
def umbrella(width: float, height: float, panels: int, handle: int) -> list[Part]:
    y, count = -0.1, panels + 2
    parts = [line([(0, y - height), (0, 0.75)], 0.06)]
    if handle == 0:
        parts.append(arc(0.14, 0.75, 0.14, 0.16, 180, 0, 0.06))
    if handle == 2:
        parts.append(ellipse(0, 0.82, 0.1, 0.1, "dark"))
    parts.append(sector(0, y, width, height, 180, 360))
    for k in range(1, count):
        x = width * (2 * k / count - 1)
        parts.append(line([(0, y - height), (x * 0.85, y - height * 0.45), (x, y)], 0.05, "second"))
    scallops = [ellipse(width * ((2 * k + 1) / count - 1), y, width / count, 0.1, "second") for k in range(count)]
    return [*parts, *scallops, line([(0, y - height), (0, y - height - 0.12)], 0.06)]


@category(
    "guitar",
    lower=Scale(0.3, 0.5, "small body", "big body"),
    waist=Scale(0.16, 0.3, "narrow waist", "wide waist"),
    neck=Scale(0.6, 1.0, "short neck", "long neck"),
    hole=option("round hole", "no hole", "two knobs"),
    head=option("square head", "round head", "forked head"),
)
def guitar(lower: float, waist: float, neck: float, hole: int, head: int) -> list[Part]:
    y = -0.9 + neck
    upper = (lower + waist) / 2
    right = [
        (upper, y + 0.12),
        (waist, y + 0.34),
        (lower, y + 0.34 + lower * 0.7),
        (lower * 0.6, y + 0.4 + lower * 1.3),
    ]
    end = (0.0, y + 0.42 + lower * 1.4)
    left = [(-x, py) for x, py in reversed(right)]
    parts = [smooth([(0, y - 0.02), *right, end, *left])]
    if hole == 0:
        parts.append(ellipse(0, y + 0.32, 0.13, 0.13, "dark"))
    if hole == 2:
        parts += [ellipse(x, y + 0.4 + lower * 0.7, 0.06, 0.06, "dark", detail=True) for x in (0.1, 0.22)]
    parts += [
        box(-0.07, -0.85, 0.07, y + 0.3, "second"),
        box(-0.16, y + 0.35 + lower * 0.7, 0.1, y + 0.42 + lower * 0.7, "dark"),
    ]
    heads = [
        box(-0.13, -1.0, 0.13, -0.75, "dark"),
        ellipse(0, -0.88, 0.16, 0.15, "dark"),
        polygon([(-0.18, -1.05), (0, -0.9), (0.18, -1.05), (0.1, -0.75), (-0.1, -0.75)], "dark"),
    ]
    return [*parts, heads[head]]


@category(
    "hat",
    crown=Scale(0.4, 1.1, "low crown", "high crown"),
    brim=Scale(0.6, 0.97, "narrow brim", "wide brim"),
    shape=option("flat top", "round top", "pointed top"),
    band=option("no band", "band", "feather"),
)
def hat(crown: float, brim: float, shape: int, band: int) -> list[Part]:
    base, half = 0.55, 0.42
    top = base - crown
    parts = [ellipse(0, base, brim, 0.17, "second" if band == 0 else "body")]
    if shape == 0:
        parts.append(polygon([(-half, base), (-half * 0.95, top), (half * 0.95, top), (half, base)]))
    elif shape == 1:
        parts.append(sector(0, base, half, crown, 180, 360))
    else:
        parts.append(polygon([(-half, base), (0.06, top - 0.2), (half, base)]))
    if band:
        parts.append(box(-half * 0.97, base - 0.18, half * 0.97, base - 0.02, "dark"))
    if band == 2:
        parts.append(ellipse(half * 0.8, base - 0.42, 0.09, 0.34, "light", turn=20))
    return parts


@category(
    "shirt",
    symmetric=True,
    sleeves=Scale(0.15, 0.75, "short sleeves", "long sleeves"),
    width=Scale(0.34, 0.52, "narrow shirt", "wide shirt"),
    collar=option("round collar", "pointed collar"),
    front=option("plain front", "buttons", "two stripes", "pocket"),
    length=Scale(0.4, 0.85, "short shirt", "long shirt"),
)
def shirt(sleeves: float, width: float, collar: int, front: int, length: float) -> list[Part]:
    parts = []
    for s in (-1, 1):
        ax, ay = s * (width + 0.12 + sleeves * 0.45), -0.55 + 0.2 + sleeves
        parts.append(
            polygon([(s * width * 0.8, -0.62), (ax, ay - 0.1), (ax - s * 0.24, ay + 0.06), (s * width * 0.85, -0.18)])
        )
    parts.append(polygon([(-width, -0.62), (width, -0.62), (width, length), (-width, length)]))
    if front == 1:
        parts += [
            line([(0, -0.45), (0, length)], 0.04),
            *(ellipse(0.07, y, 0.05, 0.05, "dark", detail=True) for y in (-0.2, 0.05, 0.3)),
        ]
    if front == 2:
        parts += [box(-width, y, width, y + 0.13, "second") for y in (-0.2, 0.12)]
    if front == 3:
        parts.append(box(0.08, -0.3, 0.3, -0.05, "second"))
    neck = sector(0, -0.64, 0.2, 0.18, 0, 180, "dark")
    return [*parts, neck if collar == 0 else polygon([(-0.22, -0.64), (0, -0.3), (0.22, -0.64)], "light")]


@category(
    "boot",
    shaft=Scale(0.3, 1.0, "low shaft", "high shaft"),
    width=Scale(0.24, 0.42, "narrow shaft", "wide shaft"),
    toe=Scale(0.35, 0.75, "short toe", "long toe"),
    heel=option("flat sole", "heel", "high heel"),
    extra=option("no laces", "laces", "cuff"),
)
def boot(shaft: float, width: float, toe: float, heel: int, extra: int) -> list[Part]:
    floor, left = 0.7, -0.1
    top = 0.2 - shaft
    foot = [
        (left, 0.2),
        (left - toe, 0.42),
        (left - toe, floor),
        (left + 2 * width, floor),
        (left + 2 * width, top),
        (left, top),
    ]
    parts = [polygon(foot)]
    if heel:
        parts.append(
            box(left + 2 * width - 0.22, floor, left + 2 * width, floor + (0.12 if heel == 1 else 0.28), "dark")
        )
    parts.append(box(left - toe, floor - 0.05, left + 2 * width - (0.3 if heel else 0), floor + 0.06, "dark"))
    if extra == 1:
        rows = (top + 0.1, top + 0.26, top + 0.42)
        parts += [line([(left, y), (left + 0.24, y + 0.06)], 0.05, detail=True) for y in rows]
    if extra == 2:
        parts.append(box(left - 0.05, top - 0.06, left + 2 * width + 0.05, top + 0.12, "second"))
    return parts


@category(
    "glasses",
    symmetric=True,
    lens=Scale(0.24, 0.4, "small lenses", "big lenses"),
    height=Scale(0.6, 1.1, "flat lenses", "high lenses"),
    shape=option("round lenses", "square lenses", "pointed lenses"),
    bridge=Scale(0.05, 0.2, "narrow bridge", "wide bridge"),
    arms=option("no arms", "arms up", "arms down"),
)
def glasses(lens: float, height: float, shape: int, bridge: float, arms: int) -> list[Part]:
    parts = [arc(0, 0, bridge + 0.06, 0.12, 180, 360, 0.08, "body")]
    high = lens * height
    for s in (-1, 1):
        x = s * (bridge + lens)
        if arms:
            dy = -0.4 if arms == 1 else 0.4
            parts.append(line([(s * (bridge + 2 * lens), 0), (s * (bridge + 2 * lens + 0.12), dy)], 0.07, "body"))
        if shape == 0:
            outer, inner = ellipse(x, 0, lens, high), ellipse(x, 0, lens * 0.76, high * 0.74, "light")
        elif shape == 1:
            outer, inner = (
                box(x - lens, -high, x + lens, high),
                box(x - lens * 0.76, -high * 0.7, x + lens * 0.76, high * 0.7, "light"),
            )
        else:
            corners = [
                (-s * lens, -high * 0.5),
                (s * lens * 1.15, -high * 1.1),
                (s * lens * 0.6, high),
                (-s * lens * 0.7, high),
            ]
            outer = polygon([(x + u, v) for u, v in corners])
            inner = polygon([(x + u * 0.74, v * 0.7) for u, v in corners], "light")
        parts += [outer, inner]
    return parts
