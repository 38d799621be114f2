"""Metrics of sketch-based image retrieval for `evaluate`: a thin wrapper of `modeling_splip.metrics`."""

import datasets
import evaluate
import numpy as np
import pyarrow.compute as pc

from modeling_splip.metrics import by_class, inputs

_DESCRIPTION = """\
Exact retrieval metrics of zero-shot sketch-based image retrieval, all in one pass: mAP@all (scikit-learn's), mAP@k
under its three denominators in use, with and without VOC interpolation, precision, recall and accuracy at k.
Two configurations: "embeddings" (default) takes the embeddings of sketches and photos in any order and ranks all
photos for every sketch; "scores" takes, for every query, its scores against the whole gallery.
"""

_KWARGS_DESCRIPTION = """
Args of add_batch and compute, configuration "embeddings":
    predictions: embeddings (rows, D), kept and ranked in float32.
    references: class of every row, integers or strings.
    modalities: "sketch" (a query) or "photo" (of the gallery) for every row.
Args of add_batch and compute, configuration "scores":
    predictions: scores (queries, photos), larger is nearer, one column per photo of the gallery.
    references: class of every query, integers or strings.
Args of compute:
    gallery_labels: "scores" only, required: class of every photo.
    normalize: "embeddings" only: divide by the norm, so that cosines are ranked (default), or rank dot products.
    gallery_copies, ks, acc_ks, missing: as in `modeling_splip.metrics.by_class.retrieval_metrics`.
Returns:
    map_all, map_all_voc, acc_k, and for every k of ks map_k_prefix, map_k_min, map_k_all, each also with _voc,
    map_k_trapezoid, p_k, p_k_min, p_k_cut, recall_k: fractions; n_query, n_excluded, n_gallery, n_classes, ties.
Examples:
    >>> metric = evaluate.load("modeling_splip/evaluation/sbir_retrieval")
    >>> metric.add_batch(predictions=[[1.0, 0.0]], references=["cat"], modalities=["sketch"])
    >>> metric.add_batch(predictions=[[0.6, 0.8], [0.0, 1.0]], references=["cat", "dog"], modalities=["photo", "photo"])
    >>> metric.compute()["map_all"]
    1.0
"""


class SbirRetrieval(evaluate.Metric):
    """Metrics of embeddings or of scores: `evaluate.load("modeling_splip/evaluation/sbir_retrieval", "scores")`."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "embeddings", "scores"):
            raise ValueError(f'configuration is {self.config_name!r}: expected "embeddings" or "scores".')
        with_scores = self.config_name == "scores"
        # Scores keep double precision: rounding them would make ties that were not there.
        columns = {"predictions": datasets.Sequence(datasets.Value("float64" if with_scores else "float32"))}
        if not with_scores:
            columns["modalities"] = datasets.Value("string")
        info = evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features(columns | {"references": datasets.Value(kind)}) for kind in ("int64", "string")
            ],
        )
        # Set afterwards: MetricInfo refuses a format for vectors, yet lists of Python floats would take gigabytes, and
        # the "numpy" format would round scores to single precision.
        info.format = "arrow"
        return info

    def add(self, *, prediction=None, reference=None, **columns):
        """Add one row."""
        self._check_not_half_precision(prediction)
        super().add(prediction=prediction, reference=reference, **columns)

    def add_batch(self, *, predictions=None, references=None, **columns):
        """Add rows; `compute` passes here too."""
        for row in [predictions] if hasattr(predictions, "dtype") else predictions:
            self._check_not_half_precision(row)
        super().add_batch(predictions=predictions, references=references, **columns)

    def _check_not_half_precision(self, values):
        """Refuse such scores before they are stored as doubles, which hide that ties come from rounding."""
        if self.config_name == "scores" and hasattr(values, "dtype"):
            inputs.check_not_half_precision(values)

    def _compute(self, predictions, references, modalities=None, gallery_labels=None, normalize=True, **options):
        widths = set(pc.list_value_length(predictions).to_pylist())
        if len(widths) > 1:
            raise ValueError(f"predictions have rows of {min(widths)} and of {max(widths)} values: they must be equal.")
        rows, labels = np.stack(predictions.to_numpy()), np.asarray(references.to_pylist())
        if self.config_name == "scores":
            if gallery_labels is None:
                raise ValueError("gallery_labels is missing: pass the class of every photo to compute.")
            result = by_class.metrics_from_scores(rows, labels, gallery_labels, **options)
        else:
            unknown = sorted(set(modalities.to_pylist()) - {"sketch", "photo"})
            if unknown:
                raise ValueError(f'modalities holds {unknown[0]!r}: expected "sketch" or "photo".')
            sides = np.asarray(modalities.to_pylist())
            query, gallery = rows[sides == "sketch"], rows[sides == "photo"]
            if normalize:
                query, gallery = inputs.unit_norm(query, "query"), inputs.unit_norm(gallery, "gallery")
            result = by_class.retrieval_metrics(
                query, gallery, labels[sides == "sketch"], labels[sides == "photo"], **options
            )
        return result.pop("metrics") | result
