"""What the tests of galleries share: pictures, a tiny model, a gallery of 24 photos in three classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_splip.loading import load_retriever
from modeling_splip.search.gallery import Gallery

COLOURS = ["red", "green", "blue", "orange", "purple", "teal", "brown", "grey"]


def draw(seed: int, background: str = "white") -> Image.Image:
    """A picture of three random shapes; on white in black ink it serves as a sketch."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (40, 30), background)
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, w, h = rng.integers(0, 20, 4)
        ink = "black" if background == "white" else COLOURS[int(rng.integers(8))]
        getattr(pen, str(rng.choice(["ellipse", "rectangle"])))([x, y, x + w + 3, y + h + 3], outline=ink, width=2)
    return image


def make_photos(folder: Path, count: int = 24, classes: tuple[str, ...] = ("cup", "zebra", "ant")) -> Path:
    for number in range(count):
        label = classes[number % len(classes)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        draw(number, COLOURS[number % 8]).save(folder / label / f"{number:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Each test is a machine of its own: it has signed no index yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def name(tiny_clip):
    return f"clip:{tiny_clip}"


@pytest.fixture(scope="module")
def pair(name):
    return load_retriever(name)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture
def gallery(photos, pair, name, tmp_path):
    return Gallery.build(photos, *pair, tmp_path / "G", model_name=name, progress=False)


def embeddings(pair, images, modality):
    model, processor = pair
    return model.encode(processor(images=images, modality=modality)["pixel_values"], modality).numpy()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def same(found, wanted) -> bool:
    """Whether these are the same photos in the same order, with scores equal but for rounding in a batch."""
    names = [[Path(result.path).name for result in results] for results in (found, wanted)]
    scores = [[result.score for result in results] for results in (found, wanted)]
    return names[0] == names[1] and np.allclose(*scores, atol=1e-6)
