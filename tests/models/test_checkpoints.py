"""Every form of every method comes back as it was: here, elsewhere without the package, and from the Hub's cache."""

import ast
import json
import logging
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, save_clip, tiny_config
from launch import ENVIRONMENT, ROOT, run
from method_models import CASES, ELSEWHERE, MODALITIES, build
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoProcessor, CLIPModel

from modeling_splip.loading import load_retriever
from modeling_splip.modeling_base import RetrievalModel
from modeling_splip.modeling_retriever import Retriever
from modeling_splip.modeling_splip_encoder import SplipEncoder
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.training.methods import METHODS


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]))
def saved(request, tiny_clip, tmp_path_factory) -> tuple[Retriever, dict[str, Path]]:
    """A model and the folder of each of its forms, with the processor beside it."""
    name, settings = request.param
    model, folder = build(name, settings, tiny_clip), tmp_path_factory.mktemp(name)
    forms: dict[str, RetrievalModel] = {"adapter": model, "full": model}
    if settings.get("conditioning") == "domain":
        forms["folded"] = model.fold()
    for form, one in forms.items():
        one.save_pretrained(folder / form, **({"full": True} if form == "full" else {}))
        SplipProcessor.from_clip(tiny_clip).save_pretrained(folder / form)
    return model, {form: folder / form for form in forms}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_every_form_is_exact(saved, images):
    model, forms = saved
    for folder in forms.values():
        loaded = AutoModel.from_pretrained(folder)
        for modality in MODALITIES:
            assert torch.equal(loaded.encode(images, modality), model.encode(images, modality)), folder.name
        if folder.name != "folded":
            ours, theirs = (each(images, "sketch").class_embeds for each in (model, loaded))
            assert torch.equal(ours, theirs)


def test_nothing_is_missing_or_unexpected(saved, caplog):
    _, forms = saved
    logging.getLogger("transformers").propagate = True
    for folder in forms.values():
        with caplog.at_level(logging.WARNING):
            _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert not caplog.records


def test_what_a_form_holds(saved):
    model, forms = saved
    names = {form: set(load_file(folder / "model.safetensors")) for form, folder in forms.items()}
    assert names["adapter"] == set(model.adapter_state()) and not any(n.startswith("clip.") for n in names["adapter"])
    assert names["full"] == set(model.state_dict())
    for folder in forms.values():
        assert not {path.suffix for path in folder.iterdir()} - {".json", ".py", ".safetensors"}
        # At the root it would make AutoModel load the base CLIP instead.
        assert not (folder / "adapter_config.json").exists()
    if "folded" in forms:
        assert not any("text" in name or name.startswith(("b_", "clip.")) for name in names["folded"])


def test_ready_to_encode_right_after_loading(saved):
    model, forms = saved
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains and not any(name.startswith("clip.") for name in trains)
    for form, folder in forms.items():
        loaded = AutoModel.from_pretrained(folder)
        found = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
        assert found == (set() if form == "folded" else trains)
        assert not any(module.training for module in loaded.modules())
        assert loaded.name_or_path == str(folder)
        assert loaded.config.class_names == CLASSES and loaded.config.projection_dim == 16


def test_the_solver_is_never_exported(saved, tiny_clip, tmp_path):
    model, forms = saved
    method = METHODS[model.config.model_type]
    objective = method.objective(AutoModel.from_pretrained(forms["adapter"]))
    extra = [name for name in objective.state_dict() if not name.startswith("model.")]
    objective.model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.adapter_state())
    assert not {name.split(".")[0] for name in extra} & {name.split(".")[0] for name in model.state_dict()}


