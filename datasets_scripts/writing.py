"""From a builder to Parquet files with embedded images: bounded memory, several processes, restart."""

import gc
import hashlib
import json
import multiprocessing
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

ROW_GROUP = 100  # images; what one read of a Parquet file has to hold in memory
DIGEST_BYTES = 16

Job = tuple[str, int, dict[str, Any]]  # split, number of the shard in it, arguments of _generate_examples
_worker_builder: datasets.GeneratorBasedBuilder  # set in every worker process


def write_shards(builder: datasets.GeneratorBasedBuilder, folder: Path, num_proc: int = 1) -> dict[str, Any]:
    """Write every split of `builder` to `folder`/<split>-<i>-of-<n>.parquet and return what was written.

    A shard that an interrupted run finished is kept: its `.json` beside it says what it holds.

    Args:
        builder: any generator-based builder; lists in its splits' `gen_kwargs` are the shards, as in `datasets`.
        folder: exists; holds nothing else but an earlier run's shards of the same plan.
        num_proc: worker processes; 1 works in this process.

    Returns:
        {"rows": {split: {modality: count}}, "per_class": {label: {modality: count}}, "problems": {kind: [names]},
        "digest": hex digest of all rows and image bytes, whatever the shards}
    """
    jobs = _jobs(builder)
    results = {}
    with tqdm(desc="images", unit="img", total=_total_rows(jobs)) as bar:
        todo = []
        for job in jobs:
            path = _shard_path(folder, job)
            if path.with_suffix(".json").is_file():
                results[job[:2]] = json.loads(path.with_suffix(".json").read_text("utf-8"))
                bar.update(results[job[:2]]["read"])
            else:
                todo.append(job)
        for key, result in _run(builder, folder, todo, num_proc, bar.update):
            results[key] = result
    _finish(folder, jobs)
    return _merge([(split, results[split, number]) for split, number, _ in jobs])


def plan_hash(builder: datasets.GeneratorBasedBuilder) -> str:
    """Return a hash of what `builder` would write: an interrupted run is continued only where it is the same."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(repr((type(builder).__name__, builder.config.name, builder.info.features)).encode())
    for job in _jobs(builder):
        digest.update(repr(job).encode())
    return digest.hexdigest()


def _jobs(builder: datasets.GeneratorBasedBuilder) -> list[Job]:
    jobs = []
    for generator in builder._split_generators(datasets.DownloadManager()):
        parts = _one_by_one(generator.gen_kwargs)
        jobs += [(str(generator.name), number, part) for number, part in enumerate(parts)]
    return jobs


def _one_by_one(gen_kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    """Cut the lists of `gen_kwargs` into lists of one item each, as `datasets` does for parallel work."""
    lists = {key: value for key, value in gen_kwargs.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if len(lengths) != 1 or lengths == {0}:
        return [gen_kwargs]
    return [{**gen_kwargs, **{key: [value[i]] for key, value in lists.items()}} for i in range(lengths.pop())]


def _total_rows(jobs: list[Job]) -> int | None:
    if all(set(part) == {"shards"} for _, _, part in jobs):
        return sum(len(shard) for _, _, part in jobs for shard in part["shards"] if isinstance(shard, list)) or None
    return None


def _shard_path(folder: Path, job: Job) -> Path:
    return folder / f"{job[0]}-{job[1]:05d}.parquet"


def _run(
    builder: datasets.GeneratorBasedBuilder, folder: Path, jobs: list[Job], num_proc: int, update: Callable[[int], Any]
) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    if num_proc <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job[:2], _write_shard(builder, job, _shard_path(folder, job), update)
        return
    gc.freeze()  # a forked worker's garbage collection would touch, and so copy, all that this process has in memory
    with ProcessPoolExecutor(min(num_proc, len(jobs)), initializer=_start_worker, initargs=(builder,)) as pool:
        futures = {pool.submit(_work, job, _shard_path(folder, job)): job[:2] for job in jobs}
        gc.unfreeze()
        try:
            for future in as_completed(futures):
                result = future.result()
                update(result["read"])
                yield futures[future], result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(builder: datasets.GeneratorBasedBuilder) -> None:
    global _worker_builder
    _worker_builder = builder
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Wait for the end of the main process: workers of a killed one would write on, then wait for work for ever."""
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)


