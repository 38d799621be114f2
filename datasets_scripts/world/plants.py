"""Plants and food of the drawn world: parametric parts in the unit frame of `parts`."""

import math

from .parts import Part, Scale, box, category, ellipse, line, option, polygon, sector, smooth


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
