"""A gallery on a Milvus server: searched as a gallery in a folder is, with the same results."""

import base64
import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..common.text import composed
from .base import SearchableGallery
from .milvus_store import INDEX, count_photos, in_a_sentence, read_record, versions
from .result import Result

_HIDDEN = ("path", "label", "sha256", "size", "mtime_ns")


class MilvusGallery(SearchableGallery):
    """A gallery on a Milvus server. A filtered search is as exact as the server's index."""

    def __init__(self, name: str, manifest: dict[str, Any], client: Any):
        super().__init__(name, manifest)
        self._client = client

    @classmethod
    def open(cls, name: str, client: Any, model: str | tuple[Any, Any] | None = None) -> "MilvusGallery":
        """Open a gallery by its name on the server.

        Raises:
            FileNotFoundError: if there is none of that name, or its photos were never sent completely.
            ValueError: if it was built with another model, has another dimension, or photos are missing.
            OSError: if the server does not answer.
        """
        with in_a_sentence(f"to open gallery '{name}'", "try again"):
            manifest = _checked_record(client, name)
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
        """Return scores and rows of the k largest dot products, (Q, k), highest first; row -1 where there are fewer."""
        depth = INDEX[self.manifest["index"].get("kind", "exact")][2]
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
        with in_a_sentence(f"to answer a {method} in '{self.name}'", "try again"):
            return getattr(self._client, method)(self.manifest["collection"], **arguments)


def _checked_record(client: Any, name: str) -> dict[str, Any]:
    """Return the manifest of a gallery whose photos are all there."""
    manifest = read_record(client, name)
    if manifest is None:
        if versions(client, name):
            raise FileNotFoundError(f"Gallery '{name}' was not sent completely: run the same `splip index` again.")
        raise FileNotFoundError(
            f"The Milvus server has no gallery '{name}': send one with "
            f"`splip index PHOTOS --out {shlex.quote(name)} --store milvus --uri URI`."
        )
    collection = manifest["collection"]
    count = count_photos(client, collection) if client.has_collection(collection) else 0
    if count != manifest["count"]:
        raise ValueError(
            f"Gallery '{name}' holds {count} photos on the server, {manifest['count']} expected: run the same "
            f"`splip index` again."
        )
    fields = client.describe_collection(collection)["fields"]
    dim = next(int(field["params"]["dim"]) for field in fields if field["name"] == "embedding")
    if dim != manifest["dim"]:
        raise ValueError(f"Gallery '{name}' has dimension {dim} on the server, {manifest['dim']} expected.")
    return manifest


def _filter(where: Mapping[str, Any] | None) -> str:
    """Return a Milvus expression; values are quoted as JSON, so that a value can never end its quotation."""
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
    """Return a value as quoted text and, if it can be one, as a number or truth value: the column may be of either.

    Text is given as it is and in both Unicode forms, since the server compares letter by letter.
    """
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = re.fullmatch(r"-?\d+(\.\d+)?|true|false", text)
    forms = dict.fromkeys((text, composed(text), unicodedata.normalize("NFD", text)))
    quoted = [json.dumps(form, ensure_ascii=False) for form in forms]
    return [*quoted, text] if plain and not text_only else quoted
