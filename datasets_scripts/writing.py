"""From a plan to Parquet files with embedded images: bounded memory, several processes, restart."""

import gc
import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from modeling_splip.common.files import write_json, written_whole

from .base import Plan, Row
from .pictures import read_picture
from .schema import features

ROW_GROUP = 100  # images; what one read of a Parquet file has to hold in memory
DIGEST_BYTES = 16
SHARD_BYTES = 64 * 2**20  # the unit of restart and of parallel work
SHARD_ROWS = 5000


class Job(NamedTuple):
    """One Parquet file to write: its number among those of a split, and its rows."""

    split: str
    number: int
    rows: list[Row]


def write_shards(plan: Plan, folder: Path, num_proc: int = 1) -> dict[str, Any]:
    """Write every split of `plan` to `folder`/<split>-<i>-of-<n>.parquet and return what was written.

    A shard that an interrupted run finished is kept: its `.json` beside it says what it holds.

    Args:
        plan: what to write.
        folder: exists; holds nothing else but an earlier run's shards of the same plan.
        num_proc: worker processes; 1 works in this process.

    Returns:
        {"rows": {split: {modality: count}}, "per_class": {label: {modality: count}}, "problems": {kind: [names]},
        "digest": hex digest of all rows and image bytes, whatever the shards}
    """
    jobs, columns = _jobs(plan), features(plan.class_names)
    results = {}
    with tqdm(desc="images", unit="img", total=sum(len(job.rows) for job in jobs)) as bar:
        todo = []
        for job in jobs:
            marker = _shard_path(folder, job).with_suffix(".json")
            if marker.is_file():
                results[job[:2]] = json.loads(marker.read_text("utf-8"))
                bar.update(len(job.rows))
            else:
                todo.append(job)
        for job, result in _run(columns, folder, todo, num_proc, bar.update):
            results[job[:2]] = result
    _finish(folder, jobs)
    return _merge([(job.split, results[job[:2]]) for job in jobs])


def plan_hash(plan: Plan) -> str:
    """Return a hash of what would be written: an interrupted run is continued only where it is the same."""
    digest = hashlib.blake2b(repr(plan.class_names).encode(), digest_size=DIGEST_BYTES)
    for job in _jobs(plan):
        digest.update(repr(job).encode())
    return digest.hexdigest()


def make_shards(rows: Iterable[Row], most_bytes: int = SHARD_BYTES, most_rows: int = SHARD_ROWS) -> list[list[Row]]:
    """Return rows, in order, in shards of at most that many bytes and rows; a larger file is a shard of its own."""
    shards: list[list[Row]] = []
    size = 0
    for row in rows:
        if not shards or len(shards[-1]) == most_rows or size + row.picture.size > most_bytes:
            shards.append([])
            size = 0
        shards[-1].append(row)
        size += row.picture.size
    return shards


def _jobs(plan: Plan) -> list[Job]:
    """Return the files to write; none for a split without rows, since `load_dataset` refuses an empty one."""
    shards = {split: make_shards(rows) for split, rows in plan.rows.items()}
    return [Job(split, number, rows) for split, parts in shards.items() for number, rows in enumerate(parts)]


def _shard_path(folder: Path, job: Job) -> Path:
    return folder / f"{job.split}-{job.number:05d}.parquet"


