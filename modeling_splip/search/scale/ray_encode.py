"""Decoding and encoding in actors by Ray Data; this process writes the shards that come back.

An actor that dies ends the pipeline, and a new one goes on with what is left, on the machines that are left: an actor
that waits for a lost GPU would hold its photos for ever. Nothing is encoded twice into the gallery, since only this
process writes, each shard under its name. Decoding takes actors, too, since Ray ends the process of a task that waits
for a second, and starting one costs as much as decoding a shard.
"""

import importlib.util
import logging
import os
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from ...common.pixels import PixelValues, byte_pixels
from ...common.text import one_line
from ..encode import Job, computes_half, embed, read_row
from ..table import check_unit_norm
from .archives import Group
from .shards import ShardFacts, ShardFolder, shard_bytes
from .sources import Part

# Shares of a core that Ray sets aside on machines without GPUs: small ones, so that a core has room for both.
_DECODER_CPUS, _ENCODER_CPUS = 0.25, 0.2
_MOST_BLOCKS = 4096  # of the list of parts
_FAILURES = 3


@dataclass(frozen=True)
class Means:
    """What to encode with.

    Attributes:
        address: of a cluster, or None for this machine alone.
        workers: at most so many actors; None for one for each GPU, or without GPUs for each core.
        batch_size: photos encoded at once; None for 128 on a GPU, otherwise 32.
        precision: of the towers, as `computes_half` takes it.
        gpu: whether to use GPUs where there are some.
    """

    address: str | None
    workers: int | None
    batch_size: int | None
    precision: str
    gpu: bool

    def __post_init__(self):
        computes_half(self.precision, "cpu")  # refuses what it does not know


def require_ray() -> None:
    """Raise OSError, in one sentence, if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise OSError("--on ray needs Ray, which is not installed: pip install 'splip[ray]'.")


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster: this process's, that at `address`, or one of this machine alone.

    Raises:
        OSError: if Ray is not installed, or the cluster does not answer.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises a dozen kinds
        raise OSError(f"Ray at '{address or 'local'}' does not answer ({one_line(error)}): check --address.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def encode_parts(job: Job, shards: ShardFolder, parts: Sequence[Part], means: Means, progress: bool) -> int:
    """Encode the parts that are not finished, and write their shards.

    Args:
        job: its model lies on the CPU, from where the actors get it.

    Returns:
        The number of photos that were encoded.

    Raises:
        OSError: in one sentence, if Ray is not installed, a part cannot be read, or the cluster fails again and again.
    """
    if all(map(shards.is_finished, parts)):
        return 0
    counts = [part.count for part in parts]
    total = None if None in counts else sum(filter(None, counts))
    known = sum(part.count or 0 for part in parts if shards.is_finished(part))
    encoded = written = failures = 0
    bar = tqdm(total=total, initial=known, unit="image", desc="Encoding", disable=not progress)
    with connected(means.address) as ray, bar:
        pair = ray.put((job.model, job.processor))
        while todo := [part for part in parts if not shards.is_finished(part)]:
            before = written
            try:
                for key, number, content, rows, seen in _stream(ray, job, shards, todo, pair, means):
                    shards.add(key, number, content)
                    encoded, written = encoded + rows, written + 1
                    bar.update(seen)
            except ray.exceptions.RayError as error:
                if reason := _own_error(error):
                    raise OSError(reason) from error
                failures = 1 if written > before else failures + 1
                if failures == _FAILURES:
                    raise OSError(
                        f"Ray failed {_FAILURES} times without progress ({one_line(error)[:300]}): look at the "
                        "cluster, then run the same command again, it goes on where it stopped."
                    ) from error
    return encoded


def _own_error(error: BaseException | None) -> str:
    """Return the sentence that a task of ours has raised, or "" where Ray itself has failed."""
    while error is not None:
        if isinstance(error, OSError | ValueError) and type(error).__module__ == "builtins":
            return str(error)
        error = getattr(error, "cause", None) or error.__cause__
    return ""


def _stream(
    ray: Any, job: Job, shards: ShardFolder, parts: Sequence[Part], pair: Any, means: Means
) -> Iterator[tuple[str, int, bytes, int, int]]:
    """Yield part, number and content of every shard that is not there yet, its rows, and the photos it stands for."""
    there = ray.cluster_resources()
    cpus, gpus = max(1, int(there.get("CPU", 1))), int(there.get("GPU", 0)) if means.gpu else 0
    encoders = min(means.workers or gpus or cpus, gpus or cpus, len(parts))
    # Without GPUs decoding takes less than half of the time that encoding takes; a process takes 0.7 GB.
    decoders = min(cpus if gpus else (encoders + 1) // 2, len(parts))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    todo = [{"part": pickle.dumps((part, set(shards.facts.get(part.key, {}))))} for part in parts]
    # An actor that dies is not started again, see above.
    common: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "max_restarts": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Ray 2.64 on max_restarts has to be said in another way
        dataset = (
            ray.data.from_items(todo, override_num_blocks=min(len(todo), _MOST_BLOCKS))
            .map_batches(
                Decoder,
                fn_constructor_args=(job.processor, list(job.features), job.max_pixels),
                compute=ray.data.ActorPoolStrategy(size=decoders),
                num_cpus=1 if gpus else _DECODER_CPUS,
                **common,
            )
            .map_batches(
                Encoder,
                fn_constructor_args=(pair, job.features, means.precision, means.batch_size, bool(gpus)),
                compute=ray.data.ActorPoolStrategy(size=encoders),
                num_cpus=0 if gpus else _ENCODER_CPUS,
                num_gpus=1 if gpus else 0,
                **common,
            )
        )
    for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row["key"], row["number"], row["content"], row["rows"], row["seen"]


class Decoder:
    """Reads and decodes the photos of a part, a group at a time; an actor."""

    def __init__(self, processor: Any, features: Sequence[str], max_pixels: int):
        self.processor, self.features, self.max_pixels = processor, features, max_pixels

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield the groups of every part in a batch that are not finished, one row each."""
        for cell in batch["part"].to_pylist():
            part, done = pickle.loads(cell)
            for number, group, last in _numbered(part):
                if number not in done:
                    yield self._decoded(part.key, number, group, last)

    def _decoded(self, key: str, number: int, group: Group, last: bool) -> pa.Table:
        rows: list[dict[str, Any]] = []
        facts = ShardFacts(last, [], dict(group.left_out))
        for photo in group.photos:
            row = read_row(photo, self.features, self.max_pixels, self._pixels)
            if "reason" in row:
                facts.unreadable.append({"path": photo.path, "reason": row["reason"]})
            else:
                rows.append(row)
        pixels = torch.stack([row.pop("pixel_values") for row in rows]).numpy() if rows else np.empty(0, np.uint8)
        binary = {"rows": pickle.dumps((rows, facts)), "pixels": pixels.tobytes()}  # (N, 3, H, W)
        columns: dict[str, Any] = {"key": [key], "number": [number], "shape": [list(pixels.shape)]}
        return pa.table(columns | {name: pa.array([value], pa.large_binary()) for name, value in binary.items()})

    def _pixels(self, image: Any) -> torch.Tensor:
        return byte_pixels(self.processor.image_processor, self.processor.prepare(image, "photo"))


