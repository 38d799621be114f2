"""Embeddings of a data set measured by named protocols, and their reports and pictures."""
