"""Vehicles and buildings of the drawn world: parametric parts in the unit frame of `parts`."""

import math

from .parts import Part, Scale, box, category, ellipse, line, option, polygon, sector, smooth


def _wheel(x: float, y: float, radius: float) -> list[Part]:
    return [ellipse(x, y, radius, radius, "dark"), ellipse(x, y, radius * 0.45, radius * 0.45, "light", detail=True)]


@category(
    "car",
    roof=Scale(0.25, 0.5, "low roof", "high roof"),
    wheels=Scale(0.15, 0.26, "small wheels", "big wheels"),
    cabin=Scale(0.25, 0.55, "short cabin", "long cabin"),
    windows=option("one window", "two windows"),
    extra=option("", "lamp", "roof rack"),
)
def car(roof: float, wheels: float, cabin: float, windows: int, extra: int) -> list[Part]:
    parts = [polygon([(-cabin - 0.15, 0.0), (-cabin * 0.75, -roof), (cabin * 0.7, -roof), (cabin + 0.25, 0.0)])]
    parts.append(smooth([(-0.9, 0.35), (-0.88, 0.02), (0, -0.04), (0.85, 0.05), (0.92, 0.35)]))
    edges = (-cabin * 0.8, cabin * 0.8) if windows == 0 else (-cabin * 0.8, -0.05, 0.05, cabin * 0.8)
    for x0, x1 in zip(edges[::2], edges[1::2], strict=True):
        parts.append(box(x0, -roof * 0.82, x1, -0.06, "light"))
    if extra == 1:
        parts.append(ellipse(-0.82, 0.12, 0.08, 0.08, "light"))
    if extra == 2:
        parts.append(line([(-cabin * 0.6, -roof - 0.1), (cabin * 0.6, -roof - 0.1)], 0.06))
    return parts + _wheel(-0.5, 0.38, wheels) + _wheel(0.52, 0.38, wheels)


@category(
    "truck",
    load=Scale(0.4, 0.75, "low load", "high load"),
    wheels=option("two wheels", "three wheels", "four wheels"),
    cab=Scale(0.3, 0.5, "short cab", "long cab"),
    kind=option("closed box", "tank", "open box"),
)
def truck(load: float, wheels: int, cab: float, kind: int) -> list[Part]:
    x = -0.95 + cab
    parts = [box(-0.95, 0.25, 0.95, 0.38, "dark")]
    parts.append(polygon([(-0.95, 0.3), (-0.95, -0.02), (-0.8, -0.3), (x, -0.3), (x, 0.3)]))
    parts.append(polygon([(-0.86, -0.02), (-0.76, -0.22), (x - 0.08, -0.22), (x - 0.08, -0.02)], "light"))
    top = 0.25 - load
    if kind == 0:
        parts.append(box(x + 0.06, top, 0.95, 0.26, "second"))
    elif kind == 1:
        parts.append(ellipse((x + 1.0) / 2, 0.25 - load / 2, (0.94 - x) / 2, load / 2, "second"))
    else:
        parts.append(
            polygon(
                [(x + 0.06, 0.26), (x + 0.06, top), (x + 0.14, 0.0), (0.85, 0.0), (0.95, top), (0.95, 0.26)], "second"
            )
        )
    places = [(-0.65, 0.6), (-0.65, 0.35, 0.7), (-0.7, -0.3, 0.35, 0.72)][wheels]
    return [*parts, *(part for px in places for part in _wheel(px, 0.42, 0.17))]


@category(
    "sailboat",
    mast=Scale(0.9, 1.4, "short mast", "tall mast"),
    hull=Scale(0.5, 0.9, "short hull", "long hull"),
    sails=option("one sail", "two sails", "square sail"),
    flag=option("no flag", "flag"),
    depth=Scale(0.18, 0.36, "flat hull", "deep hull"),
)
def sailboat(mast: float, hull: float, sails: int, flag: int, depth: float) -> list[Part]:
    top = 0.45 - mast
    parts = [line([(0, 0.5), (0, top)], 0.07)]
    if sails == 2:
        parts.append(box(-hull * 0.65, top + 0.12, hull * 0.65, 0.3, "light"))
    else:
        parts.append(polygon([(0.06, top + 0.05), (hull * 0.9, 0.32), (0.06, 0.32)], "light"))
    if sails == 1:
        parts.append(polygon([(-0.06, top + 0.2), (-hull * 0.8, 0.32), (-0.06, 0.32)], "second"))
    if flag:
        parts.append(polygon([(0, top), (-0.25, top + 0.07), (0, top + 0.15)], "dark"))
    floor = 0.45 + depth
    return [*parts, polygon([(-hull, 0.45), (hull, 0.45), (hull * 0.7, floor), (-hull * 0.65, floor)])]


