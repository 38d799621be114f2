"""Where a gallery lies: the options `--store` and `--uri`, connecting, and opening from either store."""

import argparse
from typing import Any

from .base import SearchableGallery
from .gallery import Gallery
from .milvus_gallery import MilvusGallery
from .milvus_store import collection_name, connect

STORES = ("folder", "milvus")


def add_store_arguments(parser: argparse.ArgumentParser, store_help: str) -> None:
    """Add `--store` and `--uri` to a command.

    Args:
        parser: of the command.
        store_help: what the store is for in this command.
    """
    parser.add_argument("--store", choices=STORES, default="folder", help=f"{store_help} (default: folder)")
    parser.add_argument("--uri", help="of Milvus: http://host:19530, or a file for Milvus Lite")


def connect_store(store: str, uri: str | None) -> Any:
    """Return a client of the Milvus server that the options name, or None where the store is a folder.

    Raises:
        ValueError: if only one of the two options names a server.
        OSError: if the server does not answer.
    """
    if (store == "milvus") != (uri is not None):
        raise ValueError("--store milvus and --uri belong together: pass both or neither.")
    return connect(uri) if uri is not None else None


def open_gallery(folder: str, client: Any = None, model: str | None = None) -> SearchableGallery:
    """Return a gallery, opened from its folder or from the server where it has the folder's name.

    Args:
        folder: of the gallery.
        client: of `connect_store`; None to open the folder.
        model: name of the model to search with; default: the one that the gallery was built with.

    Raises:
        FileNotFoundError, ValueError, OSError: in one sentence, as `Gallery.open` and `MilvusGallery.open`.
    """
    if client is None:
        return Gallery.open(folder, model)
    return MilvusGallery.open(collection_name(folder), client, model)
