"""Furniture and household things of the drawn world: parametric parts in the unit frame of `parts`."""

import math

from .parts import Part, Scale, arc, box, category, ellipse, line, option, polygon, sector, smooth


@category(
    "mug",
    height=Scale(0.4, 0.75, "short body", "tall body"),
    width=Scale(0.35, 0.6, "narrow body", "wide body"),
    handle=option("round handle", "square handle", "two handles"),
    bands=option("no band", "one band", "two bands"),
    steam=option("", "steam"),
)
def mug(height: float, width: float, handle: int, bands: int, steam: int) -> list[Part]:
    parts = []
    for s in (1, -1)[: 2 if handle == 2 else 1]:
        x = s * (width + 0.02)
        if handle == 1:
            corners = [(x, -height * 0.5), (x + s * 0.3, -height * 0.5), (x + s * 0.3, height * 0.5), (x, height * 0.5)]
            parts.append(line(corners, 0.1, "body"))
        else:
            parts.append(arc(x - s * 0.04, 0, 0.32, height * 0.55, -90, -90 + s * 180, 0.1, "body"))
    parts.append(box(-width, -height, width, height))
    for k in range(bands):
        y = height * (0.1 if bands == 1 else 0.7 * k - 0.35)
        parts.append(box(-width, y - 0.08, width, y + 0.08, "second"))
    parts.append(ellipse(0, -height, width, 0.13, "dark"))
    if steam:
        for x in (-0.15, 0.15):
            points = [(x, -height - 0.12), (x + 0.06, -height - 0.22), (x - 0.04, -height - 0.32)]
            parts.append(line(points, 0.04, "light", True))
    return parts


@category(
    "teapot",
    height=Scale(0.32, 0.58, "flat body", "high body"),
    spout=Scale(0.1, 0.5, "low spout", "high spout"),
    handle=option("side handle", "top handle"),
    knob=Scale(0.06, 0.16, "small knob", "big knob"),
    band=option("", "band", "spots"),
)
def teapot(height: float, spout: float, handle: int, knob: float, band: int) -> list[Part]:
    y = 0.25
    parts = [polygon([(-0.35, y + 0.2), (-0.9, y - spout), (-0.72, y - spout - 0.05), (-0.3, y - 0.15)], "second")]
    if handle == 0:
        parts.append(arc(0.5, y, 0.36, height * 0.75, -100, 100, 0.1, "second"))
    else:
        parts.append(arc(0, y - height * 0.6, 0.42, 0.55, 180, 360, 0.09, "second"))
    parts.append(ellipse(0, y, 0.58, height))
    if band == 1:
        parts.append(box(-0.54, y - 0.07, 0.54, y + 0.07, "light"))
    if band == 2:
        parts += [ellipse(x, y, 0.08, 0.08, "light", detail=True) for x in (-0.3, 0, 0.3)]
    parts.append(sector(0, y - height * 0.82, 0.3, 0.14, 180, 360, "second"))
    return [*parts, ellipse(0, y - height * 0.82 - 0.13 - knob, knob, knob, "dark")]