@category(
    "airplane",
    body=Scale(0.12, 0.24, "thin body", "thick body"),
    wing=Scale(0.4, 0.8, "short wings", "long wings"),
    sweep=Scale(0.05, 0.45, "straight wings", "swept wings"),
    windows=option("no windows", "three windows", "five windows"),
    engine=option("no engine", "engine", "propeller"),
)
def airplane(body: float, wing: float, sweep: float, windows: int, engine: int) -> list[Part]:
    parts = [polygon([(0.05, -body * 0.4), (0.1 + sweep, -wing), (0.26 + sweep, -wing), (0.3, -body * 0.4)], "second")]
    parts.append(polygon([(0.6, 0), (0.8, -body - 0.32), (0.97, -body - 0.32), (0.92, 0)], "second"))
    parts.append(smooth([(-0.92, 0.02), (-0.7, -body), (0.3, -body), (0.95, -0.06), (0.3, body), (-0.7, body)]))
    parts.append(polygon([(-0.12, body * 0.3), (0.2 + sweep, wing), (0.4 + sweep, wing), (0.25, body * 0.3)], "second"))
    if engine == 1:
        parts.append(ellipse(0.12 + sweep / 2, wing * 0.6, 0.17, 0.09, "dark"))
    if engine == 2:
        parts.append(line([(-0.94, -0.32), (-0.94, 0.34)], 0.07))
    for k in range((0, 3, 5)[windows]):
        parts.append(ellipse(-0.5 + 0.17 * k, -body * 0.35, 0.05, 0.05, "light", detail=True))
    return parts


@category(
    "balloon",
    symmetric=True,
    width=Scale(0.45, 0.75, "narrow envelope", "wide envelope"),
    stripes=option("plain envelope", "three stripes", "band"),
    basket=Scale(0.12, 0.26, "small basket", "big basket"),
    ropes=Scale(0.12, 0.35, "short ropes", "long ropes"),
)
def balloon(width: float, stripes: int, basket: float, ropes: float) -> list[Part]:
    low = 0.9 - 2 * basket * 0.8 - ropes
    neck, mid = basket * 1.0, (low - 0.95) / 2
    parts = [line([(s * neck, low), (s * basket * 0.9, low + ropes)], 0.035) for s in (-1, 1)]
    parts.append(
        smooth(
            [
                (-neck, low),
                (-width, mid - 0.1),
                (-width * 0.6, -0.85),
                (0, -0.97),
                (width * 0.6, -0.85),
                (width, mid - 0.1),
                (neck, low),
            ]
        )
    )
    if stripes == 1:
        for k in (-1, 0, 1):
            parts.append(
                line([(k * width * 0.35, -0.9), (k * width * 0.6, mid), (k * neck * 0.6, low)], 0.07, "second", True)
            )
    if stripes == 2:
        parts.append(
            polygon(
                [(-width * 0.98, mid - 0.2), (width * 0.98, mid - 0.2), (width * 0.95, mid), (-width * 0.95, mid)],
                "second",
            )
        )
    return [*parts, box(-basket, low + ropes, basket, low + ropes + basket * 1.3, "dark")]


@category(
    "house",
    width=Scale(0.45, 0.8, "narrow house", "wide house"),
    roof=Scale(0.3, 0.65, "flat roof", "steep roof"),
    door=option("door left", "door middle", "door right"),
    windows=option("no window", "one window", "two windows"),
    chimney=option("no chimney", "chimney"),
)
def house(width: float, roof: float, door: int, windows: int, chimney: int) -> list[Part]:
    parts = []
    if chimney:
        parts.append(box(width * 0.4, -0.15 - roof, width * 0.4 + 0.16, -0.1, "second"))
    parts.append(box(-width, -0.1, width, 0.85))
    parts.append(polygon([(-width - 0.12, -0.08), (0, -0.1 - roof), (width + 0.12, -0.08)], "second"))
    x = (-0.55, 0.0, 0.55)[door] * width
    parts.append(box(x - 0.12, 0.35, x + 0.12, 0.85, "dark"))
    places = [[], [0.5 if door < 1 else -0.5], [-0.6, 0.6] if door == 1 else [0.05, 0.62 if door == 0 else -0.5]][
        windows
    ]
    return [*parts, *(box(p * width - 0.11, 0.08, p * width + 0.11, 0.3, "light") for p in places)]


