"""Measuring a model or anybody's embeddings by named protocols, with tables, charts and pictures of the results.

- `embedder`: embeds rows of a dataset, each once, on any number of processes.
- `evaluate`: embeddings under a protocol become metrics and a result record.
- `device_arrays`: the operations of the metrics in torch, for a GPU.
- `embeddings_file`: the same for embeddings in a NumPy file.
- `rerank`: ranks the first results again by a relation network.
- `report`: the folder that `splip evaluate --report` writes, and the table of records.
- `published`: published numbers beside ours; they are in `published_results.json`.
- `pictures`: queries with their results as a picture, by PIL alone.
- `view_pictures`: such pictures of a dataset's queries.
- `plots`: charts, by matplotlib.
- `sbir_retrieval/`: the metrics as a module of the `evaluate` library.
"""

from ..common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Embedder": "embedder",
        "Evaluation": "evaluate",
        "Sides": "evaluate",
        "embed_view": "evaluate",
        "evaluate_embeddings": "embeddings_file",
        "evaluate_model": "evaluate",
        "measure": "evaluate",
        "published_table": "published",
        "queries_picture": "view_pictures",
        "records_table": "report",
        "retrieval_grid": "pictures",
        "retrieval_picture": "view_pictures",
        "write_report": "report",
    },
)
