"""sentence-transformers loads a saved folder: sketches as queries, photos as documents, the same bits as the model."""

import json
import sys

import numpy as np
import pytest
from galleries import draw
from launch import ENVIRONMENT, run
from method_models import CASES, MODALITIES, build

from modeling_splip.processing_splip import SplipProcessor

library = pytest.importorskip("sentence_transformers")
FORMS = [*CASES, ("folded", {"conditioning": "domain"})]
TASKS = {"sketch": "encode_query", "photo": "encode_document"}
IMAGES = [draw(number, background) for number, background in enumerate(("white", "white", "grey"))]


def saved(folder, base, name, settings):
    """Return a model and its processor after they were saved."""
    model = build("splip", settings, base).fold() if name == "folded" else build(name, settings, base).eval()
    processor = SplipProcessor.from_clip(base)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize(("name", "settings"), FORMS)
def test_every_form_loads_and_gives_the_same_bits(tiny_clip, tmp_path, name, settings):
    model, processor = saved(tmp_path / "model", tiny_clip, name, settings)
    loaded = library.SentenceTransformer(str(tmp_path / "model"), trust_remote_code=True, device="cpu")
    for modality in MODALITIES:
        expected = model.encode(processor(images=IMAGES, modality=modality)["pixel_values"], modality).numpy()
        found = getattr(loaded, TASKS[modality])([IMAGES[0], {"image": IMAGES[1]}, IMAGES[2]])
        assert np.array_equal(found, expected)
    assert loaded.get_embedding_dimension() == 16 and loaded.modalities == ("image",)
    assert float(loaded.similarity(found[:1], found[:1])) == pytest.approx(1)
    if name == "folded":  # and saved by the library it comes back
        loaded.save(str(tmp_path / "again"))
        again = library.SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
        assert np.array_equal(again.encode_document(IMAGES), found)


def test_what_images_are_must_be_said(tiny_clip, tmp_path):
    saved(tmp_path, tiny_clip, "clip_at", {})
    loaded = library.SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    with pytest.raises(ValueError, match="use encode_query for sketches, encode_document for photos"):
        loaded.encode(IMAGES)
    with pytest.raises(ValueError, match="Images take no prompt, got 'find: '"):
        loaded.encode_query(IMAGES, prompt="find: ")
    with pytest.raises(ValueError, match="text"):
        loaded.encode_query(["a dog"])
    with pytest.raises(ValueError, match="backend='onnx' is not supported"):
        library.SentenceTransformer(str(tmp_path), trust_remote_code=True, backend="onnx")


ELSEWHERE = """
import json, sys
import numpy as np
for name in ("modeling_splip", "datasets_scripts"):
    sys.modules[name] = None  # as if it were not installed
import torch
torch.set_num_threads(1)
from PIL import Image
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(model.encode_query([Image.open(sys.argv[2])]).tolist()))
"""


def test_it_loads_where_the_package_is_not_installed(tiny_clip, tmp_path):
    model, processor = saved(tmp_path / "model", tiny_clip, "splip", {})
    IMAGES[0].save(tmp_path / "sketch.png")
    (tmp_path / "elsewhere").mkdir()
    words = [sys.executable, "-I", "-c", ELSEWHERE, str(tmp_path / "model"), str(tmp_path / "sketch.png")]
    env = ENVIRONMENT | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = run(words, env=env, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr[-2000:]
    pixels = processor(images=[tmp_path / "sketch.png"], modality="sketch")["pixel_values"]
    found = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)
    assert np.array_equal(found, model.encode(pixels, "sketch").numpy())
