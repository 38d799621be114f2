"""Builders: from sketches and photos in any of their usual forms to Parquet files with one set of columns.

- `prepare`: the command `splip prepare`, and the function behind it.
- `base`: what a builder is, and the plan of rows that it makes; `schema`: the columns that all data share.
- Builders: `folder` (one's own pictures), `open23` (packaged), `mini` (drawn by program, of `world/`), `sketchy`,
  `tuberlin` and `quickdraw` (by `benchmark`), `qmul`.
- What they use: `archive` (files in folders, zip and tar files), `pictures` (which files are pictures, and reading
  them), `strokes` and `svg` (drawings that come as strokes), `layouts` (which known archive this is), `verify` (known
  counts, checksums, photos that are there twice), `splits` (seen and unseen classes, from `class_lists/`), `rows` (from
  photos and sketches to rows).
- What becomes of a plan: `writing` (Parquet files), `card` (README.md, from `card.md`).
"""
