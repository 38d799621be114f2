"""A gallery of photos that come with the program: built once for each user, and kept in the cache."""

import contextlib
import hashlib
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq

from ..common.files import remove, user_cache
from ..loading import load_retriever
from .gallery import Gallery


def open_packaged(photos: Path, model_name: str) -> Gallery:
    """Return the gallery of a Parquet file's photos, from the cache where the same was built before.

    Args:
        photos: columns `image` and `label`, with the features of `datasets` in the file's schema.
        model_name: of the model that encodes them, as `load_retriever` takes it.

    Raises:
        OSError, ValueError: in one sentence, if there is no such model, or the cache cannot be written.
    """
    cache = user_cache()
    if cache is None:
        raise OSError("There is no place for a gallery: set XDG_CACHE_HOME to a folder that can be written.")
    model, processor = load_retriever(model_name)
    model = model.for_search()
    content = hashlib.sha256(photos.read_bytes()).hexdigest()[:8]
    folder = cache / f"{photos.parent.name}-{content}-{model.fingerprint(processor)}"
    with contextlib.suppress(FileNotFoundError, ValueError):  # not built yet, or damaged
        return Gallery.open(folder, (model, processor))
    remove(folder)
    dataset = datasets.Dataset(pq.read_table(photos))
    print(f"Indexing the {len(dataset)} photos that come with splip, once, into '{folder}'.", file=sys.stderr)
    return Gallery.build(dataset, model, processor, folder, model_name=model_name)