@category(
    "chair",
    back=Scale(0.5, 0.95, "low back", "high back"),
    seat=Scale(0.35, 0.6, "narrow seat", "wide seat"),
    slats=option("solid back", "two slats", "three slats", "open back"),
    arms=option("no armrest", "armrest"),
    legs=Scale(0.4, 0.75, "short legs", "long legs"),
)
def chair(back: float, seat: float, slats: int, arms: int, legs: float) -> list[Part]:
    y = 0.9 - legs
    parts = [
        line([(x * seat, y), (x * seat + d, 0.92)], 0.09) for x, d in ((-0.85, 0), (0.5, 0), (0.95, 0.05), (-0.4, 0))
    ]
    if slats == 0:
        parts.append(polygon([(-seat, y), (-seat - 0.1, y - back), (-seat + 0.14, y - back), (-seat + 0.16, y)]))
        parts.append(
            polygon([(-seat + 0.1, y - 0.05), (-seat + 0.05, y - back), (0.1, y - back + 0.08), (0.14, y - 0.1)])
        )
    else:
        rails = [(-seat, -seat - 0.08), (0.12, 0.06)]
        parts += [line([(a, y), (b, y - back)], 0.1, "body") for a, b in rails]
        for k in range((0, 2, 3, 1)[slats]):
            yy = y - back + 0.07 + back * 0.28 * k
            parts.append(line([(-seat - 0.05, yy), (0.08, yy + 0.03)], 0.1, "body"))
    parts.append(
        polygon(
            [(-seat - 0.03, y), (0.15, y - 0.16), (seat + 0.2, y - 0.12), (seat, y + 0.08), (-seat, y + 0.1)], "second"
        )
    )
    if arms:
        parts.append(line([(-seat, y - 0.3), (seat * 0.8, y - 0.27), (seat * 0.8, y)], 0.08))
    return parts


@category(
    "table",
    symmetric=True,
    width=Scale(0.55, 0.95, "narrow top", "wide top"),
    thick=Scale(0.05, 0.14, "thin top", "thick top"),
    legs=option("two legs", "four legs", "one foot"),
    height=Scale(0.6, 1.1, "low table", "high table"),
    drawer=option("", "drawer", "round top"),
)
def table(width: float, thick: float, legs: int, height: float, drawer: int) -> list[Part]:
    top, floor = -height / 2, height / 2 + 0.1
    parts: list[Part] = []
    if legs == 2:
        parts += [box(-0.09, top, 0.09, floor, "second"), sector(0, floor, width * 0.5, 0.22, 180, 360, "second")]
    else:
        parts += [box(s * width * 0.82 - 0.06, top, s * width * 0.82 + 0.06, floor, "second") for s in (-1, 1)]
    if legs == 1:
        parts += [box(s * width * 0.4 - 0.045, top, s * width * 0.4 + 0.045, floor - 0.2, "dark") for s in (-1, 1)]
    if drawer == 1:
        parts += [box(-0.28, top, 0.28, top + thick * 2 + 0.2), ellipse(0, top + thick + 0.18, 0.05, 0.05, "dark")]
    if drawer == 2:
        return [*parts, ellipse(0, top, width, thick + 0.12)]
    return [*parts, box(-width, top - thick, width, top + thick)]


@category(
    "clock",
    symmetric=True,
    hour=Scale(0, 360, "early hour", "late hour"),
    minute=Scale(0, 360, "early minute", "late minute"),
    shape=option("round case", "square case", "eight-sided case"),
    feet=option("no feet", "feet", "bells"),
    marks=option("no marks", "four marks", "eight marks"),
)
def clock(hour: float, minute: float, shape: int, feet: int, marks: int) -> list[Part]:
    parts: list[Part] = []
    if feet:
        parts += [line([(s * 0.35, 0.5), (s * 0.55, 0.92)], 0.1) for s in (-1, 1)]
    if feet == 2:
        parts += [ellipse(s * 0.42, -0.68, 0.2, 0.16, "second", turn=s * 35) for s in (-1, 1)]
    rim = 0.72
    if shape == 0:
        parts.append(ellipse(0, 0, rim, rim))
    else:
        sides = 4 if shape == 1 else 8
        spin, reach = math.pi / sides, rim * (1.25 if shape == 1 else 1.05)
        corners = [2 * math.pi * k / sides + spin for k in range(sides)]
        parts.append(polygon([(reach * math.cos(a), reach * math.sin(a)) for a in corners]))
    parts.append(ellipse(0, 0, 0.58, 0.58, "light"))
    for k in range(4 * marks):
        c, s = math.cos(2 * math.pi * k / (4 * marks)), math.sin(2 * math.pi * k / (4 * marks))
        parts.append(line([(0.45 * c, 0.45 * s), (0.54 * c, 0.54 * s)], 0.05, detail=True))
    for angle, reach, thick in ((hour, 0.3, 0.09), (minute, 0.45, 0.06)):
        a = math.radians(angle)
        parts.append(line([(0, 0), (reach * math.sin(a), -reach * math.cos(a))], thick))
    return parts


