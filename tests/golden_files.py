"""Write the golden checkpoints: `python tests/golden_files.py NAME ...`, each into `tests/golden/NAME`, once.

A golden checkpoint is one that users may have: it never changes, and every later version must load it and give the
outputs beside it. So this refuses to write where something is; tests/golden/README.md says when a new one is made.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import save_clip, tiny_config
from torch import Tensor

from modeling_splip.modeling_base import RetrievalModel
from modeling_splip.modeling_retriever import Retriever
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training.methods import METHODS

GOLDEN = Path(__file__).parent / "golden"
BASE = "base"
CLASSES = ["cup", "hot air balloon", "zebra"]
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ".*vision_model.*(q_proj|v_proj)"}


def checkpoint(method: str, form: str = "adapter", **settings) -> Callable[[], tuple[RetrievalModel, bool]]:
    """Return what makes a model with its trained parts moved from the start, and tells whether it is saved in full."""

    def make() -> tuple[RetrievalModel, bool]:
        torch.manual_seed(7)
        model: Retriever = METHODS[method].model.from_clip(BASE, CLASSES, **settings)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        if settings.get("conditioning") == "domain":
            for modality in ("sketch", "photo"):
                model.set_domain_mean(modality, torch.randn(model.domain_mean.shape[1]))
        return (model.fold() if form == "folded" else model.eval()), form == "full"

    return make


CHECKPOINTS = {
    "splip": checkpoint("splip", bottleneck=16),
    "splip-full": checkpoint("splip", "full", bottleneck=16),
    "splip-domain": checkpoint("splip", bottleneck=16, conditioning="domain", share_layer_norms=False),
    "splip-folded": checkpoint("splip", "folded", bottleneck=16, conditioning="domain", share_layer_norms=False),
    "splip-lora": checkpoint("splip", bottleneck=16, layer_norms="none", peft=LORA),
    "splip-readings": checkpoint(
        "splip", bottleneck=16, b_t_input="patches", b_v_input="template", template_sos=False, w_mean="classes"
    ),
    "clip_at": checkpoint("clip_at"),
    "clip_at-text": checkpoint("clip_at", layer_norms="both"),
    "clip_at-full": checkpoint("clip_at", "full"),
    "cross_align": checkpoint("cross_align"),
    "cross_align-full": checkpoint("cross_align", "full"),
    "cross_align-towers": checkpoint("cross_align", layer_norms="none", peft=LORA, share_peft=False),
}


def picture() -> Image.Image:
    """Return a picture of 24 x 16 pixels that no random generator has a part in."""
    values = [(7 * x * y + 31 * c * x + 13 * y) % 256 for y in range(16) for x in range(24) for c in range(3)]
    return Image.frombytes("RGB", (24, 16), bytes(values))


@torch.no_grad()
def outputs(model: RetrievalModel, processor: SplipProcessor) -> dict[str, Tensor]:
    """Return what a version must give again: pixels and embeddings of both modalities, and what a method adds."""
    found = {}
    for modality in ("sketch", "photo"):
        pixels = processor(images=picture(), modality=modality)["pixel_values"]  # (1, 3, H, W)
        found[f"pixels {modality}"] = pixels
        found[f"embeds {modality}"] = model.encode(pixels, modality)
        if isinstance(model, Retriever):
            found[f"class_embeds {modality}"] = model(pixels, modality).class_embeds
    if hasattr(model, "relation"):
        tokens = [model.encode_tokens(found[f"pixels {m}"], m).float() for m in ("sketch", "photo")]
        found["relation"] = model.relation(*tokens)
    return {name: value.contiguous() for name, value in found.items()}


def write(name: str) -> None:
    """Write one checkpoint, its processor and its outputs."""
    folder = GOLDEN / name
    if folder.exists():
        sys.exit(f"{name} is there already; golden checkpoints never change (tests/golden/README.md).")
    model, full = CHECKPOINTS[name]()
    processor = SplipProcessor.from_clip(BASE)
    for part, settings in ((model, {"full": True} if full else {}), (processor, {})):
        part.save_pretrained(folder, **settings)
    for code in folder.glob("*.py"):
        code.unlink()  # a later version brings its own
    save_file(outputs(model, processor), folder / "outputs.safetensors")
    (folder / "fingerprint.txt").write_text(model.fingerprint(processor) + "\n", "utf-8")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    os.chdir(GOLDEN)  # the base's name in the configurations is then no path of this machine
    if not Path(BASE).exists():
        save_clip(tiny_config(), Path(BASE))
    for wanted in sys.argv[1:] or CHECKPOINTS:
        write(wanted)
