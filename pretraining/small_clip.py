"""Pretrain a small CLIP on real photos and people's drawings, on one GPU in less than ten minutes.

    python -m pretraining.small_clip --photos tiny-imagenet/train --names wordnet.json --drawings quickdraw
    python -m pretraining.small_clip --packed DIR --select DIR

Class names are captions: photos, edge maps of photos and drawings are matched with "a photo of a {name}" and "a sketch
of a {name}" by a small text tower. Edge maps are matched with the photos that they are of, so that shapes count more
than colours. An ImageNet CNN teaches the image tower besides, where one is at hand. What is saved are the moving
averages of the weights. `pretraining/README.md` says how the data lie and what is left out.
"""

import argparse
import copy
import json
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from datasets_scripts.splits import load_split

from .backbone import (
    build_optimizer,
    build_processor,
    build_tokenizer,
    check_folder,
    save_backbone,
    set_rate,
    start_positions,
    text_settings,
)
from .small_clip_data import SIZE, Batches, Pictures, leave_out, merge
from .small_clip_measure import Selection, name_accuracy
from .small_clip_objective import CAPTIONS, Objective
from .small_clip_reading import read_drawings, read_json, read_packed, read_photos
from .teacher import LITE, teach

WORD = r"[^\W\d_]+|\d|[^\s\w]+|_"  # what CLIP's tokenizer cuts a text into: letters, one digit, other signs
WARM_STEPS = 300
FLOOR = 0.01  # the last step's rate, as a share of the highest
AVERAGE = 0.998  # decay of the moving averages, a step
MEASURED = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the training: when --select measures, besides the end
REPORT = 50  # steps between two reports of the losses


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the settings of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data, any of these together")
    data.add_argument("--packed", type=Path, help="folder of mosaics, packed drawings and meta.json")
    data.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of <class>/*.jpg")
    data.add_argument("--drawings", type=Path, nargs="*", default=[], help="folders of *.ndjson or <class>/*.png")
    data.add_argument("--names", type=Path, help="JSON file {folder: class name}, for folders that are WordNet ids")
    data.add_argument("--per-class", type=int, default=600, help="photos of a class in a folder, at most")
    data.add_argument("--drawings-per-class", type=int, default=200, help="drawings of a class in a folder, at most")
    data.add_argument("--leave-out", default="sketchy2", help="split whose unseen classes are never seen, or none")
    data.add_argument("--select", type=Path, help="held-back folder {sketch,photo}/<class>/ that chooses the weights")
    parser.add_argument("--out", type=Path, default=Path("runs/small_clip"))
    parser.add_argument("--minutes", type=float, default=9.0, help="from the start of the command to the last step")
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--batch", type=int, default=1024, help="pictures a step")
    parser.add_argument("--edge-share", type=float, default=0.2, help="of the pictures of a step")
    parser.add_argument(
        "--drawing-share", type=float, default=0.1, help="of the pictures of a step; photos are the rest"
    )
    parser.add_argument("--teacher", default=LITE, help=f"{LITE}, an image model's folder or Hub id, or none")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.1, help="of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    return parser.parse_args(argv)


def read_pictures(args: argparse.Namespace) -> tuple[Pictures, dict[str, Any]]:
    """Return the pictures that the settings name, and for the record what was left out of them.

    Raises:
        OSError, ValueError: in one sentence, if data are missing, damaged or none.
    """
    names = read_json(args.names) if args.names else {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"'{args.names}' must be an object {{folder: class name}}.")
    parts = [read_packed(args.packed)] if args.packed else []
    parts += [read_photos(root, names, args.per_class, args.seed) for root in args.photos]
    parts += [read_drawings(root, args.drawings_per_class, args.seed) for root in args.drawings]
    if not parts:
        raise ValueError("No data: give --packed DIR, or --photos DIR and --drawings DIR.")
    pictures = merge(parts)
    left_out: dict[str, Any] = {}
    if args.leave_out != "none":
        split = load_split(args.leave_out)
        pictures, left_out = leave_out(pictures, split.unseen)
        left_out = {"split": split.name} | left_out
    for kind, count, option in (
        ("photos", len(pictures.photos), "--photos"),
        ("drawings", len(pictures.drawings), "--drawings"),
    ):
        if count < 2:
            raise ValueError(f"{count} {kind} remain to learn from, too few: add {option} DIR or --packed DIR.")
    return pictures, left_out


def words_of(names: Sequence[str]) -> list[str]:
    """Return the different words of the captions of all names, sorted."""
    captions = [*CAPTIONS.values(), *names]
    return sorted({word for caption in captions for word in re.findall(WORD, caption.replace("{}", ""))})


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return a randomly initialised CLIP of 8 vision layers over 64 patches and 3 text layers."""
    text = text_settings(tokenizer, hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=3)
    vision = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 8,
    }
    both = {"projection_dim": 256, "hidden_act": "gelu"}
    model = CLIPModel(CLIPConfig(text_config=text | both, vision_config=vision | both, projection_dim=256))
    start_positions(model, 0.2)
    return model


class Clock:
    """How far the training is: by steps where they are given, else by the minutes since the command's start.

    Args:
        started: seconds of `time.perf_counter` at the command's start.
        minutes: the budget; steps: its replacement, or None.
    """

    def __init__(self, started: float, minutes: float, steps: int | None):
        self.begun, self.end, self.steps = time.perf_counter(), started + 60 * minutes, steps
        if steps is None and self.begun >= self.end:
            raise ValueError(f"Reading the data took all of the {minutes:g} minutes: raise --minutes or read fewer.")

    def progress(self, step: int) -> float:
        """Return the share of the training that is done before that step; 1 or more at the end."""
        if self.steps is not None:
            return step / self.steps
        return (time.perf_counter() - self.begun) / (self.end - self.begun)


class Best:
    """Keeps the averaged weights that retrieve best on the held-back folder; without one, the last.

    Args:
        average: the moving averages.
        selection: the held-back folder, or None.
    """

    def __init__(self, average: AveragedModel, selection: Selection | None):
        self.average, self.selection = average, selection
        self.history: list[dict[str, float]] = []
        self.state: dict[str, Tensor] | None = None
        self.moments = list(MEASURED)

    def at(self, step: int, progress: float) -> None:
        """Measure if it is time to, and keep the weights if they are the best so far."""
        due = [moment for moment in self.moments if moment <= progress]
        self.moments = self.moments[len(due) :]
        measured = bool(self.history) and self.history[-1]["step"] == step
        if self.selection is None or measured or not (due or progress >= 1):
            return
        score = self.selection.measure(self.average.module)
        if all(score > entry["map_all"] for entry in self.history):
            self.state = copy.deepcopy(self.average.module.state_dict())
        self.history.append({"step": step, "map_all": round(score, 4)})

    def objective(self) -> Objective:
        """Return the objective with the weights that were kept."""
        if self.state is not None:
            self.average.module.load_state_dict(self.state)
        return self.average.module


def train(args: argparse.Namespace, objective: Objective, batches: Batches, clock: Clock, best: Best) -> dict[str, Any]:
    """Train in place and return `steps` and the last reported `losses`."""
    parameters = list(objective.parameters())
    optimizer = build_optimizer(parameters, args.lr, args.decay)
    run = torch.compile(objective) if args.compile else objective
    objective.train()
    step, losses = 0, {}
    with tqdm(desc="pretraining", unit="step", total=args.steps) as bar:
        while (progress := clock.progress(step)) < 1:
            set_rate(optimizer, args.lr, (step + 1) / WARM_STEPS, progress, FLOOR)
            parts = run(batches.draw())
            optimizer.zero_grad()
            parts["total"].backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            best.average.update_parameters(objective)
            step += 1
            if step % REPORT == 1:
                losses = {name: round(loss.item(), 4) for name, loss in parts.items()}
                bar.set_postfix(losses)
            best.at(step, min(clock.progress(step), 0.999))
            bar.update()
    best.at(step, 1.0)
    return {"steps": step, "losses": losses}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Pretrain by the command line's settings, save the backbone and return its record."""
    started, args = time.perf_counter(), parse_arguments(argv)
    check_folder(args.out)
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is {args.steps}: at least one step is needed.")
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    processor = build_processor(SIZE, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    selection = Selection(args.select, processor) if args.select else None
    pictures, left_out = read_pictures(args)
    batches = Batches(pictures.to(device), args.batch, args.edge_share, args.drawing_share, args.seed)
    batches.taught, sentence = teach(args.teacher, pictures.photos, device)
    print(sentence)
    tokenizer = build_tokenizer(words_of(pictures.names))
    width = 0 if batches.taught is None else batches.taught.shape[1]
    model = build_model(tokenizer)
    objective = Objective(model, tokenizer, pictures.names, batches.edges, batches.drawings, width).to(device)
    best = Best(AveragedModel(objective, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE)), selection)
    trained = train(args, objective, batches, Clock(started, args.minutes, args.steps), best)
    chosen = best.objective().eval()
    record = {
        "settings": settings_of(args),
        "teacher": None if batches.taught is None else Path(args.teacher).name,
        "data": batches.about() | {"left_out": left_out},
        **trained,
        "repeats": batches.repeats(trained["steps"]),
        "measured": {key: round(value, 4) for key, value in name_accuracy(chosen, batches).items()},
        "select": selection and selection.about() | {"history": best.history},
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions(device),
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "names": pictures.names,
    }
    save_backbone(args.out, chosen.model.half().cpu(), tokenizer, processor, record)
    print(json.dumps({key: value for key, value in record.items() if key != "names"}, indent=2))
    return record


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings for the record, without paths: those are of one machine."""
    paths = ("packed", "photos", "drawings", "names", "select", "out", "teacher", "leave_out")
    return {key: value for key, value in vars(args).items() if key not in paths}


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions of what it was trained with, and on which device."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": name,
    }


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"small_clip: {' '.join(str(error).split())}")
