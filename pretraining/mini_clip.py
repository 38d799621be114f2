"""Pretrain the drawn backbone `mini_clip` contrastively on the drawn world's photos and captions.

    python -m pretraining.mini_clip

Images are matched with captions as CLIP does, over all 40 categories: photos, easy ones before hard ones, and clean
"web" drawings, first many and then few. Captions that name all of an instance are solved by colours and backgrounds,
and a tower this small then never looks at shapes: so each image is also told apart from the short captions of the other
categories, and a classifier that is thrown away afterwards helps the image tower off its plateau. Drawings are also
matched with the photos of the same instances. The instances come from sequences of their own: no picture of a data set
is ever seen here.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from datasets_scripts.world.instances import CATEGORY_NAMES, WORLD_VERSION, make_instance, vocabulary, world_hash
from datasets_scripts.world.render import SIZE, draw_photo
from modeling_splip.clip_base import MINI_CLIP, resolve_base

from .backbone import (
    build_optimizer,
    build_processor,
    build_tokenizer,
    check_folder,
    contrast,
    save_backbone,
    set_rate,
    start_positions,
    text_settings,
)
from .mini_clip_data import MEAN, STD, Batch, Batches, to_pixels

WARM_STEPS = 60
FLOOR = 0.02  # the last step's rate, as a share of the highest
CLASSIFIER_SCALE = 10.0


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return a randomly initialised CLIP whose vision and text widths differ, so that no code can mix them up."""
    text = text_settings(tokenizer, hidden_size=96, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4)
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 16,
    }
    both = {"projection_dim": 64, "hidden_act": "gelu"}
    model = CLIPModel(CLIPConfig(text_config=text | both, vision_config=vision | both, projection_dim=64))
    start_positions(model, 0.3)
    return model


@torch.no_grad()
def zero_shot_accuracy(model: CLIPModel, tokenizer: CLIPTokenizer, per_category: int = 25) -> float:
    """Return the share of new photos whose nearest "photo of a {category}" is right; chance is 1/40."""
    model.eval()
    jobs = [(k, n) for k in range(len(CATEGORY_NAMES)) for n in range(per_category)]
    photos = np.stack([draw_photo(make_instance(CATEGORY_NAMES[k], n, "pretraining check")) for k, n in jobs])
    text = tokenizer([f"photo of a {name}" for name in CATEGORY_NAMES], padding=True, return_tensors="pt")
    classes = F.normalize(model.get_text_features(**text).pooler_output, dim=-1)  # (40, D)
    images = F.normalize(model.get_image_features(to_pixels(photos)).pooler_output, dim=-1)  # (N, D)
    found = (images @ classes.T).argmax(1)
    return float((found == torch.tensor([k for k, _ in jobs])).float().mean())


class Objective(nn.Module):
    """The losses of a batch.

    Args:
        model: the CLIP that is trained.
        tokenizer: its tokenizer, for the short captions of all categories.
        instance_weight: weight of matching drawing and photo of an instance.
    """

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, instance_weight: float):
        super().__init__()
        self.model, self.instance_weight = model, instance_weight
        self.classifier = nn.Linear(model.config.projection_dim, len(CATEGORY_NAMES))
        short = [f"{modality} of a {name}" for modality in ("photo", "sketch") for name in CATEGORY_NAMES]
        self.short = dict(tokenizer(short, padding=True, return_tensors="pt"))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scalars `total`, `captions` and `same`, and `right`, the share of categories found."""
        model = self.model
        images = F.normalize(model.get_image_features(batch.pixels).pooler_output, dim=-1)  # (B, D)
        names = F.normalize(model.get_text_features(**self.short).pooler_output, dim=-1).chunk(2)  # 2 x (40, D)
        texts = F.normalize(model.get_text_features(**batch.captions).pooler_output, dim=-1)  # (C, D)
        scale = model.logit_scale.exp().clamp(max=100)
        photos, drawings = images[: batch.photos], images[batch.photos :]
        told = scale * torch.cat([photos @ names[0].T, drawings @ names[1].T])  # (B, 40)
        category = F.cross_entropy(told, batch.categories)
        direct = F.cross_entropy(CLASSIFIER_SCALE * self.classifier(images), batch.categories)
        captions = contrast(images[batch.told], texts, scale)
        same = contrast(photos[: batch.both], drawings[: batch.both], scale)
        total = 0.5 * category + 0.5 * direct + 0.5 * captions + self.instance_weight * same
        right = (told.argmax(1) == batch.categories).float().mean()
        return {"total": total, "captions": captions, "same": same, "right": right}


def train(args: argparse.Namespace, model: CLIPModel, tokenizer: CLIPTokenizer) -> list[float]:
    """Train in place and return the caption loss of every step."""
    batches = Batches(args.batch, args.pool, args.seed, args.workers, tokenizer)
    objective = Objective(model, tokenizer, args.instance_weight)
    parameters = list(objective.parameters())
    optimizer = build_optimizer(parameters, args.lr, 0.05)
    captions = []
    model.train()
    bar = tqdm(range(args.steps), "pretraining")
    for step in bar:
        set_rate(optimizer, args.lr, (step + 1) / WARM_STEPS, step / args.steps, FLOOR)
        losses = objective(batches.draw(step / args.steps))
        optimizer.zero_grad()
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        captions.append(losses["captions"].item())
        if step % 20 == 0:
            mean = f"{np.mean(captions[-20:]):.3f}"
            bar.set_postfix(captions=mean, category=f"{losses['right']:.2f}", same=f"{losses['same']:.3f}")
    return captions


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(resolve_base(MINI_CLIP)))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=192, help="images a step, drawings included")
    parser.add_argument("--instance-weight", type=float, default=0.3, help="weight of matching drawing and photo")
    parser.add_argument("--pool", type=int, default=40_000, help="instances drawn beforehand")
    parser.add_argument("--threads", type=int, default=2, help="of torch; 1 is faster on a busy machine")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Pretrain by the command line's settings, save the backbone and return its record."""
    args = parse_arguments(argv)
    check_folder(args.out)
    started = time.perf_counter()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer(vocabulary())
    model = build_model(tokenizer)
    captions = train(args, model, tokenizer)
    record = {
        "world_version": WORLD_VERSION,
        "world_hash": world_hash(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "workers", "threads")},
        "steps": args.steps,
        "images": args.steps * args.batch,
        "loss": round(float(np.mean(captions[-50:])), 4),
        "zero_shot_accuracy": round(zero_shot_accuracy(model, tokenizer), 4),
        "zero_shot_classes": len(CATEGORY_NAMES),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": args.seed,
        "minutes": round((time.perf_counter() - started) / 60, 1),
    }
    save_backbone(args.out, model, tokenizer, build_processor(SIZE, [MEAN] * 3, [STD] * 3), record)
    print(json.dumps(record, indent=2))
    return record


if __name__ == "__main__":
    main()
