"""To the Hub and back: real huggingface_hub on both sides, only the server behind it is ours."""

import json
import os
import shutil
import sys
from pathlib import Path

import galleries
import numpy as np
import pytest
import torch
from hub import Hub
from launch import run
from method_models import CASES, ELSEWHERE, build
from transformers import AutoModel

from modeling_splip.commands import push
from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.search.gallery import Gallery

own_cache, photos = galleries.own_cache, galleries.photos
SPLIP = [sys.executable, "-m", "modeling_splip"]


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


def save(folder: Path, name: str, settings: dict, base: str, base_name: str | None = None) -> Path:
    """Save a model and its processor whose base has this name on the Hub."""
    model = build(name, settings, base)
    model.config.base_model = base_name or base
    model.save_pretrained(folder)
    SplipProcessor.from_clip(base).save_pretrained(folder)
    return folder


def test_every_class_comes_from_the_hub(hub, tiny_clip, prepared, tmp_path):
    """By id, code included, the base CLIP from another repository, where nothing of ours is installed."""
    image = next(prepared.parent.parent.glob("raw*/sketch/owl/owl0-1.png"))
    processor = SplipProcessor.from_clip(tiny_clip)
    hub.put("someone/clip", tiny_clip)
    jobs, expected = [], []
    for number, (name, settings) in enumerate(CASES):
        save(tmp_path / f"{number}", name, settings, tiny_clip, "someone/clip")
        forms = {"adapter": build(name, settings, tiny_clip)}
        if settings.get("conditioning") == "domain":
            forms["folded"] = forms["adapter"].fold()
            forms["folded"].save_pretrained(tmp_path / f"{number}-folded")
            processor.save_pretrained(tmp_path / f"{number}-folded")
            hub.put(f"someone/{number}-folded", tmp_path / f"{number}-folded")
        hub.put(f"someone/{number}-adapter", tmp_path / f"{number}")
        for form, model in forms.items():
            jobs.append(
                {
                    "name": f"someone/{number}-{form}",
                    "options": {},
                    "image": str(image),
                    "out": str(tmp_path / f"{number}-{form}.npy"),
                }
            )
            pixels = processor(images=[image], modality="sketch")["pixel_values"]
            expected.append((model.encode(pixels, "sketch").numpy(), model.fingerprint(processor)))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-I", "-c", ELSEWHERE, str(tmp_path / "jobs.json")]
    result = run(command, env=hub.environment(tmp_path / "home"), cwd=tmp_path / "elsewhere")
    assert result.returncode == 0, result.stderr[-3000:]
    for job, (embeds, fingerprint), printed in zip(jobs, expected, result.stdout.split(), strict=True):
        assert np.array_equal(np.load(job["out"]), embeds), job["name"]
        assert printed == fingerprint, job["name"]
    assert "GET /someone/clip/resolve/main/model.safetensors" in [
        line.replace("0123456789abcdef0123456789abcdef01234567", "main") for line in hub.requests
    ]


