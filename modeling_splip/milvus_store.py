"""A gallery on a Milvus server, for more photos than one machine holds: same search, same results.

Photos of a gallery lie in a collection of their own, `<name>_<version>`. The collection `splip_galleries` says which
belongs to a name; its row is written last, so that searches see the former photos until all new ones are there.
"""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .gallery_result import Result
from .gallery_search import SearchableGallery
from .gallery_table import HEAVY_COLUMNS, TableReader, embedding_array, local_folder, read_manifest

REGISTRY = "splip_galleries"
_ROWS = 500
_ATTEMPTS = 5
_HIDDEN = ("path", "label", "sha256", "size", "mtime_ns")
_TEXT_BYTES = 65_535  # Milvus' longest VARCHAR
_INDEX = {
    "exact": ("FLAT", {}, {}),
    "hnsw": ("HNSW", {"M": 32, "efConstruction": 200}, {"ef": 256}),
    "ivf": ("IVF_FLAT", {"nlist": 4096}, {"nprobe": 64}),
}


def collection_name(gallery: str | os.PathLike) -> str:
    """Return a gallery's name on the server: its folder's name, with `_` for what Milvus does not allow."""
    name = re.sub(r"\W", "_", Path(gallery).name, flags=re.ASCII)
    return name if name[:1].isalpha() or name[:1] == "_" else f"g_{name}"


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
        raise OSError("Milvus needs pymilvus: install it with `pip install 'splip[search]'`.") from error
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
        client: of `connect`.
        name: on the server; default: `collection_name` of the folder.

    Returns:
        The number of photos sent.

    Raises:
        FileNotFoundError, ValueError: if there is no such gallery, or a path or label is too long for Milvus.
    """
    folder = local_folder(gallery)
    manifest = read_manifest(folder)
    name = name or collection_name(folder)
    target = f"{name}_{manifest['data'].removeprefix('data-')}"
    reader = TableReader(sorted((folder / manifest["data"]).glob("photos-*.parquet")))
    if not client.has_collection(target):
        _create_photos(client, target, manifest)
    # Blocks are sent in order, so the count tells where to go on; sending a block twice changes nothing.
    there = _count(client, target)
    start = there if there == len(reader) else there // _ROWS * _ROWS
    sent = 0
    bar = tqdm(total=len(reader), initial=start, unit="image", desc="Sending", disable=not progress)
    with bar:
        for first in range(start, len(reader), _ROWS):
            table = reader.take(range(first, min(first + _ROWS, len(reader))))
            client.upsert(target, _rows(table, first))
            sent += len(table)
            bar.update(len(table))
    columns = [column for column in reader.names if column not in HEAVY_COLUMNS]
    if _record(client, name) != {**manifest, "collection": target, "columns": columns}:
        _register(client, name, {**manifest, "collection": target, "columns": columns})
    for other in _versions(client, name):
        if other != target:
            client.drop_collection(other)
    return sent


def _create_photos(client: Any, target: str, manifest: Mapping[str, Any]) -> None:
    from pymilvus import DataType

    kind, build, _ = _INDEX[manifest["index"].get("kind", "exact")]
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
                "metadata": values,
                "thumbnail": encoded if len(encoded) <= _TEXT_BYTES else "",
                "embedding": embeddings[number],
            }
        )
    return rows


def _count(client: Any, collection: str) -> int:
    return int(client.query(collection, filter="", output_fields=["count(*)"])[0]["count(*)"])


def _versions(client: Any, name: str) -> list[str]:
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


def _record(client: Any, name: str) -> dict[str, Any] | None:
    if not client.has_collection(REGISTRY):
        return None
    found = client.query(REGISTRY, filter=f"name == {json.dumps(name)}", output_fields=["manifest"])
    return found[0]["manifest"] if found else None


class MilvusGallery(SearchableGallery):
    """A gallery on a Milvus server, searched as `Gallery` is; a filtered search is as exact as the server's index."""

    def __init__(self, name: str, manifest: dict[str, Any], client: Any):
        super().__init__(name, manifest)
        self._client = client

    @classmethod
    def open(cls, name: str, client: Any, model: str | tuple[Any, Any] | None = None) -> "MilvusGallery":
        """Open a gallery by its name on the server.

        Raises:
            FileNotFoundError: if there is none of that name, or its photos were never sent completely.
            ValueError: if it was built with another model, has another dimension, or photos are missing.
        """
        manifest = _record(client, name)
        if manifest is None:
            if _versions(client, name):
                raise FileNotFoundError(f"Gallery '{name}' was not sent completely: run the same `splip index` again.")
            raise FileNotFoundError(f"The Milvus server has no gallery '{name}': send one with `splip index --store`.")
        collection = manifest["collection"]
        count = _count(client, collection) if client.has_collection(collection) else 0
        if count != manifest["count"]:
            raise ValueError(
                f"Gallery '{name}' holds {count} photos on the server, {manifest['count']} expected: run the same "
                f"`splip index` again."
            )
        fields = client.describe_collection(collection)["fields"]
        dim = next(int(field["params"]["dim"]) for field in fields if field["name"] == "embedding")
        if dim != manifest["dim"]:
            raise ValueError(f"Gallery '{name}' has dimension {dim} on the server, {manifest['dim']} expected.")
        gallery = cls(name, manifest, client)
        if model is not None:
            gallery.use(model)
        return gallery

    @property
    def columns(self) -> list[str]:
        """The columns that `where` can filter on."""
        return self.manifest["columns"]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return stored embeddings (M, D) of rows (M,)."""
        found = self._get([int(row) for row in rows], ["embedding"])
        return np.array([found[int(row)]["embedding"] for row in rows], dtype=np.float32)

    def nearest(self, queries: np.ndarray, k: int, where: Mapping[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the largest dot products, (Q, k); row -1 where there are fewer."""
        depth = _INDEX[self.manifest["index"].get("kind", "exact")][2]
        depth = {name: max(value, k) if name == "ef" else value for name, value in depth.items()}
        answers = self._ask(
            "search",
            data=queries.tolist(),
            limit=k,
            filter=_filter(where),
            output_fields=["row"],
            search_params={"metric_type": "IP", "params": depth},
        )
        scores = np.full((len(queries), k), -1, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for query, hits in enumerate(answers):
            for rank, hit in enumerate(hits):
                scores[query, rank], rows[query, rank] = hit["distance"], hit["entity"]["row"]
        return scores, rows

    def results(self, rows: Sequence[int], scores: Sequence[float]) -> list[Result]:
        """Return photos by their rows."""
        found = self._get(list(rows), ["path", "label", "metadata"])
        results = []
        for row, score in zip(rows, scores, strict=True):
            values = found[row]
            root = self.manifest["root"]
            path = str(Path(root) / values["path"]) if root else values["path"]
            metadata = {name: value for name, value in values["metadata"].items() if name not in _HIDDEN}
            results.append(Result(path, score, values["label"], row, metadata, partial(self._thumbnail, row)))
        return results

    def _thumbnail(self, row: int) -> bytes:
        encoded = self._get([row], ["thumbnail"])[row]["thumbnail"]
        if not encoded:
            raise ValueError(f"Photo {row} has no thumbnail in '{self.name}'.")
        return base64.b64decode(encoded)

    def _get(self, rows: list[int], fields: list[str]) -> dict[int, dict[str, Any]]:
        if not rows:
            return {}
        found = self._ask("get", ids=rows, output_fields=["row", *fields])
        return {int(values["row"]): values for values in found}

    def _ask(self, method: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client, method)(self.manifest["collection"], **arguments)
        except Exception as error:  # pymilvus, gRPC and Milvus Lite each raise their own
            raise OSError(f"Milvus did not answer a {method} in '{self.name}' ({error}): check the server.") from error


def _filter(where: Mapping[str, Any] | None) -> str:
    """Return a Milvus expression; values are quoted as JSON, so that none can leave its string."""
    clauses = []
    for name, values in (where or {}).items():
        wanted = values if isinstance(values, list | tuple | set) else [values]
        field: Callable[[str], str] = (
            str if name in ("path", "label") else (lambda name: f"metadata[{json.dumps(name)}]")
        )
        literals = [literal for value in wanted for literal in _literals(value, name in ("path", "label"))]
        clauses.append("(" + (" or ".join(f"{field(name)} == {literal}" for literal in literals) or "row < 0") + ")")
    return " and ".join(clauses)


def _literals(value: Any, text_only: bool) -> list[str]:
    """Return the value as text, and as a number where it is one: columns are compared as text."""
    text = str(value)
    number = re.fullmatch(r"-?\d+(\.\d+)?", text)
    quoted = json.dumps(text, ensure_ascii=False)
    return [quoted, text] if number and not text_only else [quoted]
