"""Prepared datasets, what each protocol compares of them, and the descriptions of classes.

- `dataset`: opens what `splip prepare` wrote: splits, columns, classes.
- `protocols`: the table of protocols, and the queries and gallery of each.
- `descriptions`: sentences about classes, as a JSON file; the packaged ones are in `descriptions.json`.
"""

from ..common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "SbirDataset": "dataset",
        "open_dataset": "dataset",
        "PROTOCOLS": "protocols",
        "Part": "protocols",
        "Protocol": "protocols",
        "View": "protocols",
        "protocol_view": "protocols",
        "validation_view": "protocols",
        "Descriptions": "descriptions",
        "descriptions_of": "descriptions",
        "load_descriptions": "descriptions",
        "read_descriptions": "descriptions",
    },
)