def test_dry_run_lists_what_goes_and_sends_nothing(hub, tiny_clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("modeling_splip.commands.push.upload", lambda *_: pytest.fail("sent"))
    save(tmp_path / "model", "splip", {}, tiny_clip, "someone/clip")
    assert main(["push", str(tmp_path / "model"), "me/mine", "--dry-run"]) == 2
    assert "someone/clip" in capsys.readouterr().err  # adapters whose base cannot be had
    save(tmp_path / "model", "splip", {}, tiny_clip)
    assert main(["push", str(tmp_path / "model"), "me/mine", "--dry-run"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # after the bars of loading
    assert said.startswith(f"splip: The base CLIP '{tiny_clip}' is a folder of this machine")
    assert main(["push", str(tmp_path / "model"), "me/mine", "--dry-run", "--full"]) == 0
    listed = capsys.readouterr().out
    first, *lines = listed.partition("\n\n---\n")[0].splitlines()
    sizes = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines}
    assert first == f"model me/mine: {len(sizes)} files, {sum(sizes.values()):,} bytes"
    weights = {"model.safetensors", "peft/adapter_config.json", "peft/adapter_model.safetensors"}
    assert weights | {"config.json", "README.md", "modeling_splip.py", "processor_config.json"} < set(sizes)
    assert "adapter_config.json" not in sizes and "# mine" in listed and str(tmp_path) not in listed


def test_pushed_and_loaded_again(hub, tiny_clip, prepared, tmp_path):
    """Model, card and gallery go up by the command; another user, elsewhere, searches with them."""
    model_folder = save(tmp_path / "run" / "model", "splip", {}, tiny_clip)
    loaded, processor = load_retriever(str(model_folder))
    photos = next(prepared.parent.parent.glob("raw*/photo")).resolve()
    Gallery.build(photos, loaded, processor, tmp_path / "gallery", progress=False)
    words = [str(tmp_path / "run"), "someone/sketch", "--full", "--private", "--gallery", str(tmp_path / "gallery")]
    env = hub.environment(tmp_path / "home")
    result = run([*SPLIP, "push", *words, "--revision", "v1"], env=env)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [f"{hub.url}/someone/sketch", f"{hub.url}/datasets/someone/sketch-gallery"]
    assert hub.private == ["someone/sketch", "someone/sketch-gallery"]
    assert hub.files["model", "someone/sketch"]["main"] == {}  # only the branch asked for
    assert run([*SPLIP, "push", *words], env=env).returncode == 0
    for repo in (("model", "someone/sketch"), ("dataset", "someone/sketch-gallery")):
        branches = hub.files[repo]
        assert set(branches["v1"]) == set(branches["main"]) and "README.md" in branches["main"]
        for name, content in branches["main"].items():
            assert str(tmp_path).encode() not in content or name.endswith(".parquet"), name
    assert "index.faiss" not in hub.files["dataset", "someone/sketch-gallery"]["main"]

    sketch = next(prepared.parent.parent.glob("raw*/sketch/owl/owl0-1.png"))
    (tmp_path / "elsewhere").mkdir()
    words = ["search", str(sketch), "--gallery", "someone/sketch-gallery", "--json"]
    result = run([*SPLIP, *words], env=hub.environment(tmp_path / "other"), cwd=tmp_path / "elsewhere")
    assert result.returncode == 0, result.stderr[-2000:]
    expected = Gallery.open(tmp_path / "gallery", (loaded, processor)).search(sketch)
    found = json.loads(result.stdout)["queries"][0]["results"]
    assert [each["path"] for each in found] == [Path(each.path).relative_to(photos).as_posix() for each in expected]

    refused = run(
        [*SPLIP, "push", str(tmp_path / "run"), "someone/sketch", "--full"], env=env | {"HF_HUB_OFFLINE": "1"}
    )
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith(
        "splip: 'someone/sketch' was not pushed"
    )


PUSH_TO_HUB = """
import sys
import modeling_splip
from transformers import AutoModel, AutoProcessor
AutoModel.from_pretrained(sys.argv[1]).push_to_hub("someone/plain")
AutoProcessor.from_pretrained(sys.argv[1]).push_to_hub("someone/plain")
"""


def test_transformers_own_push_to_hub(hub, tiny_clip, tmp_path):
    folder = save(tmp_path / "model", "clip_at", {}, tiny_clip)
    result = run([sys.executable, "-c", PUSH_TO_HUB, str(folder)], env=hub.environment(tmp_path / "home"))
    assert result.returncode == 0, result.stderr[-2000:]
    files = hub.files["model", "someone/plain"]["main"]
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert {path.name for path in folder.iterdir()} <= set(files)


UPLOAD = """
import sys
from pathlib import Path
from modeling_splip.commands.push import upload
for kind, repo, stage in (word.split("=") for word in sys.argv[1:]):
    upload(kind, repo, Path(stage), False, None)
"""


def test_a_push_leaves_nothing_of_the_last_one(hub, tiny_clip, photos, tmp_path):
    """One file, then shards, then a folded model, each with a gallery; a file of the user's own stays."""
    model, processor = build("splip", {"conditioning": "domain"}, tiny_clip), SplipProcessor.from_clip(tiny_clip)
    shards = {"full": True, "max_shard_size": "20KB"}
    hub.files["model", "someone/one"] = {"main": {"notes.txt": b"of the user"}}
    hub.files["dataset", "someone/photos"] = {"main": {}}
    words = []
    for name, form, options in (
        ("one", model, {"full": True}),
        ("shards", model, shards),
        ("folded", model.fold(), {}),
    ):
        form.save_pretrained(tmp_path / name, **options)
        Gallery.build(photos, form, processor, tmp_path / "G", model_name="someone/one", progress=False)
        push.stage_gallery(tmp_path / "G", "someone/one", tmp_path / f"{name}-gallery")
        words += [f"model=someone/one={tmp_path / name}", f"dataset=someone/photos={tmp_path / name}-gallery"]
    for first, last, held in ((0, 4, "shards"), (4, 6, "folded")):
        env = hub.environment(tmp_path / "home")
        result = run([sys.executable, "-c", UPLOAD, *words[first:last]], env=env)
        assert result.returncode == 0, result.stderr[-2000:]
        on_hub, local = set(hub.files["model", "someone/one"]["main"]), set(os.listdir(tmp_path / held))
        code = {name for name in on_hub if name.endswith(".py")}  # of another form: nothing loads it
        assert on_hub - code == {name for name in local if not name.endswith(".py")} | {"notes.txt"}
        tables = {name.partition("/")[0] for name in hub.files["dataset", "someone/photos"]["main"]}
        assert tables == set(os.listdir(tmp_path / f"{held}-gallery"))


def test_shards_load_and_stay_in_their_folder(tiny_clip, tmp_path, pixels):
    model = build("splip", {}, tiny_clip)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    loaded = AutoModel.from_pretrained(tmp_path / "shards")
    assert torch.equal(loaded.encode(pixels, "sketch"), model.encode(pixels, "sketch"))
    index = tmp_path / "shards" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    for outside in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "weights.bin"):
        content["weight_map"]["b_t.layers.0.weight"] = outside
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"index.json' names '.*', which is no safetensors file beside it"):
            AutoModel.from_pretrained(tmp_path / "shards")


