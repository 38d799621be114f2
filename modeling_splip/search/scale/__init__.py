"""Galleries of more photos than one machine encodes in a day: many machines encode them, by Ray Data.

- `sources`: what is read, cut into parts that one process reads; `archives`: the photos in Parquet files and tars.
- `shards`: encoded photos as Parquet files, each written once.
- `ray_encode`: decoding and encoding on Ray. `ray_build`: a build on Ray from source to gallery.
"""

from ...common.lazy import lazy_names

__all__ = ["build_on_ray"]

__getattr__, __dir__ = lazy_names(__name__, {"build_on_ray": "ray_build"})
