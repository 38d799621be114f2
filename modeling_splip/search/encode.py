"""Encoding the photos of a gallery into shards; photos that are known are not encoded again."""

import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from ..common.processes import cores
from .photos import Photo, PhotoSource, photo_in_work
from .table import GROUP_ROWS, OWN_COLUMNS, TableReader, take_rows

THUMBNAIL_SIDE = 256
PRECISIONS = ("auto", "fp32", "bf16")
IDENTITY = ("path", "sha256", "size", "mtime_ns")


@dataclass
class Job:
    """One build: what to encode, with what, and into which columns.

    Attributes:
        shards: folder of the finished shards, for this model and these columns only.
        run: number of this run; a shard of a later run replaces one of an earlier run.
        fingerprint: of the model with its processor.
        half: whether the towers compute in bfloat16; embeddings are float32 either way.
    """

    model: Any
    processor: Any
    source: PhotoSource
    features: datasets.Features
    shards: Path
    run: int
    fingerprint: str
    batch_size: int
    max_pixels: int
    half: bool = False


class KnownRows:
    """Rows that need no encoding: of the gallery that is replaced, and of shards that earlier runs finished.

    Args:
        readers: from the oldest to the newest; the newest row of a path counts.
    """

    def __init__(self, readers: Sequence[TableReader]):
        self.readers = list(readers)
        self._by_stat: dict[tuple[str, int, int], tuple[int, int]] = {}
        self._by_path: dict[str, tuple[int, int]] = {}
        self.by_content: dict[str, tuple[int, int]] = {}
        for number, reader in enumerate(self.readers):
            columns = reader.columns(IDENTITY).to_pydict()
            for row, (path, sha256, size, mtime_ns) in enumerate(zip(*columns.values(), strict=True)):
                place = (number, row)
                self._by_stat[path, size, mtime_ns] = self._by_path[path] = self.by_content[sha256] = place

    def unchanged(self, photo: Photo) -> tuple[int, int] | None:
        """Return the place of a file whose size and time are as before, else None; photos of a dataset have neither."""
        return self._by_stat.get((photo.path, photo.size, photo.mtime_ns)) if photo.mtime_ns >= 0 else None

    def place(self, photo: Photo) -> tuple[int, int]:
        """Return the place, reader and row, of a photo that is unchanged or was encoded."""
        return self.unchanged(photo) or self._by_path[photo.path]

    def same_content(self, sha256: str) -> dict[str, Any] | None:
        """Return what the model made of a photo with this content, and its size; None where there is none."""
        place = self.by_content.get(sha256)
        if place is None:
            return None
        return take_rows(self.readers, [place], ["width", "height", "thumbnail", "embedding"]).to_pylist()[0]


def encode_photos(
    job: Job, chunks: list[list[Photo]], known: KnownRows, workers: int | None, progress: bool
) -> tuple[int, list[dict[str, str]]]:
    """Encode chunks of photos into one shard each; threads read the next chunk meanwhile.

    Returns:
        How many went through the model, and path and reason of those that cannot be read.
    """
    unreadable: list[dict[str, str]] = []
    encoded, total = 0, sum(map(len, chunks))
    bar = tqdm(total=total, unit="image", desc="Encoding", disable=not progress or not total)
    with bar, ThreadPoolExecutor(workers or decoding_threads(job.model.device)) as pool:
        for chunk, prepared in _ahead(pool, job, chunks, known):
            rows = [row for row in prepared if "reason" not in row]
            unreadable += [
                {"path": photo.path, "reason": row["reason"]}
                for photo, row in zip(chunk, prepared, strict=True)
                if "reason" in row
            ]
            fresh = [row for row in rows if "pixel_values" in row]
            bar.update(len(chunk) - len(fresh))
            for start in range(0, len(fresh), job.batch_size):
                batch = fresh[start : start + job.batch_size]
                _embed(job, batch)
                bar.update(len(batch))
            encoded += len(fresh)
            if rows:
                _write_shard(job, rows)
    return encoded, unreadable


def on_gpu(device: str | torch.device) -> bool:
    """Return whether a device is a CUDA GPU."""
    return torch.device(device).type == "cuda"


