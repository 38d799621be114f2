"""Animals, plants and food of the drawn world: parametric parts in the unit frame of `world_parts`."""

import math

from datasets_scripts.world_parts import (
    Part,
    Scale,
    arc,
    box,
    category,
    ellipse,
    line,
    option,
    polygon,
    sector,
    smooth,
)


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


@category(
    "apple",
    width=Scale(0.5, 0.8, "narrow fruit", "wide fruit"),
    stem=Scale(0.12, 0.4, "short stem", "long stem"),
    leaf=option("no leaf", "one leaf", "two leaves"),
    bite=option("", "bite"),
)
def apple(width: float, stem: float, leaf: int, bite: int) -> list[Part]:
    right = [(0.9 * width, -0.35), (width, 0.1), (0.65 * width, 0.65), (0.2, 0.72)]
    left = [(-x, y) for x, y in reversed(right)]
    if bite:
        right[1:2] = [(0.62 * width, -0.1), (0.5 * width, 0.15), (0.7 * width, 0.35)]
    parts = [smooth([(0, -0.22), (0.3, -0.42), *right, (0, 0.66), *left, (-0.3, -0.42)])]
    parts.append(line([(0, -0.22), (0.06, -0.3 - stem)], 0.08, "dark"))
    for s in (1, -1)[:leaf]:
        parts.append(ellipse(0.06 + s * 0.22, -0.55, 0.2, 0.09, "second", turn=s * -25))
    return parts


@category(
    "carrot",
    length=Scale(0.8, 1.3, "short root", "long root"),
    width=Scale(0.16, 0.34, "thin root", "thick root"),
    leaves=option("two leaves", "three leaves", "five leaves"),
    leaf=Scale(0.25, 0.5, "short leaves", "long leaves"),
    rings=option("", "rings"),
)
def carrot(length: float, width: float, leaves: int, leaf: float, rings: int) -> list[Part]:
    count = (2, 3, 5)[leaves]
    parts = []
    for k in range(count):
        angle = math.radians(-90 + 80 * (k / (count - 1) - 0.5))
        x, y = leaf * math.cos(angle), -0.35 + leaf * math.sin(angle)
        parts.append(ellipse(x * 0.6, -0.35 + (y + 0.35) * 0.6, leaf * 0.55, 0.09, "second", math.degrees(angle)))
    tip = -0.4 + length
    parts.append(
        smooth([(-width, -0.3), (0, -0.4), (width, -0.3), (width * 0.55, 0.2), (0, tip), (-width * 0.55, 0.2)])
    )
    if rings:
        for x, y in ((-0.5, -0.1), (0.2, 0.1), (-0.35, 0.3)):
            parts.append(line([(x * width, y), ((x + 0.6) * width, y + 0.03)], 0.04, detail=True))
    return parts


@category(
    "mushroom",
    symmetric=True,
    cap=Scale(0.45, 0.9, "small cap", "wide cap"),
    height=Scale(0.35, 0.75, "flat cap", "high cap"),
    stem=Scale(0.12, 0.3, "thin stem", "thick stem"),
    spots=option("no spots", "two spots", "four spots"),
)
def mushroom(cap: float, height: float, stem: float, spots: int) -> list[Part]:
    foot = [(-stem, -0.05), (stem, -0.05), (stem * 1.3, 0.85), (-stem * 1.3, 0.85)]
    parts = [polygon(foot, "light"), sector(0, 0.05, cap, height, 180, 360)]
    places = [(-0.4, 0.4), (0.35, 0.35), (0.0, 0.72), (0.7, 0.15)][: 2 * spots]
    return [*parts, *(ellipse(x * cap, 0.05 - y * height, 0.1, 0.09, "light", detail=True) for x, y in places)]


@category(
    "tree",
    trunk=Scale(0.07, 0.18, "thin trunk", "thick trunk"),
    crown=Scale(0.4, 0.72, "narrow crown", "wide crown"),
    shape=option("round crown", "pointed crown", "three crowns", "layered crown"),
    height=Scale(0.2, 0.6, "short trunk", "long trunk"),
)
def tree(trunk: float, crown: float, shape: int, height: float) -> list[Part]:
    y = 0.9 - height
    parts = [box(-trunk, y - 0.2, trunk, 0.92, "second")]
    if shape == 0:
        parts.append(ellipse(0, (y - 0.9) / 2, crown, (y + 0.95) / 2))
    elif shape == 1:
        parts.append(polygon([(-crown, y), (0, -0.95), (crown, y)]))
    elif shape == 2:
        parts += [ellipse(s * crown * 0.55, y - 0.25, crown * 0.6, crown * 0.55) for s in (-1, 1)]
        parts.append(ellipse(0, y - 0.3 - crown * 0.6, crown * 0.6, crown * 0.55))
    else:
        for k in range(3):
            top, size = y - 1.05 + 0.27 * (2 - k), crown * (1 - 0.22 * k)
            parts.append(polygon([(-size, top + 0.55), (0, top), (size, top + 0.55)]))
    return parts


