"""Run a packaged model in every tool that people use, and record how far its embeddings are from the model's own.

    python -m benchmarks.ecosystem            # every tool, small: some minutes
    python -m benchmarks.ecosystem --speed    # also time ONNX Runtime beside PyTorch, at ViT-B/32's size on one thread

The results are benchmarks/results/ecosystem.json and a table in docs/loading.md. The exit status is 1 if a tool gave
something else than the model, or raised an error. A tool that is not installed is recorded as that.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.timing import Timer, summary
from modeling_splip.common.files import write_json
from modeling_splip.configuration_retriever import MODALITIES
from modeling_splip.loading import load_retriever

RESULT = Path(__file__).parent / "results" / "ecosystem.json"
MODEL = "small_splip"
EXACT, CLOSE = 0.0, 1e-5  # what a difference may be: the same kernels, or others
ELSEWHERE = """
import json, sys
for name in ("modeling_splip", "datasets_scripts"):
    sys.modules[name] = None  # as if it were not installed
import torch
torch.set_num_threads(1)
from transformers import AutoModel, AutoProcessor

folder, *files = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
for modality, paths in zip(("sketch", "photo"), (files[:2], files[2:])):
    pixels = processor(images=paths, modality=modality)["pixel_values"]
    print(json.dumps(model.encode(pixels, modality).tolist()))
"""


class Case:
    """The model, images of both modalities, and what their embeddings are."""

    def __init__(self, folder: Path):
        self.folder = folder
        torch.set_num_threads(1)  # sums in one order, here and in the process that has no splip
        self.model, self.processor = load_retriever(MODEL)
        self.images = {"sketch": [_drawing(n) for n in range(2)], "photo": [_picture(n) for n in range(2)]}
        self.pixels = {m: self.processor(images=self.images[m], modality=m)["pixel_values"] for m in MODALITIES}
        self.expected = self.embeddings(self.model.encode)
        self.saved = folder / "model"
        self.model.save_pretrained(self.saved, full=True)
        self.processor.save_pretrained(self.saved)

    def embeddings(self, encode: Callable[[torch.Tensor, str], torch.Tensor]) -> dict[str, np.ndarray]:
        """Return the embeddings of the images of each modality, (B, D)."""
        return {modality: encode(self.pixels[modality], modality).numpy() for modality in MODALITIES}

    def difference(self, found: Any) -> float:
        """Return the largest difference from the model's own embeddings; `found` is an encoder, or embeddings."""
        found = self.embeddings(found) if callable(found) else found
        return max(float(np.abs(np.asarray(found[m]) - self.expected[m]).max()) for m in found)


def _drawing(number: int) -> Image.Image:
    image = Image.new("RGB", (90, 70), "white")
    ImageDraw.Draw(image).polygon([(9, 60), (40 + 9 * number, 8), (80, 55)], outline="black", width=2)
    return image


def _picture(number: int) -> Image.Image:
    image = Image.fromarray(np.random.default_rng(number).integers(60, 200, (70, 100, 3), np.uint8))
    ImageDraw.Draw(image).ellipse([15, 15, 60, 50], fill=(200, 60 * number, 30))
    return image


def own_class(case: Case) -> float:
    case.model.save_pretrained(case.folder / "adapters")
    return case.difference(type(case.model).from_pretrained(case.folder / "adapters").encode)


def shards(case: Case) -> float:
    case.model.save_pretrained(case.folder / "shards", full=True, max_shard_size="5MB")
    return case.difference(type(case.model).from_pretrained(case.folder / "shards").encode)


