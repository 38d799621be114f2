"""The base CLIP: by folder, by Hub id, or packaged; found by code from the Hub too, where the package is installed."""

import json
import shutil
import sys
from pathlib import Path

import launch
import pytest
from conftest import CLASSES
from safetensors.torch import load_file, save_file

import modeling_splip
from modeling_splip import clip_base
from modeling_splip.clip_base import load_clip, packaged_folder, resolve_base
from modeling_splip.loading import load_retriever
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.processing_splip import SplipProcessor

PRETRAINED = Path(modeling_splip.__file__).parent / "pretrained"


def test_every_packaged_folder_is_a_name():
    names = [path.name for path in PRETRAINED.iterdir() if path.is_dir()]
    assert "mini_clip" in names
    for name in names:
        assert packaged_folder(name) == PRETRAINED / name and resolve_base(name) == str(PRETRAINED / name)


@pytest.mark.parametrize("name", ["", ".", "..", "mini_clip/..", "mini_clip/config.json", "openai/clip", "nothing"])
def test_other_names_stay_as_they_are(name):
    assert packaged_folder(name) is None and resolve_base(name) == name


def test_absolute_paths_stay_as_they_are(tiny_clip):
    assert packaged_folder(tiny_clip) is None and resolve_base(Path(tiny_clip)) == tiny_clip


def test_a_new_folder_is_a_name_at_once(tmp_path, monkeypatch):
    """As another packaged backbone, found where the package lies and nowhere else."""
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(clip_base.importlib.util, "find_spec", lambda name: spec)
    shutil.copytree(PRETRAINED / "mini_clip", tmp_path / "pretrained" / "other_clip")
    assert load_clip("other_clip").config.projection_dim == load_clip(PRETRAINED / "mini_clip").config.projection_dim


def test_without_the_package_its_names_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(clip_base.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="'mini_clip' ships with the splip package, which is not installed"):
        load_clip("mini_clip")
    (tmp_path / "mini_clip").mkdir()  # a copy of it
    assert resolve_base("mini_clip") == "mini_clip"
    assert resolve_base("openai/clip-vit-base-patch32") == "openai/clip-vit-base-patch32"


def test_a_base_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"Base CLIP 'nobody/nothing' is no local folder and not on the Hub"):
        load_clip("nobody/nothing")
    with pytest.raises(
        OSError, match=r"Base CLIP '.*' has no CLIP weights in safetensors: check the name, or pass base_model="
    ):
        SplipModel.from_clip(str(tmp_path), CLASSES)


def test_a_packaged_model_loads_by_its_name(tiny_clip, tmp_path, monkeypatch):
    """As `small_splip` will; a packaged backbone is a plain CLIP."""
    model = SplipModel.from_clip(tiny_clip, CLASSES)
    model.save_pretrained(tmp_path / "pretrained" / "some_model")
    SplipProcessor.from_clip(tiny_clip).save_pretrained(tmp_path / "pretrained" / "some_model")
    with monkeypatch.context() as patch:
        patch.setattr("modeling_splip.loading.by_name.packaged_folder", lambda name: tmp_path / "pretrained" / name)
        assert load_retriever("some_model")[0].fingerprint() == model.fingerprint()
    with pytest.raises(ValueError, match=r"'mini_clip' is a 'clip' model, .* a plain CLIP is 'clip:mini_clip'"):
        load_retriever("mini_clip")


REMOTE = """
import sys
import torch
torch.set_num_threads(1)
from transformers import AutoModel, AutoProcessor

if sys.argv[2] == "not installed":
    sys.modules["modeling_splip"] = None
try:
    model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
except OSError as error:
    print(error)
    sys.exit()
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
assert "modeling_splip" not in sys.modules
print(model.fingerprint(processor))
"""


def test_code_from_the_hub_finds_the_packaged_base(tmp_path):
    model, processor = SplipModel.from_clip("mini_clip", CLASSES), SplipProcessor.from_clip("mini_clip")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["base_model"] == "mini_clip"
    env = launch.ENVIRONMENT | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    (tmp_path / "elsewhere").mkdir()
    printed = {}
    for state in ("installed", "not installed"):
        command = [sys.executable, "-c", REMOTE, str(tmp_path / "model"), state]
        result = launch.run(command, env=env, cwd=tmp_path / "elsewhere")
        assert result.returncode == 0, result.stderr[-3000:]
        printed[state] = result.stdout.strip()
    assert printed["installed"] == model.fingerprint(processor)
    assert printed["not installed"] == (
        "The base CLIP 'mini_clip' ships with the splip package, which is not installed here: install it, or pass "
        "base_model= with the path of a copy."
    )


def lacking(base: str, folder: Path, word: str) -> str:
    """Return a copy of a CLIP without the tensors whose names hold a word."""
    shutil.copytree(base, folder)
    tensors = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if word not in name}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("word", ["text_projection", "vision_model"])
def test_a_base_that_lacks_tensors_is_never_filled_at_random(tiny_clip, tmp_path, word):
    base = lacking(tiny_clip, tmp_path / "lacking", word)
    for load in (
        lambda: load_retriever(f"clip:{base}"),
        lambda: load_retriever(f"clip-text:{base}", CLASSES),
        lambda: SplipModel.from_clip(base, CLASSES),
    ):
        with pytest.raises(ValueError, match=rf"Base CLIP '.*lacking' lacks \d+ tensors of a CLIP, such as {word}"):
            load()
    SplipModel.from_clip(tiny_clip, CLASSES).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"lacks .* tensors of a CLIP"):
        SplipModel.from_pretrained(tmp_path / "model", base_model=base)


@pytest.mark.parametrize("form", ["adapter", "full"])
def test_a_trained_model_is_no_base(tiny_clip, tmp_path, form):
    SplipModel.from_clip(tiny_clip, CLASSES).save_pretrained(tmp_path, full=form == "full")
    with pytest.raises(ValueError, match=r"Base CLIP '.*' is a 'splip' model: pass a CLIP, or load a trained model by"):
        load_retriever(f"clip:{tmp_path}")


def test_a_state_dict_that_lacks_tensors_is_refused(tiny_clip):
    model = SplipModel.from_clip(tiny_clip, CLASSES)
    state = model.state_dict()
    loaded = SplipModel.from_pretrained(None, config=model.config, state_dict=state)
    assert loaded.fingerprint() == model.fingerprint()
    with pytest.raises(ValueError, match=r"'state_dict' lacks .* tensors of a SplipModel"):
        SplipModel.from_pretrained(None, config=model.config, state_dict=model.adapter_state())


def test_a_damaged_base_says_so(tiny_clip, tmp_path):
    base = shutil.copytree(tiny_clip, tmp_path / "torn")
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(OSError, match=r"The weights of base CLIP '.*torn' are damaged"):
        load_clip(str(base))
