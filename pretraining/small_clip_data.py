"""Photos and drawings that `small_clip` learns from: brought together, classes left out, made into batches.

A drawing is kept as the numbers of its strokes: 0 is paper, k is ink of the k-th stroke. So strokes can be left out
later. Where strokes are not known, all ink is stroke 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from modeling_splip.common.text import plain_words, spelling_key

from .small_clip_objective import Batch
from .small_clip_views import cut_mix, drawing_views, edge_views, photo_views

SIZE = 64  # pixels of a photo
PAPER = 2 * SIZE  # pixels of a drawing, which is made smaller only after it was bent and thickened
HELD_PHOTOS, HELD_DRAWINGS = (20, 4000), (10, 1000)  # one of so many is held back for measuring, so many at most
EVERYDAY_SHARE = 0.5  # how often a photo goes by its everyday word, where it has one


@dataclass
class Pictures:
    """What is learnt from.

    Attributes:
        names: C class names in lower case.
        photos: (N, 3, 64, 64) uint8.
        fine: (N,) long, every photo's class.
        everyday: (N,) long, the class of the everyday word that is right for the photo as well, -1 where there is none.
        drawings: (M, 128, 128) uint8, stroke numbers.
        drawn: (M,) long, every drawing's class.
    """

    names: list[str]
    photos: Tensor
    fine: Tensor
    everyday: Tensor
    drawings: Tensor
    drawn: Tensor

    @classmethod
    def of_photos(cls, names: list[str], photos: Tensor, fine: Sequence[int], everyday: Sequence[int]) -> "Pictures":
        """Return photos without drawings."""
        none = torch.zeros(0, PAPER, PAPER, dtype=torch.uint8)
        return cls(names, photos, _labels(fine), _labels(everyday), none, _labels([]))

    @classmethod
    def of_drawings(cls, names: list[str], drawings: Tensor, drawn: Sequence[int]) -> "Pictures":
        """Return drawings without photos."""
        none = torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8)
        return cls(names, none, _labels([]), _labels([]), drawings, _labels(drawn))

    def to(self, device: torch.device) -> "Pictures":
        """Return the same on a device."""
        tensors = (self.photos, self.fine, self.everyday, self.drawings, self.drawn)
        return Pictures(self.names, *(tensor.to(device) for tensor in tensors))


def merge(parts: Sequence[Pictures]) -> Pictures:
    """Return all pictures together; names that differ in case, `_` and `-` alone are one."""
    names: dict[str, str] = {}
    for part in parts:
        for name in part.names:
            names.setdefault(spelling_key(name), name)
    place = {key: index for index, key in enumerate(names)}
    tables = [torch.tensor([place[spelling_key(name)] for name in part.names] + [-1]) for part in parts]  # -1 stays -1
    pairs = list(zip(parts, tables, strict=True))
    return Pictures(
        list(names.values()),
        torch.cat([part.photos for part in parts]),
        torch.cat([table[part.fine] for part, table in pairs]),
        torch.cat([table[part.everyday] for part, table in pairs]),
        torch.cat([part.drawings for part in parts]),
        torch.cat([table[part.drawn] for part, table in pairs]),
    )


def leave_out(pictures: Pictures, classes: Iterable[str]) -> tuple[Pictures, dict[str, Any]]:
    """Return the pictures without classes, and what was left out: names, and numbers of photos and drawings.

    A name goes where it is a class or ends in one ("palm tree" with "tree"; also "baseball bat" with "bat", so that one
    rule is enough), and where its everyday word goes ("ox" with "cow"). Photos and drawings go with their names.
    """
    keys = [plain_words(name) for name in classes]
    ends = [any(f" {plain_words(name)}".endswith(f" {key}") for key in keys) for name in pictures.names]
    gone = torch.tensor([*ends, False])  # (C + 1,); the last one is for -1, no everyday word
    gone[pictures.fine[gone[pictures.everyday]]] = True
    place = (~gone).cumsum(0) - 1  # (C + 1,), positions among the names that stay
    place[-1] = -1
    photos, drawings = ~gone[pictures.fine], ~gone[pictures.drawn]
    rest = Pictures(
        [name for name, lost in zip(pictures.names, gone[:-1], strict=True) if not lost],
        pictures.photos[photos],
        place[pictures.fine[photos]],
        place[pictures.everyday[photos]],
        pictures.drawings[drawings],
        place[pictures.drawn[drawings]],
    )
    names = [name for name, lost in zip(pictures.names, gone[:-1], strict=True) if lost]
    return rest, {"names": names, "photos": int((~photos).sum()), "drawings": int((~drawings).sum())}


def normalise(images: Tensor) -> Tensor:
    """Return pixel values of images (B, 1 or 3, S, S) in [0, 1] as the saved image processor would: (B, 3, S, S)."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return (images.expand(-1, 3, -1, -1) - mean) / std


