"""A build on Ray that does not end by itself, in a process of its own: `ray_driver.py ADDRESS PHOTOS OUT NOTE`."""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from modeling_splip.loading import load_retriever

MODEL = "small_splip"
SHARD_ROWS = 8


def stuck_pair(note: Path) -> tuple[Any, Any]:
    """A model that is stuck for good where it encodes photos first; it notes Ray's name of that machine in a file."""
    model, processor = load_retriever(MODEL)
    model = model.for_search()
    encode = model.encode

    def encode_or_hang(pixel_values, modality):
        import ray

        with contextlib.suppress(FileExistsError), note.open("x") as file:
            file.write(ray.get_runtime_context().get_node_id())
            file.close()
            time.sleep(3600)
        return encode(pixel_values, modality)

    model.encode = encode_or_hang
    return model, processor


def main(address: str, photos: str, out: str, note: str) -> None:
    from modeling_splip.search.scale import build_on_ray

    pair = stuck_pair(Path(note))
    build_on_ray(photos, *pair, out, address=address, model_name=MODEL, workers=2, shard_rows=SHARD_ROWS)


if __name__ == "__main__":
    main(*sys.argv[1:])