def computes_half(precision: str, device: str | torch.device) -> bool:
    """Return whether the towers compute in bfloat16.

    Args:
        precision: "fp32", "bf16", or "auto" for bf16 on a GPU that has it.
        device: where they compute.

    Raises:
        ValueError: if the precision is none of these.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    return precision == "bf16" or (precision == "auto" and on_gpu(device) and torch.cuda.is_bf16_supported())


def decoding_threads(device: str | torch.device) -> int:
    """Return how many threads read photos: all cores where a GPU waits for them, otherwise at most 8."""
    return cores() if on_gpu(device) else min(8, cores())


def _ahead(
    pool: ThreadPoolExecutor, job: Job, chunks: list[list[Photo]], known: KnownRows
) -> Iterator[tuple[list[Photo], list[dict[str, Any]]]]:
    """Yield chunks with their rows; the next chunk is read while the caller works on this one."""
    waiting: tuple[list[Photo], list[Future]] | None = None
    for chunk in [*chunks, []]:
        reading = [pool.submit(_prepare, job, photo, known) for photo in chunk]
        if waiting is not None:
            yield waiting[0], [future.result() for future in waiting[1]]
        waiting = (chunk, reading)


def _prepare(job: Job, photo: Photo, known: KnownRows) -> dict[str, Any]:
    """Return a photo's row, with `pixel_values` if it must be encoded; or only the `reason` why it cannot be read."""

    def pixel_values(image: Any) -> torch.Tensor:
        return job.processor(images=[image], modality="photo")["pixel_values"][0]  # (3, H, W)

    return read_row(photo, job.features, job.max_pixels, pixel_values, known.same_content)


def read_row(
    photo: Photo,
    features: Iterable[str],
    max_pixels: int,
    pixel_values: Callable[[Any], torch.Tensor],
    same_content: Callable[[str], dict[str, Any] | None] = lambda sha256: None,
) -> dict[str, Any]:
    """Read and decode a photo.

    Args:
        photo: what to read.
        features: the names of the gallery's columns.
        max_pixels: a photo of more pixels is not read.
        pixel_values: turns the photo, an upright RGB image, into what the model takes.
        same_content: returns what is known of a photo by its hash, embedding and all, or None.

    Returns:
        A row with `pixel_values`, or with `embedding` where it is known; or only the `reason` why it cannot be read.
    """
    try:
        photo.path.encode("utf-8")  # as the table stores it
        data = photo.read()
        row = {name: photo.metadata.get(name) for name in features if name not in OWN_COLUMNS}
        row |= {"path": photo.path, "label": photo.label, "size": photo.size or len(data), "mtime_ns": photo.mtime_ns}
        row["sha256"] = hashlib.sha256(data).hexdigest()
        known = same_content(row["sha256"])
        if known is not None:
            return row | known
        with photo_in_work(data, max_pixels) as image:
            row |= {"width": image.width, "height": image.height, "pixel_values": pixel_values(image)}
            row["thumbnail"] = {"bytes": _thumbnail(image), "path": None}
        return row
    except UnicodeEncodeError:
        return {"reason": "its name is no UTF-8 text: rename it"}
    except Exception as error:  # a decoder may raise anything on damaged data; one bad file must not end the build
        return {"reason": str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"}


def _thumbnail(image: Any) -> bytes:
    image.info.pop("comment", None)  # PIL would write it to the JPEG, and it may say where the photo came from
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def _embed(job: Job, rows: list[dict[str, Any]]) -> None:
    """Replace `pixel_values` by `embedding` in B rows."""
    pixel_values = torch.stack([row.pop("pixel_values") for row in rows])  # (B, 3, H, W)
    if on_gpu(job.model.device):
        pixel_values = pixel_values.pin_memory()
    embeddings = embed(job.model, pixel_values.to(job.model.device, non_blocking=True), job.half)  # (B, D)
    for row, embedding in zip(rows, embeddings, strict=True):
        row["embedding"] = embedding


def embed(model: Any, pixel_values: torch.Tensor, half: bool) -> np.ndarray:
    """Return the embeddings (B, D) float32 of photos (B, 3, H, W) that lie on the model's device.

    Args:
        half: whether the towers compute in bfloat16.
    """
    with torch.autocast(torch.device(model.device).type, torch.bfloat16, enabled=half):
        return model.encode(pixel_values, "photo").cpu().numpy()


def _write_shard(job: Job, rows: list[dict[str, Any]]) -> None:
    """Write one shard; its name appears only when it is complete."""
    file = job.shards / f"{job.run:05d}-{uuid.uuid4().hex}.parquet"
    table = pa.table({name: [row[name] for row in rows] for name in job.features}, schema=job.features.arrow_schema)
    pq.write_table(table, file.with_suffix(".tmp"), row_group_size=GROUP_ROWS)
    os.replace(file.with_suffix(".tmp"), file)
