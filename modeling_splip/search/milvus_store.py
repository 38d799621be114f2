"""Sending a gallery to a Milvus server, for more photos than one machine holds; `milvus_gallery` searches it there.

The photos of a gallery lie in a collection of their own, `<name>_<version>`. The collection `splip_galleries` says
which version belongs to a name. This is written last, so that searches see the former photos until all new ones are
there.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .result import json_value
from .table import HEAVY_COLUMNS, TableReader, embedding_array, local_folder, read_manifest

REGISTRY = "splip_galleries"
_ROWS = 500
_ATTEMPTS = 5
_TEXT_BYTES = 65_535  # Milvus' longest VARCHAR
_NAME_LETTERS = 200  # of the 255 that Milvus allows; a hash and a version follow
# Our kind -> Milvus' kind, its parameters for building, and those for searching. The depth of search is fixed here.
INDEX = {
    "exact": ("FLAT", {}, {}),
    "hnsw": ("HNSW", {"M": 32, "efConstruction": 200}, {"ef": 256}),
    "ivf": ("IVF_FLAT", {"nlist": 4096}, {"nprobe": 64}),
}


def collection_name(gallery: str | os.PathLike) -> str:
    """Return a gallery's name on the server: its folder's name.

    Where Milvus does not allow it, it has `_` for other letters and ends in a hash of the name, so that galleries of
    different names never share one there: `my-photos` becomes `my_photos_22de081a`.
    """
    name = Path(os.path.abspath(gallery)).name
    allowed = re.sub(r"\W", "_", name, flags=re.ASCII)[:_NAME_LETTERS]
    allowed = allowed if re.match(r"[A-Za-z_]", allowed) else f"g_{allowed}"
    return name if allowed == name else f"{allowed}_{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def connect(uri: str, wait: float = 0.5) -> Any:
    """Connect to a server (`http://host:19530`) or open a Milvus Lite file (`photos.db`).

    The token, where the server asks for one, is read from the environment variable MILVUS_TOKEN.

    Args:
        wait: seconds before the second attempt; doubled before each further one, five in all.

    Raises:
        OSError: if pymilvus is not installed, or the server does not answer.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise OSError("Milvus needs pymilvus: install it with `pip install pymilvus`.") from error
    error: Exception | None = None
    for attempt in range(_ATTEMPTS):
        try:
            client = MilvusClient(uri, token=os.environ.get("MILVUS_TOKEN", ""), timeout=10)
            client.list_collections()
            return client
        except Exception as failure:  # pymilvus, gRPC and Milvus Lite each raise their own
            error = failure
            if attempt < _ATTEMPTS - 1:
                time.sleep(wait * 2**attempt)
    raise OSError(
        f"Milvus at '{uri}' does not answer after {_ATTEMPTS} attempts: check --uri and the server."
    ) from error


def ingest(gallery: str | os.PathLike, client: Any, name: str | None = None, progress: bool = True) -> int:
    """Copy a gallery folder to the server; what is there already is not sent again.

    Running it again after an interruption goes on where it stopped; running it once more changes nothing.

    Args:
        gallery: a folder that `splip index` wrote.
        client: what `connect` returned.
        name: on the server; default: `collection_name` of the folder.

    Returns:
        The number of photos sent.

    Raises:
        FileNotFoundError, ValueError: if there is no such gallery.
        OSError: if the server goes away (pymilvus tries again, ever more slowly, before it gives up).
    """
    folder = local_folder(gallery)
    manifest = read_manifest(folder)
    if manifest.get("changes"):
        raise ValueError(
            f"Gallery '{folder}' has changes that are not in its table yet: run `splip index PHOTOS --out "
            f"{shlex.quote(str(folder))}`, or `Gallery.compact` in Python, before it is sent."
        )
    reader = TableReader(sorted((folder / manifest["data"]).glob("photos-*.parquet")))
    return send_photos(reader, manifest, client, name or collection_name(folder), progress)