def _numbered(part: Part) -> Iterator[tuple[int, Group, bool]]:
    """Yield the groups of a part, at least one, which may be empty, with its number and whether it is the last one."""
    number, before = 0, None
    for group in part.groups():
        if before is not None:
            yield number, before, False
            number += 1
        before = group
    yield number, before or Group([]), True


class Encoder:
    """Encodes decoded groups into shards; an actor with a model of its own."""

    def __init__(self, pair: Any, features: Any, precision: str, batch_size: int | None, gpu: bool):
        import ray

        model, processor = ray.get(pair)
        if not gpu:
            torch.set_num_threads(1)  # Ray gives every core an actor of its own
        self.model = model.to("cuda" if gpu else "cpu")
        self.pixel_values = PixelValues(processor.image_processor).to(self.model.device)
        self.half = computes_half(precision, self.model.device)
        self.features, self.batch_size = features, batch_size or (128 if gpu else 32)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Yield the shard of every group in a batch, one row each."""
        for at in range(len(batch)):
            rows, facts = pickle.loads(batch["rows"][at].as_py())
            pixels = np.frombuffer(batch["pixels"][at].as_buffer(), np.uint8).reshape(batch["shape"][at].as_py())
            for start in range(0, len(rows), self.batch_size):
                block = torch.from_numpy(pixels[start : start + self.batch_size].copy()).to(self.model.device)
                embeddings = embed(self.model, self.pixel_values(block), self.half)  # (B, D)
                check_unit_norm(embeddings)
                for row, embedding in zip(rows[start : start + self.batch_size], embeddings, strict=True):
                    row["embedding"] = embedding
            content = shard_bytes(rows, self.features, facts)
            yield pa.table(
                {
                    "key": [batch["key"][at].as_py()],
                    "number": [batch["number"][at].as_py()],
                    "content": pa.array([content], pa.large_binary()),
                    "rows": [len(rows)],
                    "seen": [len(rows) + len(facts.unreadable)],
                }
            )
