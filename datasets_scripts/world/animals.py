"""Animals of the drawn world: parametric parts in the unit frame of `parts`."""

import math

from .parts import Part, Scale, arc, box, category, ellipse, line, option, polygon, sector, smooth


@category(
    "cat",
    width=Scale(0.3, 0.5, "slim body", "fat body"),
    head=Scale(0.27, 0.42, "small head", "big head"),
    ears=Scale(0.18, 0.4, "short ears", "long ears"),
    tail=option("tail up", "tail down", "curled tail"),
)
def cat(width: float, head: float, ears: float, tail: int) -> list[Part]:
    top = -0.35
    tails = [
        line([(width, 0.7), (width + 0.3, 0.45), (width + 0.32, 0.0), (width + 0.2, -0.3)], 0.1, "body"),
        line([(width - 0.1, 0.75), (width + 0.3, 0.85), (width + 0.5, 0.8)], 0.1, "body"),
        arc(width + 0.15, 0.5, 0.26, 0.26, 120, -150, 0.1, "body"),
    ]
    parts = [tails[tail], ellipse(0, 0.4, width, 0.52)]
    for side in (-1, 1):
        x = side * head * 0.85
        parts.append(polygon([(x * 0.25, top - head * 0.8), (x * 1.1, top - head * 0.7 - ears), (x * 1.1, top - 0.05)]))
        parts.append(ellipse(side * 0.18, 0.86, 0.15, 0.09, "second"))
    parts.append(ellipse(0, top, head, head * 0.88))
    for side in (-1, 1):
        parts.append(ellipse(side * head * 0.4, top - 0.05, 0.05, 0.06, "dark"))
        parts.append(line([(side * 0.1, top + 0.12), (side * (head + 0.14), top + 0.06)], 0.03, detail=True))
    return [*parts, polygon([(-0.05, top + 0.07), (0.05, top + 0.07), (0, top + 0.14)], "dark")]


@category(
    "rabbit",
    ears=Scale(0.3, 0.62, "short ears", "long ears"),
    body=Scale(0.4, 0.6, "slim body", "fat body"),
    spread=Scale(0.05, 0.24, "ears together", "ears apart"),
    pose=option("sitting", "leaning", "one hanging ear"),
)
def rabbit(ears: float, body: float, spread: float, pose: int) -> list[Part]:
    hx, hy = (-0.32, -0.22) if pose != 1 else (-0.55, -0.05)
    parts = [ellipse(0.5 + body * 0.25, 0.5, 0.15, 0.14, "light"), ellipse(0.15, 0.42, body, 0.45)]
    for k, side in enumerate((-1, 1)):
        hanging = pose == 2 and k == 1
        turn = 75 if hanging else side * 90 * spread
        ex, ey = hx + side * spread * 0.7, hy - 0.2 - ears * 0.55
        if hanging:
            ex, ey = hx + 0.26, hy + 0.02
        parts.append(ellipse(ex, ey, 0.1, ears * 0.62, turn=turn if not hanging else -12))
        parts.append(ellipse(ex, ey, 0.045, ears * 0.42, "second", turn=turn if not hanging else -12, detail=True))
    parts += [ellipse(hx, hy, 0.29, 0.26), ellipse(hx - 0.1, hy - 0.05, 0.05, 0.05, "dark")]
    parts += [ellipse(-0.2, 0.82, 0.22, 0.09, "second"), ellipse(0.35, 0.82, 0.26, 0.1, "second")]
    return [*parts, ellipse(hx - 0.27, hy + 0.04, 0.04, 0.03, "dark", detail=True)]


@category(
    "fish",
    height=Scale(0.25, 0.55, "flat body", "high body"),
    tail=Scale(0.2, 0.45, "small tail", "large tail"),
    fork=option("forked tail", "straight tail"),
    fins=option("no fins", "one fin", "two fins"),
    stripes=option("no stripes", "one stripe", "two stripes", "three stripes"),
)
def fish(height: float, tail: float, fork: int, fins: int, stripes: int) -> list[Part]:
    notch = 0.62 if fork == 0 else 0.95
    parts = [polygon([(0.45, 0), (0.95, -tail), (notch, 0), (0.95, tail)], "second")]
    if fins:
        parts.append(polygon([(-0.2, -height * 0.8), (0.2, -height - 0.22), (0.3, -height * 0.6)], "second"))
    if fins == 2:
        parts.append(polygon([(-0.1, height * 0.8), (0.15, height + 0.2), (0.25, height * 0.6)], "second"))
    parts.append(ellipse(-0.1, 0, 0.68, height))
    for k in range(stripes):
        x = -0.15 + 0.22 * k
        parts.append(line([(x, -height * 0.8), (x + 0.05, 0), (x, height * 0.8)], 0.07, "second", detail=True))
    eye = ellipse(-0.5, -height * 0.2, 0.07, 0.07, "dark")
    return [*parts, arc(-0.45, 0, 0.14, height * 0.6, -60, 60, 0.04), eye]