def _work(job: Job, path: Path) -> dict[str, Any]:
    return _write_shard(_worker_builder, job, path, lambda count: None)


def _write_shard(
    builder: datasets.GeneratorBasedBuilder, job: Job, path: Path, update: Callable[[int], Any]
) -> dict[str, Any]:
    """Write one Parquet file and its `.json`, each under its final name only when it is complete."""
    getattr(builder, "problems", {}).clear()
    features = builder.info.features
    result: dict[str, Any] = {"read": 0, "rows": Counter(), "per_class": defaultdict(Counter), "digest": 0}
    examples = (_encoded(features, example) for _, example in builder._generate_examples(**job[2]))
    aside = path.with_suffix(".tmp")
    with pq.ParquetWriter(aside, features.arrow_schema) as writer:
        while batch := list(islice(examples, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(batch, schema=features.arrow_schema))
            for row in batch:
                _count(result, row, job[0], features["label"].names)
            update(len(batch))
    problems = {kind: list(names) for kind, names in getattr(builder, "problems", {}).items()}
    missing = len(problems.get("unreadable", ()))
    update(missing)
    result |= {"problems": problems, "read": sum(result["rows"].values()) + missing, "digest": f"{result['digest']:x}"}
    os.replace(aside, path)
    aside.write_text(json.dumps(result), "utf-8")
    os.replace(aside, path.with_suffix(".json"))
    return result


def _encoded(features: datasets.Features, example: dict[str, Any]) -> dict[str, Any]:
    """Return a row as Parquet stores it.

    `Image.encode_example` would drop the bytes where the current folder happens to hold a file of the same path.
    """
    image = example["image"]
    if not (isinstance(image, dict) and image.get("bytes") is not None):
        image = features["image"].encode_example(image)
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    name = os.path.basename(image["path"]) if image["path"] else None
    label = features["label"].encode_example(example["label"])
    return {**example, "image": {"bytes": content, "path": name}, "label": label}


def _count(result: dict[str, Any], row: dict[str, Any], split: str, names: list[str]) -> None:
    """Add one row to a shard's counts, and to its digest: a sum of hashes, which no order and no cut changes."""
    label = names[row["label"]]
    result["rows"][row["modality"]] += 1
    result["per_class"][label][row["modality"]] += 1
    columns = (split, row["modality"], label, row["instance_id"], row["source"], row["copies"], row["image"]["path"])
    digest = hashlib.blake2b(repr(columns).encode(), digest_size=DIGEST_BYTES)
    digest.update(row["image"]["bytes"])
    result["digest"] = (result["digest"] + int.from_bytes(digest.digest(), "big")) % (1 << 8 * DIGEST_BYTES)


def _finish(folder: Path, jobs: list[Job]) -> None:
    """Give the shards their final names, with how many there are, and remove the files beside them."""
    totals = Counter(split for split, _, _ in jobs)
    for job in jobs:
        path = _shard_path(folder, job)
        if path.is_file():  # an earlier run may have been interrupted right here
            os.replace(path, folder / f"{job[0]}-{job[1]:05d}-of-{totals[job[0]]:05d}.parquet")
    for job in jobs:
        _shard_path(folder, job).with_suffix(".json").unlink()


def _merge(results: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
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
        digest = (digest + int(result["digest"], 16)) % (1 << 8 * DIGEST_BYTES)
    return {
        "rows": {split: dict(counts) for split, counts in rows.items()},
        "per_class": {label: dict(counts) for label, counts in per_class.items()},
        "problems": {kind: sorted(names) for kind, names in problems.items()},
        "digest": f"{digest:x}",
    }
