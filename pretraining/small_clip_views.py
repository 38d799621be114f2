"""Random views of photos and drawings, made in batches on the device that trains.

Every function draws its chances from torch's global generators.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 1  # pixels around an edge map that are left white: the slope is not known there
EDGE_QUANTILE = 0.9  # the slope at this share of the pixels counts as a clear edge
RUBBED = 5  # places of a drawing that are rubbed out, at most
RUBBED_RADIUS = 0.12  # of the paper's width, at most
CUT_CHANCE = 0.5  # share of the batches with mixed photos


def photo_views(photos: Tensor) -> Tensor:
    """Return other cut-outs of photos in other colours, as (B, 3, S, S) in [0, 1] as they are."""
    return recolour(sample(photos, photos.shape[-1], zoom=(0.45, 1.05), turn=0.15))


def edge_views(photos: Tensor) -> Tensor:
    """Return edge maps of other cut-outs of photos (B, 3, S, S): dark lines on white, (B, 1, S, S) in [0, 1]."""
    return edge_maps(sample(photos, photos.shape[-1], zoom=(0.7, 1.02), turn=0.1))


def drawing_views(numbers: Tensor) -> Tensor:
    """Return other hands' versions of drawings: fewer strokes, thicker or thinner, bent, moved, darker or paler.

    Args:
        numbers: (B, 2S, 2S) uint8, stroke numbers.

    Returns:
        (B, 1, S, S) in [0, 1], dark lines on white.
    """
    ink = thicken(drop_strokes(numbers, 0.1).float()[:, None])  # (B, 1, 2S, 2S)
    ink = rub_out(sample(ink, ink.shape[-1], zoom=(0.8, 1.25), turn=0.3, bend=0.02, padding="zeros"))
    return 1 - shrink(ink) * _uniform(ink, 0.5, 1)


def plain_drawings(numbers: Tensor) -> Tensor:
    """Return drawings (B, 2S, 2S) as they are, in middling lines: (B, 1, S, S) in [0, 1], dark lines on white."""
    return 1 - shrink(F.max_pool2d((numbers > 0).float()[:, None], 3, 1, 1))


def shrink(ink: Tensor) -> Tensor:
    """Return ink (B, 1, 2S, 2S) in [0, 1] at half the size; a line one pixel wide stays dark."""
    return (2 * F.avg_pool2d(ink, 2)).clamp(0, 1)  # (B, 1, S, S)


def sample(
    images: Tensor,
    size: int,
    zoom: tuple[float, float],
    turn: float,
    bend: float = 0.0,
    padding: str = "border",
) -> Tensor:
    """Return images (B, C, H, W) cut out, stretched, turned, mirrored and bent by chance, as (B, C, size, size).

    Args:
        zoom: side of the cut-out as a share of the image's, from and to.
        turn: radians to either side, at most.
        bend: standard deviation of the bending, as a share of half the image's side; 0 bends nothing.
        padding: "border" or "zeros", what lies outside of the image.
    """
    count = len(images)
    side = _uniform(images, *zoom).view(count)  # (B,)
    stretch = _uniform(images, -0.2, 0.2).view(count).exp()
    width, height = (side * stretch).clamp(max=1.25), (side / stretch).clamp(max=1.25)
    mirrored = torch.where(_uniform(images, 0, 1).view(count) < 0.5, -1.0, 1.0)
    angle = _uniform(images, -turn, turn).view(count)
    slack = (1 - side).clamp(min=0.06)
    left, top = (_uniform(images, -1, 1).view(count) * slack for _ in range(2))
    across = torch.stack([width * mirrored * angle.cos(), -width * angle.sin(), left], dim=1)  # (B, 3)
    down = torch.stack([height * mirrored * angle.sin(), height * angle.cos(), top], dim=1)
    grid = F.affine_grid(torch.stack([across, down], 1), [count, images.shape[1], size, size], align_corners=False)
    if bend:
        waves = bend * torch.randn(count, 2, 5, 5, device=images.device)
        waves = F.interpolate(waves, size=(size, size), mode="bicubic", align_corners=True)  # (B, 2, size, size)
        grid = grid + waves.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def recolour(photos: Tensor) -> Tensor:
    """Return photos (B, 3, S, S) with other saturation (one of seven grey), contrast, brightness and tint."""
    weights = torch.tensor([0.3, 0.59, 0.11], device=photos.device).view(1, 3, 1, 1)
    grey = (photos * weights).sum(1, keepdim=True)  # (B, 1, S, S)
    saturation = torch.where(_uniform(photos, 0, 1) < 1 / 7, 0.0, _uniform(photos, 0.5, 1.5))  # (B, 1, 1, 1)
    photos = grey + (photos - grey) * saturation
    mean = photos.mean((1, 2, 3), keepdim=True)
    tint = torch.empty(len(photos), 3, 1, 1, device=photos.device).uniform_(-0.08, 0.08)
    moved = (photos - mean) * _uniform(photos, 0.6, 1.4) + mean * _uniform(photos, 0.7, 1.3) + tint
    return moved.clamp(0, 1)


def edge_maps(photos: Tensor) -> Tensor:
    """Return the edges of photos (B, 3, S, S) as dark lines on white, (B, 1, S, S); threshold and ink vary."""
    smooth = _blur(photos)
    smooth = photos + _uniform(photos, 0.3, 1) * (smooth - photos)
    slope = _slope(smooth).amax(1, keepdim=True)  # (B, 1, S, S), of the channel that changes most
    slope = F.pad(slope[:, :, BORDER:-BORDER, BORDER:-BORDER], [BORDER] * 4)
    flat = slope.flatten(1)  # (B, S * S)
    clear = flat.kthvalue(int(EDGE_QUANTILE * flat.shape[1]), dim=1).values.view(-1, 1, 1, 1) + 1e-4
    ink = (slope / clear - _uniform(photos, 0.35, 0.75)) * _uniform(photos, 1.5, 4)
    return 1 - ink.clamp(0, 1) * _uniform(photos, 0.5, 1)


def _blur(images: Tensor) -> Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    kernel = (row[:, None] * row).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, [2] * 4, "reflect"), kernel, groups=images.shape[1])


def _slope(images: Tensor) -> Tensor:
    """Return Sobel's slope in every channel."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=images.device)
    channels = images.shape[1]
    slopes = [
        F.conv2d(images, kernel.expand(channels, 1, 3, 3), padding=1, groups=channels) for kernel in (across, across.T)
    ]
    return torch.hypot(*slopes)