@category(
    "bird",
    beak=Scale(0.14, 0.42, "short beak", "long beak"),
    legs=Scale(0.15, 0.42, "short legs", "long legs"),
    body=Scale(0.27, 0.42, "slim body", "fat body"),
    wing=option("folded wing", "raised wing", "lowered wing"),
    tail=Scale(0.15, 0.45, "short tail", "long tail"),
)
def bird(beak: float, legs: float, body: float, wing: int, tail: float) -> list[Part]:
    base = 0.1 + body
    parts = [polygon([(0.35, 0.05), (0.5 + tail, -0.18), (0.55 + tail, 0.02), (0.35, 0.25)], "second")]
    for x in (-0.08, 0.14):
        parts.append(line([(x, base - 0.05), (x, base + legs), (x - 0.14, base + legs)], 0.05))
    parts.append(polygon([(-0.6, -0.38), (-0.62 - beak, -0.3), (-0.6, -0.22)], "dark"))
    parts += [ellipse(0, 0.1, 0.5, body, turn=-10), ellipse(-0.45, -0.32, 0.23, 0.22)]
    wings = [
        ellipse(0.08, 0.08, 0.3, body * 0.5, "second", turn=-8),
        polygon([(-0.12, 0.05), (0.2, -0.75), (0.34, 0.05)], "second"),
        polygon([(-0.12, 0.05), (0.3, 0.7), (0.34, 0.02)], "second"),
    ]
    return [*parts, wings[wing], ellipse(-0.5, -0.36, 0.045, 0.045, "dark")]


@category(
    "snail",
    shell=Scale(0.34, 0.55, "small shell", "big shell"),
    turns=option("one turn", "two turns", "three turns"),
    horns=Scale(0.15, 0.4, "short horns", "long horns"),
    neck=Scale(0.0, 0.35, "low head", "high head"),
)
def snail(shell: float, turns: int, horns: float, neck: float) -> list[Part]:
    hy = 0.4 - neck
    foot = [(-0.85, hy), (-0.7, hy - 0.12), (-0.55, hy + 0.08), (-0.4, 0.5), (0.5, 0.5), (0.95, 0.75), (-0.7, 0.75)]
    parts = [smooth(foot, "second")]
    for x in (-0.82, -0.66):
        parts.append(line([(x, hy - 0.05), (x - 0.1, hy - 0.1 - horns)], 0.05))
        parts.append(ellipse(x - 0.1, hy - 0.1 - horns, 0.05, 0.05, "dark"))
    cy = 0.6 - shell
    parts.append(ellipse(0.15, cy, shell * 1.05, shell))
    steps = 9 * (turns + 1)
    spiral = []
    for k in range(steps):
        radius, angle = shell * 0.85 * (1 - k / steps), 2 * math.pi * k / 9
        spiral.append((0.15 + radius * math.cos(angle), cy + radius * math.sin(angle)))
    return [*parts, line(spiral, 0.05)]


@category(
    "butterfly",
    symmetric=True,
    upper=Scale(0.3, 0.48, "small wings", "large wings"),
    lower=Scale(0.18, 0.36, "small lower wings", "large lower wings"),
    spots=option("no spots", "two spots", "four spots"),
    horns=Scale(0.2, 0.45, "short horns", "long horns"),
    shape=option("round wings", "pointed wings"),
)
def butterfly(upper: float, lower: float, spots: int, horns: float, shape: int) -> list[Part]:
    parts: list[Part] = []
    for s in (-1, 1):
        if shape == 0:
            parts.append(ellipse(s * (0.1 + upper), -0.28, upper * 1.1, upper * 0.8, turn=s * -25))
        else:
            parts.append(polygon([(s * 0.05, 0), (s * 2.1 * upper, -0.4 - upper), (s * 1.9 * upper, 0.1)]))
        parts.append(ellipse(s * (0.1 + lower), 0.34, lower, lower * 1.1, "second", turn=s * 25))
        if spots:
            parts.append(ellipse(s * (0.12 + upper), -0.25, 0.1, 0.1, "light", detail=True))
        if spots == 2:
            parts.append(ellipse(s * (0.12 + lower), 0.36, 0.08, 0.08, "light", detail=True))
        parts.append(line([(0, -0.4), (s * 0.1, -0.5 - horns * 0.5), (s * 0.24, -0.45 - horns)], 0.04))
    return [*parts, ellipse(0, 0, 0.08, 0.5, "dark")]


@category(
    "turtle",
    height=Scale(0.35, 0.7, "flat shell", "high shell"),
    neck=Scale(0.05, 0.35, "short neck", "long neck"),
    legs=Scale(0.15, 0.35, "short legs", "long legs"),
    pattern=option("plain shell", "lined shell", "spotted shell"),
)
def turtle(height: float, neck: float, legs: float, pattern: int) -> list[Part]:
    parts = [box(-0.45, 0.2, -0.22, 0.3 + legs, "second"), box(0.25, 0.2, 0.48, 0.3 + legs, "second")]
    parts.append(polygon([(0.6, 0.15), (0.92, 0.28), (0.6, 0.3)], "second"))
    parts.append(polygon([(-0.5, 0.3), (-0.5, 0.05), (-0.7 - neck * 0.5, -neck), (-0.55 - neck * 0.5, 0.25)], "second"))
    parts.append(ellipse(-0.75 - neck * 0.4, -neck, 0.18, 0.14, "second"))
    parts.append(sector(0, 0.28, 0.68, height, 180, 360))
    if pattern == 1:
        for x in (-0.3, 0, 0.3):
            parts.append(line([(x * 0.6, 0.28 - height * 0.9), (x * 1.3, 0.26)], 0.05, detail=True))
    if pattern == 2:
        for x, y in ((-0.32, 0.1), (0, -0.1), (0.32, 0.1)):
            parts.append(ellipse(x, y, 0.1, 0.09, "light", detail=True))
    return [*parts, ellipse(-0.8 - neck * 0.4, -0.03 - neck, 0.035, 0.035, "dark")]