def test_one_fingerprint_for_all_forms(saved, tiny_clip):
    model, forms = saved
    processor = SplipProcessor.from_clip(tiny_clip)
    for folder in forms.values():
        loaded = AutoModel.from_pretrained(folder)
        assert loaded.fingerprint(processor) == model.fingerprint(processor)
        assert loaded.fingerprint(AutoProcessor.from_pretrained(folder)) == model.fingerprint(processor)
    changed = AutoModel.from_pretrained(forms["adapter"])
    with torch.no_grad():
        next(parameter for parameter in changed.parameters() if parameter.requires_grad).add_(1e-3)
    assert changed.fingerprint(processor) != model.fingerprint(processor)
    other = SplipProcessor.from_clip(tiny_clip)
    other.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert model.fingerprint(other) != model.fingerprint(processor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_and_devices(saved, images, dtype):
    model, forms = saved
    for folder in forms.values():
        loaded = AutoModel.from_pretrained(folder, dtype=dtype, device_map="cpu")
        tensors = [*loaded.parameters(), *loaded.buffers()]
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {dtype}
        embeds = loaded.encode(images.to(dtype), "sketch")
        assert embeds.dtype == torch.float32
        assert torch.allclose(embeds, model.encode(images, "sketch"), atol=0.1 if dtype is torch.bfloat16 else 1e-5)


def test_a_base_stored_in_half_precision(tiny_clip, tmp_path, images):
    base = shutil.copytree(tiny_clip, tmp_path / "half")
    CLIPModel.from_pretrained(tiny_clip).half().save_pretrained(base)
    for name, settings in CASES:
        model = build(name, settings, str(base))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        model.save_pretrained(tmp_path / name)
        loaded = AutoModel.from_pretrained(tmp_path / name)
        assert torch.equal(loaded.encode(images, "photo"), model.encode(images, "photo"))


def test_another_base_is_refused_by_name(saved, tiny_clip, tmp_path, images):
    model, forms = saved
    moved = shutil.copytree(tiny_clip, tmp_path / "moved")
    loaded = AutoModel.from_pretrained(forms["adapter"], base_model=str(moved))
    assert torch.equal(loaded.encode(images, "sketch"), model.encode(images, "sketch"))
    assert loaded.config.base_model == str(moved)

    wider = save_clip(tiny_config(hidden_size=64, intermediate_size=64), tmp_path / "wider")
    with pytest.raises(ValueError, match=r"wider' has vision_config.hidden_size=64, but .* on 32: pass base_model="):
        AutoModel.from_pretrained(forms["adapter"], base_model=wider)
    other = CLIPModel.from_pretrained(tiny_clip)
    with torch.no_grad():
        other.logit_scale.add_(1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"other' has other weights \(fingerprint [0-9a-f]{16}\) than the one"):
        AutoModel.from_pretrained(forms["adapter"], base_model=str(tmp_path / "other"))
    with pytest.raises(OSError, match="Base CLIP '/no/such/clip' is no local folder and not on the Hub"):
        AutoModel.from_pretrained(forms["adapter"], base_model="/no/such/clip")
    # The full form needs no base.
    config = json.loads((forms["full"] / "config.json").read_text())
    homeless = shutil.copytree(forms["full"], tmp_path / "homeless")
    (homeless / "config.json").write_text(json.dumps(config | {"base_model": "/no/such/clip"}))
    assert torch.equal(AutoModel.from_pretrained(homeless).encode(images, "sketch"), model.encode(images, "sketch"))


def needed_code(folder: Path) -> set[str]:
    """Return the files that the entry points of a saved folder import, and what these import."""
    entries = set()
    for name in ("config.json", "processor_config.json"):
        entries |= {value.split(".")[0] for value in json.loads((folder / name).read_text())["auto_map"].values()}
    todo, found = list(entries), set()
    while todo:
        module = todo.pop()
        found.add(f"{module}.py")
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level and f"{node.module}.py" not in found:
                todo.append(node.module)
    return found


def test_the_folder_holds_exactly_the_code_that_it_needs(saved):
    _, forms = saved
    for folder in forms.values():
        assert {path.name for path in folder.glob("*.py")} == needed_code(folder)
        for path in folder.glob("*.py"):
            assert path.read_bytes() == (ROOT / "modeling_splip" / path.name).read_bytes()
        # The folded encoder needs neither the model that it was folded from nor its class prompts.
        assert (folder.name == "folded") == (not (folder / "class_prompts.py").exists())


def cache_as_hub(cache: Path, name: str, folder: Path) -> None:
    """Put a folder where huggingface_hub keeps a downloaded repository."""
    repository, commit = cache / f"models--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


def test_elsewhere_without_the_package(tiny_clip, prepared, tmp_path):
    raw = sorted(prepared.parent.parent.glob("raw*"))[0]
    image = raw / "sketch" / "owl" / "owl0-1.png"
    processor = SplipProcessor.from_clip(tiny_clip)
    expected, jobs = [], []

    def job(name, model: RetrievalModel, **options) -> None:
        out = str(tmp_path / f"{len(jobs)}.npy")
        jobs.append({"name": str(name), "options": options, "image": str(image), "out": out})
        embeds = model.encode(processor(images=[image], modality="sketch")["pixel_values"], "sketch")
        expected.append((embeds.numpy(), model.fingerprint(processor)))

    hub = tmp_path / "hub"
    cache_as_hub(hub, "someone/clip", Path(tiny_clip))
    for number, (name, settings) in enumerate(CASES):
        model = build(name, settings, tiny_clip)
        forms = {"adapter": model, "full": model} | ({"folded": model.fold()} if "domain" in settings.values() else {})
        for form, one in forms.items():
            folder = tmp_path / f"{name}{number}-{form}"
            one.save_pretrained(folder, **({"full": True} if form == "full" else {}))
            processor.save_pretrained(folder)
            job(folder, model)
        # By the id of a repository in the Hub's cache, whose base CLIP is another one there.
        model.config.base_model = "someone/clip"
        model.save_pretrained(tmp_path / f"{name}{number}-hub")
        processor.save_pretrained(tmp_path / f"{name}{number}-hub")
        cache_as_hub(hub, f"someone/{name}{number}", tmp_path / f"{name}{number}-hub")
        job(f"someone/{name}{number}", model)
    job(tmp_path / f"{CASES[0][0]}0-hub", build(*CASES[0], tiny_clip), base_model=tiny_clip)

    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    (tmp_path / "elsewhere").mkdir()
    env = ENVIRONMENT | {"HF_HUB_CACHE": str(hub), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(tmp_path / "jobs.json")]
    result = run(command, env=env, cwd=tmp_path / "elsewhere")
    assert result.returncode == 0, result.stderr[-3000:]
    for word in ("warning", "missing", "unexpected", "newly initialized", "falling back"):
        assert word not in result.stderr.lower(), result.stderr
    for one, (embeds, fingerprint), printed in zip(jobs, expected, result.stdout.split(), strict=True):
        assert np.array_equal(np.load(one["out"]), embeds), one["name"]
        assert printed == fingerprint, one["name"]


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_tensors_that_are_missing_or_too_many_are_refused(saved, tmp_path):
    _, forms = saved
    for form, folder in forms.items():
        bad = shutil.copytree(folder, tmp_path / form)
        tensors = load_file(bad / "model.safetensors")
        lost = min(name for name in tensors if not name.startswith("clip."))
        save_file({name: tensor for name, tensor in tensors.items() if name != lost}, bad / "model.safetensors")
        with pytest.raises(ValueError, match=f"lacks 1 tensors of a .*, such as {lost}: save or download"):
            AutoModel.from_pretrained(bad)
        save_file(tensors | {"more": torch.zeros(1)}, bad / "model.safetensors")
        with pytest.raises(ValueError, match=r"holds besides 1 tensors of a .*, such as more: save or download"):
            AutoModel.from_pretrained(bad)
        (bad / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
        with pytest.raises(OSError, match=r"The weights in '.*' are damaged"):
            AutoModel.from_pretrained(bad)


def test_a_class_loads_its_own_kind_only(saved, tiny_clip, tmp_path):
    model, forms = saved
    with pytest.raises(
        ValueError, match=f"is a 'clip' model, and {type(model).__name__} loads '{model.config.model_type}'"
    ):
        type(model).from_pretrained(tiny_clip)
    with pytest.raises(ValueError, match="and SplipEncoder loads 'splip_encoder' ones: use AutoModel"):
        SplipEncoder.from_pretrained(forms["adapter"])
    with pytest.raises(OSError, match=r"has no config\.json: pass what save_pretrained or training wrote"):
        type(model).from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json' is damaged: save or download the model again"):
        type(model).from_pretrained(tmp_path)
    with pytest.raises(OSError, match="'someone/nothing' is no local checkpoint folder, and no configuration"):
        type(model).from_pretrained("someone/nothing")


def test_revision_and_subfolder_hold_for_configuration_weights_and_processor(tiny_clip, images, tmp_path):
    folders = {}
    for number, revision in enumerate(("main", "v1")):
        model = build(*CASES[-1 if number else 0], tiny_clip)
        folders[revision] = tmp_path / "models" / revision
        model.save_pretrained(folders[revision])
        SplipProcessor.from_clip(tiny_clip, invert_sketches=bool(number)).save_pretrained(folders[revision])
        commit = str(number) * 40
        repository = tmp_path / "cache" / "models--someone--both"
        shutil.copytree(folders[revision], repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    for revision in folders:
        expected = AutoModel.from_pretrained(folders[revision])
        ways = {"someone/both": {"revision": revision, "cache_dir": str(tmp_path / "cache")}}
        ways[str(tmp_path / "models")] = {"subfolder": revision}
        for name, options in ways.items():
            model, processor = load_retriever(name, **options)
            assert type(model) is type(expected) and processor.invert_sketches == (
                "true" if revision == "v1" else "false"
            )
            assert torch.equal(model.encode(images, "sketch"), expected.encode(images, "sketch"))
    with pytest.raises(ValueError, match="'clip' takes no dtype"):
        load_retriever("clip", dtype=torch.bfloat16)


def test_the_base_comes_from_the_same_cache(tiny_clip, images, tmp_path):
    model = build(*CASES[0], tiny_clip)
    model.config.base_model = "someone/clip"
    model.save_pretrained(tmp_path / "model")
    cache_as_hub(tmp_path / "cache", "someone/clip", Path(tiny_clip))
    loaded = AutoModel.from_pretrained(tmp_path / "model", cache_dir=str(tmp_path / "cache"))
    assert torch.equal(loaded.encode(images, "sketch"), model.encode(images, "sketch"))


def test_no_pickle_is_opened(saved, tmp_path):
    _, forms = saved
    for form, folder in forms.items():
        bait = shutil.copytree(folder, tmp_path / form)
        (bait / "model.safetensors").unlink()
        for name in ("pytorch_model.bin", "training_args.bin", "model.pt"):
            (bait / name).write_bytes(pickle.dumps({"weight": Bomb(tmp_path / "opened")}))
        with pytest.raises(OSError, match=r"model.safetensors"):
            AutoModel.from_pretrained(bait)
    assert not (tmp_path / "opened").exists()


def test_no_code_of_ours_reads_pickles():
    forbidden = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
    folders = ("modeling_splip", "datasets_scripts", "space", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 30
    for path in [*files, ROOT / "train_accelerate.py"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                # Between the processes of one Ray cluster, which sends pickles itself; no file is read so.
                own = {"pickle"} if path.name == "ray_encode.py" else set()
                assert not {name.partition(".")[0] for name in names} & (forbidden - own), path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "eval", "exec", "yaml.load", "yaml.unsafe_load"), path
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("allow_pickle", "False") == "False", path
                # sentence-transformers loads what this package saved in no other way.
                trusted = called == "SentenceTransformer"
                assert trusted or keywords.get("trust_remote_code", "False") == "False", path
                if called.startswith("Auto") and called.endswith(".from_pretrained"):  # a prompt may be answered
                    assert "trust_remote_code" in keywords or path.name == "sentence_module.py", path


def test_plain_clip_is_a_retriever(tiny_clip, images):
    model, processor = load_retriever(f"clip:{tiny_clip}")
    base = CLIPModel.from_pretrained(tiny_clip).eval()
    features = base.get_image_features(pixel_values=images)
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    expected = nn.functional.normalize(features, dim=-1)
    for modality in MODALITIES:
        assert torch.allclose(model.encode(images, modality), expected, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.parameters()) and processor.tokenizer is not None


def test_the_documented_ways_to_load(tiny_clip, prepared, tmp_path):
    drawing = next(prepared.parent.parent.glob("raw*/sketch/owl/*"))
    model = build(*CASES[0], tiny_clip)
    model.save_pretrained(tmp_path / "model")
    SplipProcessor.from_clip(tiny_clip).save_pretrained(tmp_path / "model")
    photo = next(prepared.parent.parent.glob("raw*/photo/owl/*"))
    places = {
        "MODEL": tmp_path / "model",
        "drawing.png": drawing,
        "photo.jpg": photo,
        "/data/clip-vit-base-patch32": tiny_clip,
    }
    text = (ROOT / "docs" / "loading.md").read_text("utf-8")
    # The forms that other tools read have tests of their own.
    text = re.sub(r"\n## [^\n]*(?:ONNX|sentence-transformers|torch\.export).*?(?=\n## )", "\n", text, flags=re.DOTALL)
    snippets = re.findall("```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    for snippet in snippets:
        for name, place in places.items():
            snippet = snippet.replace(f'"{name}"', repr(str(place)))
        exec(snippet, names)
    assert len(snippets) == 7 and names["embeds"].shape == (1, 16)
    assert (tmp_path / "model" / "peft" / "adapter_config.json").is_file() and names["clip"].peft_config
    assert torch.equal(names["model"].encode(names["pixels"], "sketch"), model.encode(names["pixels"], "sketch"))
    assert names["processor"].invert_sketches == "true"
    assert torch.tensor(names["photos"]).shape == torch.tensor(names["sketches"]).shape == (1, 16)


def test_the_packaged_base(tmp_path):
    model = build(*CASES[0], "mini_clip")
    model.save_pretrained(tmp_path)
    SplipProcessor.from_clip("mini_clip").save_pretrained(tmp_path)
    loaded, processor = load_retriever(str(tmp_path))
    size = processor.image_settings()["crop_size"]["height"]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded.encode(pixels, "sketch"), model.encode(pixels, "sketch"))
    assert loaded.fingerprint(processor) == model.fingerprint(processor)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_adapters_of_a_vit_b32_are_small(name, settings):
    with torch.device("meta"):
        model = METHODS[name].model(METHODS[name].model.config_class(class_names=CLASSES, **settings))
    assert model.config.clip_config.vision_config.hidden_size == 768  # ViT-B/32 is the default
    assert sum(tensor.nbytes for tensor in model.adapter_state().values()) < 25e6
