"""The small trainable parts: LayerNorm adapters, CLIP-AT's prompts, SpLIP's prompt mappers, the relation network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .clip_backbone import parameter_at


class LayerNormAdapter(nn.ModuleList):
    """Trained copies of a tower's LayerNorms, in the tower's order; the frozen originals stay as they are.

    Several adapters can share one CLIP. Which one a call uses is an argument of the call, never a state of the model.
    """

    def __init__(self, count: int, width: int, eps: float):
        super().__init__(nn.LayerNorm(width, eps=eps) for _ in range(count))

    @torch.no_grad()
    def copy_from(self, norms: Sequence[nn.LayerNorm]) -> None:
        """Copy the weights of the tower's LayerNorms, in the same order and number."""
        for own, original in zip(self, norms, strict=True):
            own.load_state_dict(original.state_dict())


class VisualPrompts(nn.Module):
    """CLIP-AT's K visual prompts of a modality, (K, d_v)."""

    def __init__(self, count: int, d_v: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(count, d_v))


class TextPromptMapper(nn.Module):
    """B_t: the m text prompts of an image, T = B_t(E_0).

    The mean over the patches goes through three linear layers d_v -> d_t -> d_t -> m d_t with ReLU between them.
    Independent re-implementations agree on linear layers with ReLU; the mean over patches is our choice. One reads all
    patches instead, one behind the other: then d_v is that of P patches.
    """

    def __init__(self, d_v: int, d_t: int, m: int):
        super().__init__()
        self.m = m
        self.layers = nn.Sequential(
            nn.Linear(d_v, d_t), nn.ReLU(), nn.Linear(d_t, d_t), nn.ReLU(), nn.Linear(d_t, m * d_t)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Return the prompts (B, m, d_t) of mean patch embeddings (B, d_v), or of flattened ones (B, P d_v)."""
        return self.layers(patches).unflatten(-1, (self.m, -1))  # (B, m, d_t)


class TemplatePromptMapper(nn.Module):
    """B_v: the visual prompts V_tg of the template's tokens by one linear layer, the same for every vision layer.

    The template's tokens are the paper's; the single linear layer is that of re-implementations. It maps each token,
    or, as in one of them, all tokens together.

    Args:
        d_t, d_v: widths of the towers.
        together: how many tokens are mapped at a time: 1, or those of the longest template; shorter ones are filled up
            with zeros.
    """

    def __init__(self, d_t: int, d_v: int, together: int = 1):
        super().__init__()
        self.together = together
        self.layer = nn.Linear(together * d_t, together * d_v)

    def forward(self, template_tokens: Tensor) -> Tensor:
        """Return the prompts (q, d_v) of the template's token embeddings (q, d_t)."""
        if self.together == 1:
            return self.layer(template_tokens)
        q = template_tokens.shape[0]
        filled = F.pad(template_tokens, (0, 0, 0, self.together - q))  # (together, d_t)
        return self.layer(filled.flatten()).unflatten(0, (self.together, -1))[:q]  # (q, d_v)


class MultimodalPromptMapper(nn.Module):
    """B_vt: the visual prompts V_ms of a text layer's outputs, by d_t -> 256 -> n d_v with ReLU for all layers.

    Prompts from the outputs of all seen classes are the paper's; the bottleneck is that of a re-implementation.
    """

    def __init__(self, d_t: int, d_v: int, n: int, bottleneck: int):
        super().__init__()
        self.n = n
        self.layers = nn.Sequential(nn.Linear(d_t, bottleneck), nn.ReLU(), nn.Linear(bottleneck, n * d_v))

    def forward(self, mean_output: Tensor) -> Tensor:
        """Return the prompts (..., n, d_v) of the mean of W_l over classes and tokens (..., d_t)."""
        return self.layers(mean_output).unflatten(-1, (self.n, -1))  # (..., n, d_v)


class RelationNetwork(nn.Module):
    """How well two images match: an MLP over the P x P cosines between their tokens.

    Its layers are P^2 -> 343 -> 49 -> 1 with ReLU and a sigmoid, as in the nearest released code (ZSE-SBIR, P = 49).
    """

    def __init__(self, tokens: int):
        super().__init__()
        self.tokens = tokens
        self.layers = nn.Sequential(
            nn.Linear(tokens**2, 343), nn.ReLU(), nn.Linear(343, 49), nn.ReLU(), nn.Linear(49, 1)
        )

    def forward(self, sketch: Tensor, photo: Tensor) -> Tensor:
        """Return the scores of pairs of images, (B,) in 0..1, in float32 or wider.

        Args:
            sketch, photo: (B, P, D) unit-norm tokens of any dtype.

        Raises:
            ValueError: if there are more or fewer tokens than the network was built for.
        """
        if sketch.shape[-2] != self.tokens or photo.shape[-2] != self.tokens:
            raise ValueError(
                f"The relation network compares {self.tokens} tokens an image, got {sketch.shape[-2]} and "
                f"{photo.shape[-2]}: use images of the size that it was trained on."
            )
        with torch.autocast(sketch.device.type, enabled=False):  # in half precision different scores would be equal
            dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
            x = (sketch.to(dtype) @ photo.to(dtype).transpose(-1, -2)).flatten(-2)  # (B, P^2)
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    x = F.linear(x, *(parameter_at(layer, name, x, dtype) for name in ("weight", "bias")))
                else:
                    x = layer(x)
            return x.squeeze(-1).sigmoid()
