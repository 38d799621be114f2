"""Builders that turn sketch-photo archives into Parquet with one set of columns."""
