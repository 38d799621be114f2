"""The metric module that `evaluate.load` reads from this folder."""