def auto_classes(case: Case) -> float:
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(case.saved, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(case.saved, trust_remote_code=False)
    found = {}
    for modality in MODALITIES:
        inputs = processor(images=case.images[modality], modality=modality)
        found[modality] = model(**inputs).embeds.detach().numpy()
    return case.difference(found)


def remote_code(case: Case) -> float:
    files = []
    for modality in MODALITIES:
        for number, image in enumerate(case.images[modality]):
            files.append(str(case.folder / f"{modality}{number}.png"))
            image.save(files[-1])
    environment = os.environ | {"HF_MODULES_CACHE": str(case.folder / "modules")}
    words = [sys.executable, "-I", "-c", ELSEWHERE, str(case.saved), *files]
    done = subprocess.run(words, env=environment, cwd=case.folder, capture_output=True, text=True, check=True)
    lines = map(json.loads, done.stdout.splitlines()[-2:])
    return case.difference(dict(zip(MODALITIES, lines, strict=True)))


def pipeline(case: Case) -> float:
    from transformers import pipeline

    extract = pipeline("image-feature-extraction", model=case.model, image_processor=case.processor)
    return case.difference({"photo": [np.ravel(extract(image)) for image in case.images["photo"]]})


def eager(case: Case) -> float:
    return case.difference(type(case.model).from_pretrained(case.saved, attn_implementation="eager").encode)


def lora(case: Case) -> float:
    """Train a LoRA a little, save it, load it: what is compared is the trained model."""
    settings = {"peft_type": "LORA", "r": 2, "target_modules": r".*vision_model.*(q_proj|v_proj)"}
    model = type(case.model).from_clip("small_clip", ["cup", "ant"], conditioning="domain", peft=settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    for modality in MODALITIES:
        model.set_domain_mean(modality, case.model.domain_mean[MODALITIES.index(modality)])
    model.save_pretrained(case.folder / "lora")
    loaded, own = type(model).from_pretrained(case.folder / "lora"), case.embeddings(model.encode)
    return max(float(np.abs(value - own[m]).max()) for m, value in case.embeddings(loaded.encode).items())


def peft_export(case: Case) -> float:
    """LayerNorms alone, which is what PEFT's form holds."""
    from peft import PeftModel
    from torch.nn.functional import normalize
    from transformers import CLIPModel

    from modeling_splip.clip_base import resolve_base
    from modeling_splip.modeling_clip_at import ClipAtModel
    from modeling_splip.sharing.peft_export import export_peft

    model = ClipAtModel.from_clip("small_clip", prompts=0, share_layer_norms=True)
    with torch.no_grad():
        for parameter in model.layer_norm_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    export_peft(model, case.folder)
    base = CLIPModel.from_pretrained(resolve_base("small_clip"), dtype=torch.float32)  # it is stored in half precision
    clip = PeftModel.from_pretrained(base, case.folder, subfolder="peft")
    pixels = case.pixels["photo"]
    with torch.no_grad():
        found = normalize(clip.get_image_features(pixels).pooler_output, dim=-1)
    return float((found - model.encode(pixels, "photo")).abs().max())


def disk_offload(case: Case) -> float:
    from accelerate import disk_offload

    model = type(case.model).from_pretrained(case.saved)
    disk_offload(model, str(case.folder / "offloaded"), execution_device=torch.device("cpu"))
    return case.difference(model.encode)


def device_map(case: Case) -> float:
    kwargs = {"device_map": {"": "disk"}, "offload_folder": str(case.folder / "offload")}
    return case.difference(type(case.model).from_pretrained(case.saved, **kwargs).encode)


@torch.no_grad()
def torch_export(case: Case) -> float:
    found = {}
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}, "modality": None}
    for modality in MODALITIES:
        one = torch.cat([case.pixels[modality]] * 2)  # another batch size than the one asked for
        program = torch.export.export(case.model, (one,), {"modality": modality}, dynamic_shapes=shapes)
        found[modality] = program.module()(case.pixels[modality], modality=modality).embeds.numpy()
    return case.difference(found)


@torch.no_grad()
def torch_compile(case: Case) -> float:
    compiled = torch.compile(case.model.fold(), backend="aot_eager")
    return case.difference(lambda pixels, modality: compiled(pixels, modality).embeds)


def onnx_runtime(case: Case) -> float:
    from modeling_splip.sharing.onnx_export import export_onnx

    export_onnx(case.model, case.processor, case.folder / "model.onnx")
    model, processor = load_retriever(str(case.folder / "model.onnx"))
    pixels = {m: processor(images=case.images[m], modality=m)["pixel_values"] for m in MODALITIES}
    return case.difference({m: model.encode(pixels[m], m).numpy() for m in MODALITIES})


def sentence_transformers(case: Case) -> float:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(case.saved), trust_remote_code=True, device="cpu")
    encode = {"sketch": model.encode_query, "photo": model.encode_document}
    return case.difference({m: encode[m](case.images[m]) for m in MODALITIES})