@category(
    "castle",
    towers=option("two towers", "three towers", "one tower"),
    height=Scale(0.5, 1.0, "low towers", "high towers"),
    wall=Scale(0.35, 0.75, "low wall", "high wall"),
    roofs=option("pointed roofs", "battlements"),
    gate=Scale(0.12, 0.26, "narrow gate", "wide gate"),
)
def castle(towers: int, height: float, wall: float, roofs: int, gate: float) -> list[Part]:
    parts = [box(-0.7, 0.85 - wall, 0.7, 0.85)]
    for x in [(-0.68, 0.68), (-0.7, 0.0, 0.7), (0.55,)][towers]:
        top = 0.5 - height - (0.1 if x == 0 else 0)
        if roofs == 0:
            parts.append(polygon([(x - 0.27, top), (x, top - 0.4), (x + 0.27, top)], "second"))
        else:
            parts += [box(x + d - 0.06, top - 0.14, x + d + 0.06, top + 0.02) for d in (-0.16, 0.0, 0.16)]
        parts.append(box(x - 0.22, top, x + 0.22, 0.87))
        parts.append(box(x - 0.05, top + 0.14, x + 0.05, top + 0.34, "dark", detail=True))
    arch = sector(0, 0.62, gate, 0.22, 180, 360, "dark")
    return [*parts, box(-gate, 0.6, gate, 0.87, "dark"), arch]


@category(
    "lighthouse",
    symmetric=True,
    base=Scale(0.22, 0.45, "narrow foot", "wide foot"),
    height=Scale(0.9, 1.35, "short tower", "tall tower"),
    bands=option("no bands", "one band", "two bands", "three bands"),
    roof=option("pointed roof", "round roof"),
    rays=option("", "light rays"),
)
def lighthouse(base: float, height: float, bands: int, roof: int, rays: int) -> list[Part]:
    top, thin = 0.85 - height, base * 0.62
    parts = [polygon([(-base, 0.85), (-thin, top), (thin, top), (base, 0.85)])]
    for k in range(bands):
        y = top + height * (k + 0.6) / (bands + 0.6)
        w = thin + (base - thin) * (y - top) / height
        parts.append(box(-w, y, w, y + 0.14, "second"))
    parts += [
        box(-thin - 0.08, top - 0.05, thin + 0.08, top + 0.03, "dark"),
        box(-thin * 0.7, top - 0.26, thin * 0.7, top - 0.04, "light"),
    ]
    cap = polygon([(-thin, top - 0.25), (0, top - 0.48), (thin, top - 0.25)], "second")
    parts.append(cap if roof == 0 else sector(0, top - 0.24, thin * 0.9, 0.2, 180, 360, "second"))
    if rays:
        parts += [
            line([(s * (thin + 0.12), top - 0.15), (s * 0.8, top - 0.3 + d)], 0.04) for s in (-1, 1) for d in (0, 0.3)
        ]
    return parts


@category(
    "windmill",
    blades=option("three blades", "four blades", "six blades"),
    length=Scale(0.4, 0.68, "short blades", "long blades"),
    body=Scale(0.2, 0.42, "narrow tower", "wide tower"),
    turn=Scale(0.0, 1.0, "upright blades", "turned blades"),
    door=option("no door", "door"),
)
def windmill(blades: int, length: float, body: float, turn: float, door: int) -> list[Part]:
    count, y = (3, 4, 6)[blades], -0.3
    parts = [polygon([(-body, 0.9), (-body * 0.6, y), (body * 0.6, y), (body, 0.9)])]
    parts.append(sector(0, y, body * 0.65, 0.28, 180, 360, "second"))
    if door:
        parts.append(box(-0.09, 0.58, 0.09, 0.9, "dark"))
    for k in range(count):
        a = 2 * math.pi * (k + 0.9 * turn) / count
        c, s = math.cos(a), math.sin(a)
        corners = [(0.08, -0.02), (length, -0.02), (length, 0.15), (0.12, 0.13)]
        parts.append(polygon([(u * c - v * s, y + u * s + v * c) for u, v in corners], "light"))
    return [*parts, ellipse(0, y, 0.07, 0.07, "dark")]
