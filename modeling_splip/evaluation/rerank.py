"""Ranks the first results again by the scores that a relation network gives to stored tokens."""

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.protocols import View
from .embedder import Embedder


def reranked_scores(
    embedder: Embedder,
    view: View,
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """Return the scores (Q, N) after the relation network has ranked the first k photos of every sketch again.

    The first k photos get 1 + their relation score, which is between 0 and 1; so they stay before the others, which
    keep their cosine. The tokens of all photos are in memory, in float16: N x P x D x 2 bytes.

    Args:
        embedder: of a model with a relation network.
        view: the rows that are compared.
        query, gallery: their embeddings (Q, D) and (N, D).
        k: at least 1.
        candidates: which photos a sketch may find (Q, N); None for all.

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