def safetensors(case: Case) -> float:
    from safetensors.torch import load_file

    state = case.model.state_dict()
    stored = load_file(case.saved / "model.safetensors")
    return max(float((tensor - state[name]).abs().max()) for name, tensor in stored.items())


def datasets(case: Case) -> float:
    """A map over a dataset, and its FAISS index asked for the embeddings that it stores."""
    from datasets import Dataset

    rows = Dataset.from_dict({"pixels": case.pixels["photo"].numpy()}).with_format("torch")
    rows = rows.map(lambda batch: {"embeds": case.model.encode(batch["pixels"], "photo").numpy()}, batched=True)
    rows = rows.with_format("numpy").add_faiss_index("embeds")
    _, found = rows.get_nearest_examples("embeds", case.expected["photo"][0], k=1)
    nearest = float(np.abs(found["embeds"][0] - case.expected["photo"][0]).max())
    return max(case.difference({"photo": rows["embeds"][:]}), nearest)


def scikit_learn(case: Case) -> float:
    """mAP@all of ties and all, of random embeddings."""
    from sklearn.metrics import average_precision_score

    from modeling_splip.metrics.by_class import metrics_from_scores

    rng = np.random.default_rng(0)
    scores, queries, photos = rng.integers(0, 9, (20, 60)) / 8, rng.integers(0, 4, 20), rng.integers(0, 4, 60)
    own = metrics_from_scores(scores, queries, photos)["metrics"]["map_all"]
    theirs = np.mean([average_precision_score(photos == q, row) for q, row in zip(queries, scores, strict=True)])
    return abs(float(own - theirs))


def evaluate(case: Case) -> float:
    import evaluate

    from modeling_splip.metrics.by_class import metrics_from_scores

    folder = Path(__file__).parents[1] / "modeling_splip" / "evaluation" / "sbir_retrieval"
    rng = np.random.default_rng(0)
    scores, queries, photos = rng.random((20, 60)), rng.integers(0, 4, 20), rng.integers(0, 4, 60)
    metric = evaluate.load(str(folder), "scores", cache_dir=str(case.folder / "metrics"))
    found = metric.compute(predictions=scores, references=queries, gallery_labels=photos)["map_all"]
    return abs(float(found - metrics_from_scores(scores, queries, photos)["metrics"]["map_all"]))


def faiss(case: Case) -> float:
    from modeling_splip.search.gallery import Gallery

    folder = case.folder / "photos"
    folder.mkdir()
    for number, image in enumerate(case.images["photo"]):
        image.save(folder / f"{number}.png")
    gallery = Gallery.build(folder, case.model, case.processor, case.folder / "gallery", progress=False)
    found = gallery.search(case.images["sketch"][0], k=2)
    wanted = np.sort(case.expected["photo"] @ case.expected["sketch"][0])[::-1]
    return float(np.abs(np.array([result.score for result in found]) - wanted).max())


def gradio(case: Case) -> float:
    """A picture that passed through an Image component comes out with the same pixels."""
    import gradio

    with gradio.Blocks():
        component = gradio.Image(type="pil", format="png")
    payload = component.postprocess(case.images["sketch"][0])
    image = component.preprocess(payload)
    pixels = case.processor(images=[image], modality="sketch")["pixel_values"]
    found = case.model.encode(pixels, "sketch").numpy()
    return float(np.abs(found - case.expected["sketch"][:1]).max())


class Row(NamedTuple):
    """A row of the table: a distribution, what is done with it, how large a difference may be, and the function."""

    tool: str
    what: str
    limit: float
    run: Callable[[Case], float]