def drop_strokes(numbers: Tensor, chance: float) -> Tensor:
    """Return where ink is left, (B, H, W) bool, after each stroke was left out by that chance.

    A drawing whose strokes are not known (all ink is stroke 1), or that would lose all of them, keeps them all.
    """
    count = len(numbers)
    kept = torch.rand(count, 256, device=numbers.device) >= chance  # (B, 256), by stroke number
    kept[:, 0] = False  # paper
    flat = numbers.flatten(1).long()  # (B, H * W)
    left = kept.gather(1, flat)
    whole = (flat.amax(1) <= 1) | ~left.any(1)
    return torch.where(whole[:, None], flat > 0, left).view(numbers.shape)


def thicken(ink: Tensor) -> Tensor:
    """Return ink (B, 1, H, W) in lines as they are, 2 pixels thicker or 4 pixels thicker, by chance."""
    thick = F.max_pool2d(ink, 3, 1, 1)
    chance = _uniform(ink, 0, 1)
    return torch.where(chance < 0.35, ink, torch.where(chance < 0.8, thick, F.max_pool2d(thick, 3, 1, 1)))


def rub_out(ink: Tensor) -> Tensor:
    """Return ink (B, 1, H, W) with up to `RUBBED` round places of it rubbed out: strokes with gaps."""
    count, side = len(ink), ink.shape[-1]
    axis = torch.arange(side, device=ink.device) / side
    centres = torch.rand(count, RUBBED, 2, 1, device=ink.device)
    radius = torch.empty(count, RUBBED, 1, 1, device=ink.device).uniform_(-RUBBED_RADIUS, RUBBED_RADIUS)  # half: none
    down, across = (axis - centres[:, :, 0]) ** 2, (axis - centres[:, :, 1]) ** 2  # (B, K, side) each
    rubbed = down[..., :, None] + across[..., None, :] < radius.clamp(min=0) ** 2  # (B, K, side, side)
    return ink * ~rubbed.any(1, keepdim=True)


def cut_mix(photos: Tensor, kept: int) -> tuple[Tensor, float, Tensor]:
    """Paste a square of another photo into every photo but the first `kept`, as CutMix does (arXiv 1905.04899).

    Args:
        photos: (B, 3, S, S).
        kept: rows that are left as they are.

    Returns:
        The photos; the share of their area that is still their own, 1 where this batch is not mixed; and the rows that
        the squares are from, (B,) long.
    """
    count, side = len(photos), photos.shape[-1]
    rows = torch.arange(count, device=photos.device)
    own = float(torch.distributions.Beta(0.3, 0.3).sample()) if torch.rand(()) < CUT_CHANCE else 1.0
    square = int(side * math.sqrt(1 - max(own, 1 - own)))
    if not square or count - kept < 2:
        return photos, 1.0, rows
    rows = torch.cat([rows[:kept], kept + torch.randperm(count - kept, device=photos.device)])
    top, left = (int(torch.randint(side - square + 1, ())) for _ in range(2))
    mixed = photos.clone()
    place = (..., slice(top, top + square), slice(left, left + square))
    mixed[place] = photos[rows][place]
    return mixed, 1 - (square / side) ** 2, rows


def _uniform(like: Tensor, low: float, high: float) -> Tensor:
    """Return (B, 1, 1, 1) numbers, one for every row of `like`."""
    return torch.empty(len(like), 1, 1, 1, device=like.device).uniform_(low, high)
