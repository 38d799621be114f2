"""Exact retrieval metrics of arrays; NumPy only.

- `by_class`: every photo of the query's class is relevant: mAP, precision, recall and accuracy at k.
- `by_instance`: only the photo that was drawn is relevant: accuracy at k and mean reciprocal rank.
- `arrays`: the operations on arrays that differ between libraries, in NumPy.
- `inputs`: checks of what both accept, and unit norm.
- `ranking`: ranks of relevant photos from sorted score values.
"""

from ..common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "instance_accuracy": "by_instance",
        "metrics_from_scores": "by_class",
        "retrieval_metrics": "by_class",
        "unit_norm": "inputs",
    },
)