class Batches:
    """Draws training batches, and holds some pictures back for measuring.

    Args:
        pictures: on the device that trains; at least two photos and two drawings.
        batch: pictures of a batch.
        edge_share, drawing_share: shares of edge maps and drawings among them; photos are the rest.
        seed: which pictures are held back.

    Attributes:
        taught: (N, W) the teacher's targets of the photos; None until it is set.

    Raises:
        ValueError: there would be fewer photos than edge maps of photos.
    """

    def __init__(
        self,
        pictures: Pictures,
        batch: int,
        edge_share: float,
        drawing_share: float,
        seed: int,
    ):
        self.pictures = pictures
        self.taught: Tensor | None = None
        self.edges, self.drawings = max(1, int(batch * edge_share)), max(1, int(batch * drawing_share))
        self.photos = batch - self.edges - self.drawings
        if self.photos < self.edges:
            raise ValueError(
                f"--batch {batch} leaves {self.photos} photos beside {self.edges} edge maps and {self.drawings} "
                "drawings: raise --batch, or lower --edge-share and --drawing-share."
            )
        generator = torch.Generator().manual_seed(seed)
        self.held_photos, self.known_photos = _hold_back(pictures.fine, HELD_PHOTOS, generator)
        self.held_drawings, self.known_drawings = _hold_back(pictures.drawn, HELD_DRAWINGS, generator)

    def draw(self) -> Batch:
        """Return a batch of random views of random pictures."""
        data, device = self.pictures, self.pictures.photos.device
        rows = _some(self.known_photos, self.photos)
        raw = data.photos[rows].float() / 255  # (P, 3, S, S)
        names, excused = self._named(rows)
        photos, own, other = cut_mix(photo_views(raw), self.edges)
        second = names[other]
        excused = (excused | excused[other]).scatter(1, torch.stack([names, second], dim=1), False)
        drawn = _some(self.known_drawings, self.drawings)
        views = [photos, edge_views(raw[: self.edges]), drawing_views(data.drawings[drawn])]
        return Batch(
            pixels=torch.cat([normalise(view) for view in views]),
            names=names,
            second=second,
            own=torch.tensor(own, device=device),
            excused=excused,
            drawn=data.drawn[drawn],
            taught=None if self.taught is None else self.taught[rows].float(),
            whole=other == torch.arange(len(other), device=device),
        )

    def _named(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return a right name of each photo, (P,), and (P, C) bool, the other right one."""
        fine, everyday = self.pictures.fine[rows], self.pictures.everyday[rows]
        swap = (everyday >= 0) & (torch.rand(len(rows), device=rows.device) < EVERYDAY_SHARE)
        names, other = torch.where(swap, everyday, fine), torch.where(swap, fine, everyday)
        excused = torch.zeros(len(rows), len(self.pictures.names), dtype=torch.bool, device=rows.device)
        excused.scatter_(1, other.clamp(min=0)[:, None], (other >= 0)[:, None])
        return names, excused

    def about(self) -> dict[str, int]:
        """Return for the record what is learnt from and what is held back."""
        return {
            "names": len(self.pictures.names),
            "photos": len(self.known_photos),
            "drawings": len(self.known_drawings),
            "photos_held_back": len(self.held_photos),
            "drawings_held_back": len(self.held_drawings),
        }

    def repeats(self, steps: int) -> dict[str, float]:
        """Return how often each photo and each drawing was seen in that many steps, on average."""
        photos, drawings = (
            steps * self.photos / len(self.known_photos),
            steps * self.drawings / len(self.known_drawings),
        )
        return {"photos": round(photos, 1), "drawings": round(drawings, 1)}


def _hold_back(labels: Tensor, share: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the rows that are held back and the other ones."""
    one_of, most = share
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    held, known = order.tensor_split([min(most, max(1, len(labels) // one_of))])
    return held, known


def _some(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,), device=rows.device)]


def _labels(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)