@category(
    "cactus",
    width=Scale(0.14, 0.28, "thin body", "thick body"),
    arms=option("no arms", "one arm", "two arms", "two low arms"),
    pot=option("no pot", "pot"),
    spines=option("", "spines", "lines"),
    height=Scale(0.9, 1.6, "short body", "tall body"),
)
def cactus(width: float, arms: int, pot: int, spines: int, height: float) -> list[Part]:
    base, top = 0.75, 0.75 - height
    parts = []
    for k, s in enumerate((1, -1)[: min(arms, 2)]):
        y = base - height * (0.35 if arms == 3 else 0.5 + 0.15 * k)
        parts.append(line([(0, y), (s * (width + 0.28), y), (s * (width + 0.3), y - 0.35)], width * 1.1, "body"))
    parts.append(smooth([(-width, base), (-width, top + 0.2), (0, top), (width, top + 0.2), (width, base)]))
    for k in range(4 if spines == 1 else 0):
        y = top + 0.25 + 0.2 * k
        parts.append(line([(-width * 0.4, y), (width * 0.4, y + 0.05)], 0.04, detail=True))
    if spines == 2:
        parts += [line([(x, top + 0.2), (x, base)], 0.035, detail=True) for x in (-width * 0.4, width * 0.4)]
    if pot:
        parts.append(polygon([(-width - 0.15, 0.5), (width + 0.15, 0.5), (width, 0.95), (-width, 0.95)], "second"))
    return parts


@category(
    "flower",
    petals=option("four petals", "five petals", "six petals", "eight petals"),
    size=Scale(0.24, 0.42, "short petals", "long petals"),
    heart=Scale(0.1, 0.24, "small heart", "big heart"),
    leaves=option("no leaves", "one leaf", "two leaves"),
    shape=option("round petals", "thin petals"),
)
def flower(petals: int, size: float, heart: float, leaves: int, shape: int) -> list[Part]:
    count, y = (4, 5, 6, 8)[petals], -0.35
    parts = [line([(0, y), (0.04, 0.3), (0, 0.95)], 0.07, "second")]
    for s in (1, -1)[:leaves]:
        parts.append(ellipse(s * 0.24, 0.52, 0.24, 0.1, "second", turn=s * -30))
    for k in range(count):
        angle = 2 * math.pi * k / count
        x, dy = (heart + size * 0.5) * math.cos(angle), (heart + size * 0.5) * math.sin(angle)
        thin = size * (0.5 if shape == 0 else 0.25)
        parts.append(ellipse(x, y + dy, size * 0.62, thin, turn=math.degrees(angle)))
    return [*parts, ellipse(0, y, heart, heart, "light")]


@category(
    "ice cream",
    scoops=option("one scoop", "two scoops", "three scoops"),
    cone=Scale(0.5, 1.0, "short cone", "long cone"),
    size=Scale(0.25, 0.4, "small scoops", "big scoops"),
    top=option("", "cherry", "stick"),
    grid=option("plain cone", "crossed cone"),
)
def ice_cream(scoops: int, cone: float, size: float, top: int, grid: int) -> list[Part]:
    y = 0.95 - cone
    places = [[(0, 0)], [(-0.7, 0), (0.7, 0)], [(-0.75, 0), (0.75, 0), (0, -1.1)]][scoops]
    highest = y - size * (0.5 + (1.1 if scoops == 2 else 0)) - size
    parts = []
    if top == 2:
        parts.append(line([(0.05, highest + 0.3), (0.25, highest - 0.2)], 0.09))
    for k, (x, dy) in enumerate(places):
        parts.append(ellipse(x * size, y - size * 0.5 + dy * size, size, size, ("body", "light", "body")[k]))
    wide = size * (0.95 if scoops == 0 else 1.5)
    parts.append(polygon([(-wide, y), (wide, y), (0, 0.95)], "second"))
    if grid:
        for s in (-1, 1):
            parts.append(line([(s * wide * 0.5, y), (-s * wide * 0.25, y + cone * 0.6)], 0.04, detail=True))
    if top == 1:
        parts.append(ellipse(0, highest - 0.02, 0.1, 0.1, "dark"))
    return parts