ROWS = (
    Row("transformers", "`from_pretrained` of the own class, adapters", EXACT, own_class),
    Row("transformers", "full checkpoint in shards", EXACT, shards),
    Row("transformers", "`AutoModel` and `AutoProcessor`, `model(**processor(...))`", EXACT, auto_classes),
    Row("transformers", "`trust_remote_code=True` where splip is not installed", EXACT, remote_code),
    Row("transformers", '`pipeline("image-feature-extraction")`, photos', CLOSE, pipeline),
    Row("transformers", '`attn_implementation="eager"`', CLOSE, eager),
    Row("peft", "LoRA in the vision tower, saved and loaded", EXACT, lora),
    Row("peft", "`PeftModel` loads exported LayerNorms", CLOSE, peft_export),
    Row("accelerate", "`disk_offload`", EXACT, disk_offload),
    Row("accelerate", '`device_map={"": "disk"}`', EXACT, device_map),
    Row("torch", "`torch.export` with a dynamic batch", CLOSE, torch_export),
    Row("torch", "`torch.compile` of the folded model", CLOSE, torch_compile),
    Row("onnxruntime", "the file of `splip export`, loaded by its name", CLOSE, onnx_runtime),
    Row("sentence-transformers", "`encode_query`, `encode_document`", EXACT, sentence_transformers),
    Row("safetensors", "`load_file` of a full checkpoint: the weights", EXACT, safetensors),
    Row("datasets", "`map`, `add_faiss_index`, `get_nearest_examples`", CLOSE, datasets),
    Row("faiss-cpu", "scores of a gallery", CLOSE, faiss),
    Row("scikit-learn", "`average_precision_score` and mAP@all, with ties", CLOSE, scikit_learn),
    Row("evaluate", "`evaluate.load` of the metric: mAP@all", EXACT, evaluate),
    Row("gradio", "a sketch through an `Image` component", CLOSE, gradio),
)


def run_row(row: Row, case: Case) -> dict[str, Any]:
    """Return the record of a row; a tool that raises does not end the run."""
    try:
        record: dict[str, Any] = {"tool": row.tool, "version": metadata.version(row.tool), "what": row.what}
    except metadata.PackageNotFoundError:
        return {"tool": row.tool, "version": None, "what": row.what, "limit": row.limit, "difference": None}
    record |= {"limit": row.limit, "difference": None}
    try:
        record["difference"] = row.run(case)
    except Exception as error:
        record["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return record


def failed(record: dict[str, Any]) -> bool:
    """Return whether a tool raised, or gave something else than the model."""
    return "error" in record or (record["version"] is not None and not record["difference"] <= record["limit"])


def speed(folder: Path, shape: str = "B/32", repeats: int = 15) -> dict[str, Any]:
    """Time a folded model in PyTorch and in ONNX Runtime on one thread of the CPU, one image and 16 at a time."""
    from benchmarks.speed_cases import build
    from modeling_splip.processing_splip import SplipProcessor
    from modeling_splip.sharing.onnx_export import export_onnx

    torch.set_num_threads(1)
    timer, model = Timer("cpu", 1), build(shape, "domain", "cpu").fold()
    export_onnx(model, SplipProcessor.from_clip("small_clip"), folder / "speed.onnx")
    written, _ = load_retriever(str(folder / "speed.onnx"))
    side, times = model.config.clip_config.vision_config.image_size, {}
    for batch in (1, 16):
        pixels = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        cases = {
            "PyTorch": lambda pixels=pixels: model.encode(pixels, "sketch"),
            "ONNX Runtime": lambda pixels=pixels: written.encode(pixels, "sketch"),
        }
        times[str(batch)] = summary(timer.interleave(f"batch {batch}", cases, repeats), batch)
    return {
        "shape": shape,
        "processor": platform.processor() or platform.machine(),
        "clock": timer.clock_name,
        "versions": {name: metadata.version(name) for name in ("torch", "onnxruntime")},
        "milliseconds_an_image": times,
    }


def main(argv: list[str] | None = None) -> int:
    """Run all rows, write the result, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speed", action="store_true", help="also time ONNX Runtime beside PyTorch")
    parser.add_argument("--out", type=Path, default=RESULT, help="default: benchmarks/results/ecosystem.json")
    args = parser.parse_args(argv)
    before = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        records = []
        for row in ROWS:
            records.append(run_row(row, case))
            print(f"{row.tool}, {row.what}: {records[-1].get('error', records[-1]['difference'])}", flush=True)
        result: dict[str, Any] = {
            "model": MODEL,
            "fingerprint": case.model.fingerprint(case.processor),
            "python": platform.python_version(),
            "rows": records,
        }
        if args.speed or "speed" in before:
            result["speed"] = speed(Path(folder)) if args.speed else before["speed"]
    write_json(args.out, result)
    return int(any(map(failed, records)))


if __name__ == "__main__":
    sys.exit(main())
