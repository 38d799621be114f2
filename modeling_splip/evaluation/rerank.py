"""Rank the first results again by what a relation network says of stored tokens (Cross-Modal Attention Alignment)."""

from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.dataset import View


def reranked_scores(
    embedder: Any,
    view: View,
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Return the scores (Q, N) after the relation network has ranked the first k photos of every sketch again.

    The first k get 1 + their relation score, in 1..2, and so stay before the others, which keep their cosine. Photos'
    tokens are stored in float16: N P D 2 bytes.

    Args:
        embedder: an `Embedder`.
        view: what to compare.
        query, gallery: its embeddings (Q, D) and (N, D).
        k: at least 1.
        candidates: (Q, N) which photos a sketch may find; all by default.

    Raises:
        ValueError: if the model has no relation network.
    """
    if not hasattr(embedder.model, "relation"):
        kind = embedder.model.config.model_type
        raise ValueError(f"--rerank needs a model with a relation network (cross_align), got '{kind}': leave it out.")
    sketches, photos = embedder.tokens(view.query, "sketch"), embedder.tokens(view.gallery, "photo")
    device = embedder.accelerator.device
    scores = query @ gallery.T  # (Q, N)
    for row in tqdm(range(len(scores)), desc="rerank", unit="sketch", leave=False):
        rivals = np.flatnonzero(candidates[row]) if candidates is not None else np.arange(scores.shape[1])
        first = rivals[np.argsort(-scores[row, rivals], kind="stable")[:k]]
        tokens = torch.from_numpy(photos[first]).to(device).float()  # (k, P, D)
        own = torch.from_numpy(sketches[row]).to(device).float().expand_as(tokens)
        with torch.no_grad():
            scores[row, first] = 1 + embedder.model.relation(own, tokens).cpu().numpy()
    return scores
