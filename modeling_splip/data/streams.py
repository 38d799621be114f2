"""Store a streamed dataset on disk once, where training and evaluation find any image at any time."""

import shutil
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from tqdm.auto import tqdm

from ..common.files import write_json
from .dataset import INFO_FILE, SPLITS, SbirDataset, open_dataset

COLUMNS = ("image", "modality", "label", "instance_id", "copies")  # what this package reads; others are kept
ROW_GROUP = 100  # images; what is in memory at a time


def store_streams(dataset: SbirDataset, folder: str | Path) -> SbirDataset:
    """Write a dataset whose splits are streams to a folder that every command takes as `--dataset`, and open it.

    Each stream is read once, in its own order; where the folder is there, none is. Interrupted, it starts again.

    Raises:
        ValueError: if a stream's columns are unknown or lack some, or the folder holds another dataset.
    """
    folder = Path(folder)
    for split in SPLITS:
        _check_columns(split, getattr(dataset, split).features)
    if not folder.exists():
        aside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "data").mkdir(parents=True)
        counts = {split: _write(getattr(dataset, split), split, aside / "data") for split in SPLITS}
        info = {"name": dataset.name, "version": dataset.version, "counts": counts}
        write_json(aside / INFO_FILE, info | {"seen": dataset.seen, "unseen": dataset.unseen})
        aside.rename(folder)
    stored = open_dataset(folder)
    if (stored.name, stored.version) != (dataset.name, dataset.version):
        raise ValueError(
            f"'{folder}' holds '{stored.name}', version {stored.version}, not '{dataset.name}', version "
            f"{dataset.version}: choose another folder."
        )
    return stored


def _check_columns(split: str, features: datasets.Features | None) -> None:
    missing = [name for name in COLUMNS if name not in (features or {})]
    if missing:
        raise ValueError(
            f"The stream of '{split}' has no column '{missing[0]}' of a known type: name, map or cast its columns to "
            f"{', '.join(COLUMNS)}."
        )


def _write(rows: datasets.Dataset | datasets.IterableDataset, split: str, folder: Path) -> dict[str, int]:
    """Write a split with its images' own bytes; returns the number of rows of each modality."""
    stream = rows.to_iterable_dataset() if isinstance(rows, datasets.Dataset) else rows
    schema, undecoded = rows.features.arrow_schema, stream.cast_column("image", datasets.Image(decode=False))
    counts: Counter[str] = Counter()
    path = folder / f"{split}-00000-of-00001.parquet"
    with pq.ParquetWriter(path, schema) as writer, tqdm(desc=split, unit="img") as bar:
        for batch in undecoded.iter(ROW_GROUP):
            writer.write_table(embed_table_storage(pa.Table.from_pydict(batch, schema=schema)))
            counts.update(batch["modality"])
            bar.update(len(batch["modality"]))
    return counts