def send_photos(
    reader: TableReader,
    manifest: Mapping[str, Any],
    client: Any,
    name: str,
    progress: bool = True,
    completed: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda record: record,
) -> int:
    """Send rows to the server, and then let the gallery's name stand for them; what is there is not sent again.

    Args:
        reader: of the rows, in the gallery's order.
        manifest: the gallery's; its `data` names the version.
        client, name, progress: as `ingest`.
        completed: is called when all rows are there, and returns the record with what only then is known.

    Returns:
        The number of photos sent.

    Raises:
        OSError: if the server goes away.
    """
    target = f"{name}_{manifest['data'].removeprefix('data-')}"
    with in_a_sentence(f"while '{name}' was sent", "run the same command again, it goes on where it stopped"):
        if not client.has_collection(target):
            _create_photos(client, target, manifest)
        sent = _send(reader, client, target, progress)
        columns = [column for column in reader.names if column not in HEAVY_COLUMNS]
        # Milvus allows 64 KB.
        record = {**manifest, "unreadable": [], "left_out": {}, "collection": target, "columns": columns}
        record = dict(completed(record))
        if read_record(client, name) != record:
            _register(client, name, record)
        for other in versions(client, name):
            if other != target:
                client.drop_collection(other)
    return sent


@contextlib.contextmanager
def in_a_sentence(when: str, advice: str) -> Iterator[None]:
    """Raise OSError in one sentence where pymilvus, gRPC or Milvus Lite raise their own."""
    try:
        yield
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise OSError(f"Milvus failed {when} ({error}): check the server, then {advice}.") from error


def _send(reader: TableReader, client: Any, target: str, progress: bool) -> int:
    """Send the rows that are not there; return how many were sent."""
    # Blocks are sent in order, so the count tells where to go on; sending a block twice changes nothing.
    there = count_photos(client, target)
    start = there if there == len(reader) else there // _ROWS * _ROWS
    bar = tqdm(total=len(reader), initial=start, unit="image", desc="Sending", disable=not progress)
    with bar:
        for first in range(start, len(reader), _ROWS):
            table = reader.take(range(first, min(first + _ROWS, len(reader))))
            client.upsert(target, _rows(table, first))
            bar.update(len(table))
    return len(reader) - start


def _create_photos(client: Any, target: str, manifest: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    kind, build, _ = INDEX[manifest["index"].get("kind", "exact")]
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("path", DataType.VARCHAR, max_length=_TEXT_BYTES)
    schema.add_field("label", DataType.VARCHAR, max_length=_TEXT_BYTES)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("thumbnail", DataType.VARCHAR, max_length=_TEXT_BYTES)
    schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=manifest["dim"])
    index = client.prepare_index_params()
    index.add_index("embedding", index_type=kind, metric_type="IP", params=build)
    client.create_collection(target, schema=schema, index_params=index, consistency_level="Strong")


def _rows(table: Any, first: int) -> list[dict[str, Any]]:
    embeddings = embedding_array(table)
    rows = []
    for number, values in enumerate(table.drop_columns(["embedding"]).to_pylist()):
        thumbnail = (values.pop("thumbnail") or {}).get("bytes") or b""
        encoded = base64.b64encode(thumbnail).decode()
        rows.append(
            {
                "row": first + number,
                "path": values["path"],
                "label": values["label"] or "",
                "metadata": {name: json_value(value) for name, value in values.items()},
                "thumbnail": encoded if len(encoded) <= _TEXT_BYTES else "",
                "embedding": embeddings[number],
            }
        )
    return rows


def count_photos(client: Any, collection: str) -> int:
    """Return how many photos a collection holds."""
    return int(client.query(collection, filter="", output_fields=["count(*)"])[0]["count(*)"])


def versions(client: Any, name: str) -> list[str]:
    """Return the collections with photos of a gallery, sent completely or not."""
    return [found for found in client.list_collections() if re.fullmatch(rf"{re.escape(name)}_[0-9a-f]{{12}}", found)]


def _register(client: Any, name: str, record: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    if not client.has_collection(REGISTRY):
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("name", DataType.VARCHAR, is_primary=True, max_length=255)
        schema.add_field("manifest", DataType.JSON)
        schema.add_field("unused", DataType.FLOAT_VECTOR, dim=2)  # Milvus wants a vector in every collection
        index = client.prepare_index_params()
        index.add_index("unused", index_type="FLAT", metric_type="IP")
        client.create_collection(REGISTRY, schema=schema, index_params=index, consistency_level="Strong")
    client.upsert(REGISTRY, [{"name": name, "manifest": dict(record), "unused": [0.0, 0.0]}])


def read_record(client: Any, name: str) -> dict[str, Any] | None:
    """Return the manifest of a gallery that was sent completely, with the name of its collection."""
    if not client.has_collection(REGISTRY):
        return None
    found = client.query(REGISTRY, filter=f"name == {json.dumps(name)}", output_fields=["manifest"])
    return found[0]["manifest"] if found else None
