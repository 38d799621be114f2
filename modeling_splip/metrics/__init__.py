"""Exact retrieval metrics of arrays; NumPy only."""