def _run(
    columns: datasets.Features, folder: Path, jobs: list[Job], num_proc: int, update: Callable[[int], Any]
) -> Iterator[tuple[Job, dict[str, Any]]]:
    if num_proc <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _write_shard(columns, job, _shard_path(folder, job), update)
        return
    gc.freeze()  # a forked worker's garbage collection would touch, and so copy, all that this process has in memory
    with ProcessPoolExecutor(min(num_proc, len(jobs)), initializer=_start_worker) as pool:
        futures = {pool.submit(_work, columns, job, _shard_path(folder, job)): job for job in jobs}
        gc.unfreeze()
        try:
            for future in as_completed(futures):
                job = futures[future]
                update(len(job.rows))
                yield job, future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Wait for the end of the main process: workers of a killed one would write on, then wait for work for ever."""
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)


def _work(columns: datasets.Features, job: Job, path: Path) -> dict[str, Any]:
    return _write_shard(columns, job, path, lambda count: None)


def _write_shard(columns: datasets.Features, job: Job, path: Path, update: Callable[[int], Any]) -> dict[str, Any]:
    """Write one Parquet file and its `.json`, each under its final name only when it is complete."""
    result: dict[str, Any] = {"rows": Counter(), "per_class": defaultdict(Counter), "problems": defaultdict(list)}
    digest = 0
    rows = iter(job.rows)
    with written_whole(path) as aside, pq.ParquetWriter(aside, columns.arrow_schema) as writer:
        while batch := list(islice(rows, ROW_GROUP)):
            read = [_read(row, columns, result["problems"]) for row in batch]
            good = [(row, values) for row, values in zip(batch, read, strict=True) if values is not None]
            if good:
                writer.write_table(pa.Table.from_pylist([values for _, values in good], schema=columns.arrow_schema))
            for row, values in good:
                result["rows"][row.modality] += 1
                result["per_class"][row.label][row.modality] += 1
                digest = _added(digest, _digest(job.split, row, values["image"]))
            update(len(batch))
    result["digest"] = f"{digest:x}"
    write_json(path.with_suffix(".json"), result)
    return result


def _read(row: Row, columns: datasets.Features, problems: dict[str, list[str]]) -> dict[str, Any] | None:
    """Return a row as Parquet stores it, None where its picture cannot be read; notes what is wrong."""
    content, wrong = read_picture(row.picture)
    for kind, words in wrong.items():
        problems[kind].append(words)
    if content is None:
        return None
    image = {"bytes": content, "path": row.picture.name}
    label = columns["label"].str2int(row.label)
    values = {"modality": row.modality, "label": label, "instance_id": row.instance_id}
    return {"image": image, **values, "source": row.source, "copies": row.copies}


def _digest(split: str, row: Row, image: dict[str, Any]) -> int:
    columns = (split, row.modality, row.label, row.instance_id, row.source, row.copies, image["path"])
    digest = hashlib.blake2b(repr(columns).encode(), digest_size=DIGEST_BYTES)
    digest.update(image["bytes"])
    return int.from_bytes(digest.digest(), "big")


def _added(one: int, other: int) -> int:
    """Return the sum of two hashes, which no order and no cut into shards changes."""
    return (one + other) % (1 << 8 * DIGEST_BYTES)


def _finish(folder: Path, jobs: list[Job]) -> None:
    """Give the shards their final names, with how many there are, and remove the files beside them."""
    totals = Counter(job.split for job in jobs)
    for job in jobs:
        path = _shard_path(folder, job)
        if path.is_file():  # an earlier run may have been interrupted right here
            os.replace(path, folder / f"{job.split}-{job.number:05d}-of-{totals[job.split]:05d}.parquet")
    for job in jobs:
        _shard_path(folder, job).with_suffix(".json").unlink()


def _merge(results: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    per_class: dict[str, Counter[str]] = defaultdict(Counter)
    problems: dict[str, list[str]] = defaultdict(list)
    digest = 0
    for split, result in results:
        rows[split].update(result["rows"])
        for label, counts in result["per_class"].items():
            per_class[label].update(counts)
        for kind, names in result["problems"].items():
            problems[kind] += names
        digest = _added(digest, int(result["digest"], 16))
    return {
        "rows": {split: dict(counts) for split, counts in rows.items()},
        "per_class": {label: dict(counts) for label, counts in per_class.items()},
        "problems": {kind: sorted(names) for kind, names in problems.items()},
        "digest": f"{digest:x}",
    }