def test_a_base_in_pickles_is_refused(tiny_clip, tmp_path):
    folder = save(tmp_path / "model", "clip_at", {}, tiny_clip)
    base = shutil.copytree(tiny_clip, tmp_path / "base")
    (base / "model.safetensors").unlink()
    torch.save({}, base / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"^Base CLIP '.*base' has no CLIP weights in safetensors: check the name"):
        AutoModel.from_pretrained(folder, base_model=str(base))


def test_what_a_new_user_gets_wrong(hub, tiny_clip, tmp_path):
    """One sentence each, from the command line, with an empty cache and no project around."""
    folder = save(tmp_path / "model", "clip_at", {}, tiny_clip, "someone/gone")
    (tmp_path / "empty").mkdir()
    online, offline = hub.environment(tmp_path / "home"), {"HF_HUB_OFFLINE": "1"}
    cases = {
        ("someone/typo", ""): "'someone/typo' is no local checkpoint folder, and no configuration",
        ("someone/typo", "offline"): "'someone/typo' is no local checkpoint folder, and no configuration",
        (str(tmp_path / "empty"), ""): f"Checkpoint folder '{tmp_path / 'empty'}' has no config.json",
        (str(folder), ""): "Base CLIP 'someone/gone' is no local folder and not on the Hub or in the cache",
    }
    script = "import sys\nfrom modeling_splip.loading import load_retriever\nfor name in sys.argv[1:]:\n"
    script += "    try:\n        load_retriever(name)\n    except OSError as error:\n        print(error)\n"
    for kind, env in (("", online), ("offline", online | offline)):
        wanted = {name: sentence for (name, when), sentence in cases.items() if when == kind}
        result = run([sys.executable, "-c", script, *wanted], env=env, cwd=tmp_path / "empty")
        lines = result.stdout.splitlines()
        assert len(lines) == len(wanted), (result.stdout, result.stderr[-1000:])
        for line, sentence in zip(lines, wanted.values(), strict=True):
            assert line.startswith(sentence) and line.endswith((".", "folder.", "network."))
