"""What `speed.py` times: SpLIP on random weights of a published CLIP's shape, and the usual way to compute it.

No tokenizer is needed: class prompts are given as token ids. The 104 classes stand for the seen ones of Sketchy's
second split and have names as long as theirs; the longest prompt has 14 tokens. Which tokens they are does not matter.
"""

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPVisionModel

from modeling_splip.class_prompts import embed_tokens, run_text, text_positions
from modeling_splip.configuration_retriever import MODALITIES
from modeling_splip.configuration_splip import SplipConfig
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.training.objective_splip import SplipObjective

# vision width, layers, heads, patch; text width, heads; D
SHAPES = {
    "B/32": (768, 12, 12, 32, 512, 8, 512),
    "L/14": (1024, 24, 16, 14, 768, 12, 768),
    "tiny": (96, 12, 12, 32, 64, 8, 64),  # B/32 with heads of width 8: to count, and to try the benchmark
}
VOCABULARY = 49408
CONTEXT = 77
CLASSES = 104
# How many names have how many tokens in CLIP's byte-pair vocabulary: `jack-o-lantern` five, `crocodilian` four.
NAME_LENGTHS = {1: 87, 2: 13, 3: 2, 4: 1, 5: 1}


def clip_config(shape: str) -> CLIPConfig:
    """The shape of a published CLIP."""
    d_v, l_v, heads_v, patch, d_t, heads_t, projection = SHAPES[shape]
    text = {"hidden_size": d_t, "intermediate_size": 4 * d_t, "num_hidden_layers": 12, "num_attention_heads": heads_t}
    vision = {
        "hidden_size": d_v,
        "intermediate_size": 4 * d_v,
        "num_hidden_layers": l_v,
        "num_attention_heads": heads_v,
        "patch_size": patch,
        "image_size": 224,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)
    for part in (config.text_config, config.vision_config):
        part.projection_dim = projection
    return config


def class_tokens(count: int) -> list[list[int]]:
    """Token ids of made-up class names, EOS last; other counts than 104 repeat the lengths or take some of them."""
    generator = torch.Generator().manual_seed(0)
    known = [length for length, names in NAME_LENGTHS.items() for _ in range(names)]
    lengths = [known[index * 37 % len(known)] for index in range(count)]  # 37 spreads the long names over all
    draw = [torch.randint(1000, VOCABULARY - 2, (length,), generator=generator).tolist() for length in lengths]
    return [[*ids, VOCABULARY - 1] for ids in draw]


class PaddedSplip(SplipModel):
    """The usual way: for every image and every class a text sequence of its own, all padded to one length.

    Prompts, layers and pooling are the same; so are the embeddings. `length` None cuts to the longest prompt.
    """

    length: int | None = None

    def _text_pass(self, prompts: Tensor, modality: str) -> tuple[Tensor, Tensor]:
        config, device, m = self.config, self.clip.logit_scale.device, prompts.shape[1]
        prefix = config.prefix_token_ids[modality]
        sequences = [[prefix[0]] * (1 + m) + prefix[1:] + ids for ids in config.class_token_ids]
        length = self.length or max(map(len, sequences))
        ids = torch.tensor([ids + [ids[-1]] * (length - len(ids)) for ids in sequences], device=device)  # (C, J)
        counted = torch.tensor([[1.0] * len(ids) + [0.0] * (length - len(ids)) for ids in sequences], device=device)
        counted[:, 1 : 1 + m] = 0
        eos = torch.tensor([len(ids) - 1 for ids in sequences], device=device)
        batch, classes = prompts.shape[0], len(sequences)
        x = embed_tokens(self.clip, ids) + text_positions(self.clip, torch.arange(length, device=device))  # (C, J, d_t)
        x = x.expand(batch, -1, -1, -1).flatten(0, 1)  # (B C, J, d_t)
        mask = torch.full((length, length), float("-inf"), device=device).triu(1)
        norms = self._text_norms()
        repeated = prompts.repeat_interleave(classes, dim=0)  # (B C, m, d_t)
        output = run_text(self.clip, x, norms, mask, repeated, config.prompt_depth, self.attention)
        weights = counted / counted.sum()
        means = [torch.einsum("bcjd,cj->bd", w.unflatten(0, (batch, -1)), weights.to(w.dtype)) for w in output.layers]
        last = output.last.unflatten(0, (batch, -1))[:, torch.arange(classes, device=device), eos]  # (B, C, d_t)
        return torch.stack(means), last


def build(
    shape: str,
    conditioning: str,
    device: str,
    classes: int = CLASSES,
    padded: bool = False,
    length: int | None = None,
) -> SplipModel:
    """A SpLIP of random weights; with `padded` the usual way of its text pass."""
    config = SplipConfig(
        clip_config=clip_config(shape),
        class_names=[f"class {index}" for index in range(classes)],
        class_token_ids=class_tokens(classes),
        prefix_token_ids={name: [VOCABULARY - 2, 500 + index, 539, 320] for index, name in enumerate(MODALITIES)},
        conditioning=conditioning,
    )
    torch.manual_seed(0)
    model = (PaddedSplip if padded else SplipModel)(config)
    model.start_from_clip()
    if padded:
        model.length = length
    if conditioning == "domain":
        for modality in MODALITIES:
            model.set_domain_mean(modality, torch.randn(SHAPES[shape][0]))
    return model.to(device).eval()


def plain_vision(model: SplipModel) -> CLIPVisionModel:
    """CLIP's stock vision tower with the model's frozen weights."""
    vision = CLIPVisionModel(model.config.clip_config.vision_config).to(model.device, model.dtype)
    vision.load_state_dict(model.clip.vision_model.state_dict())
    return vision.requires_grad_(False).eval()


def text_pass(model: SplipModel, batch: int) -> Tensor:
    """Run the text tower for `batch` images; returns the means of W_l."""
    generator = torch.Generator().manual_seed(1)
    d_t = model.config.clip_config.text_config.hidden_size
    prompts = torch.randn(batch, model.config.m, d_t, generator=generator).to(model.device, model.dtype)
    return model._text_pass(prompts, "sketch")[0]


def training_batch(triplets: int, device: str) -> dict[str, Tensor]:
    """Random images and labels of a category-level batch."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, triplets, 3, 224, 224, generator=generator)
    numbers = torch.randint(0, CLASSES, (3, triplets), generator=generator)
    batch = {"sketch": images[0], "positive": images[1], "negative": images[2]}
    batch |= {"label": numbers[0], "negative_label": numbers[1], "draw": numbers[2]}
    return {name: value.to(device) for name, value in batch.items()}


class TrainingStep:
    """Forward, backward and Adam of the full objective: four encoded images a triplet (s, s', p+, p-)."""

    def __init__(self, model: SplipModel, triplets: int, dtype: torch.dtype):
        self.objective = SplipObjective(model).to(model.device).train()
        self.batch = training_batch(triplets, str(model.device))
        self.dtype = dtype
        trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=1e-4)

    def __call__(self) -> float:
        """Take one step; returns the loss before it."""
        device = self.batch["sketch"].device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.objective(self.batch)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())