@category(
    "lamp",
    symmetric=True,
    shade=Scale(0.35, 0.7, "narrow shade", "wide shade"),
    height=Scale(0.35, 0.7, "flat shade", "high shade"),
    top=Scale(0.1, 0.8, "pointed shade", "straight shade"),
    foot=option("round foot", "flat foot", "three feet", "vase foot"),
)
def lamp(shade: float, height: float, top: float, foot: int) -> list[Part]:
    low = -0.9 + height
    parts = [line([(0, low), (0, 0.85)], 0.08)]
    if foot == 0:
        parts.append(sector(0, 0.9, 0.35, 0.2, 180, 360, "second"))
    elif foot == 1:
        parts.append(box(-0.4, 0.8, 0.4, 0.92, "second"))
    elif foot == 2:
        parts += [line([(0, 0.5), (x, 0.92)], 0.07) for x in (-0.4, 0.1, 0.42)]
    else:
        parts.append(
            smooth([(-0.1, 0.05), (0.1, 0.05), (0.32, 0.55), (0.18, 0.9), (-0.18, 0.9), (-0.32, 0.55)], "second")
        )
    return [*parts, polygon([(-shade, low), (-shade * top, -0.9), (shade * top, -0.9), (shade, low)])]


@category(
    "bottle",
    symmetric=True,
    width=Scale(0.2, 0.42, "slim bottle", "wide bottle"),
    neck=Scale(0.2, 0.6, "short neck", "long neck"),
    label=option("no label", "label", "round label"),
    cap=option("no cap", "cap", "cork"),
    shoulder=option("round shoulder", "sloping shoulder", "square shoulder"),
)
def bottle(width: float, neck: float, label: int, cap: int, shoulder: int) -> list[Part]:
    top, thin = -0.85, width * 0.36
    y = top + neck
    drop = (0.15, 0.35, 0.02)[shoulder]
    parts = []
    if cap:
        parts.append(
            box(-thin * 1.1, top - 0.1, thin * 1.1, top + (0.1 if cap == 1 else 0.0), "dark" if cap == 1 else "light")
        )
    left = [(-thin, top), (-thin, y), (-width, y + drop), (-width, 0.92)]
    outline = [*left, *((-x, py) for x, py in reversed(left))]
    parts.append(polygon(outline))
    if cap == 1:
        parts.append(box(-thin * 1.1, top - 0.1, thin * 1.1, top + 0.1, "dark"))
    if label == 1:
        parts.append(box(-width, 0.2, width, 0.62, "second"))
    if label == 2:
        parts.append(ellipse(0, 0.4, width * 0.75, width * 0.75, "second"))
    return parts


@category(
    "ladder",
    symmetric=True,
    rungs=option("three rungs", "four rungs", "five rungs", "seven rungs"),
    width=Scale(0.22, 0.5, "narrow ladder", "wide ladder"),
    taper=Scale(0.5, 1.0, "tapered rails", "straight rails"),
    rail=Scale(0.06, 0.13, "thin rails", "thick rails"),
)
def ladder(rungs: int, width: float, taper: float, rail: float) -> list[Part]:
    count = (3, 4, 5, 7)[rungs]
    parts = []
    for k in range(count):
        y = -0.75 + 1.5 * k / (count - 1)
        w = width * (taper + (1 - taper) * (y + 0.95) / 1.9)
        parts.append(line([(-w, y), (w, y)], 0.08, "second"))
    return parts + [line([(s * width * taper, -0.95), (s * width, 0.95)], rail, "body") for s in (-1, 1)]
