"""What a model tells training, cards and docs about itself, so that none of them needs to know a method."""

import re

import pytest
import torch
from conftest import CLASSES, ROOT
from method_models import CASES, MODALITIES, build

import modeling_splip
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.training.methods import METHODS

METHOD = pytest.mark.parametrize(("name", "settings"), CASES)


@METHOD
def test_the_means_of_images(tiny_clip, pixels, name, settings):
    """What training does for every model that stores means; the others refuse them."""
    torch.manual_seed(0)
    model = METHODS[name].model.from_clip(tiny_clip, CLASSES, **settings)
    assert model.stores_image_means == ("domain" in settings.values())
    if not model.stores_image_means:
        with pytest.raises(ValueError, match=r"(stores no mean|takes a mean).*\.$"):
            model.set_domain_mean("photo", torch.ones(32))
        return
    for modality in MODALITIES:
        mean = model.mean_patch(pixels)
        assert mean.shape == (3, 32)
        model.set_domain_mean(modality, mean.mean(dim=0))
    assert model.encode(pixels, "sketch").isfinite().all()


@pytest.mark.parametrize("name", ["clip_at", "cross_align"])
def test_a_model_without_means_has_nothing_to_add(tiny_clip, pixels, name):
    model = METHODS[name].model.from_clip(tiny_clip)
    with pytest.raises(ValueError, match="stores no mean of the training images, so no image adds to it"):
        model.mean_patch(pixels)


@METHOD
def test_the_trained_layer_norms(tiny_clip, name, settings):
    model = build(name, settings, tiny_clip)
    found = {id(parameter) for parameter in model.layer_norm_parameters()}
    names = {key for key, parameter in model.named_parameters() if id(parameter) in found}
    assert names and names == {key for key in dict(model.named_parameters()) if "_adapter" in key}
    assert all(parameter.requires_grad and parameter.ndim == 1 for parameter in model.layer_norm_parameters())
    assert len(found) == len(model.layer_norm_parameters())
    assert METHODS[name].model.from_clip(tiny_clip, CLASSES, layer_norms="none").layer_norm_parameters() == []


def test_every_model_has_a_title_and_a_paper():
    titles = set()
    for _, config, _, name in modeling_splip.MODELS.values():
        model = getattr(modeling_splip, name)
        assert re.fullmatch(r".+ \((.+ )?20\d\d\)", model.title) and re.fullmatch(r"\d{4}\.\d{5}", model.arxiv)
        file = getattr(modeling_splip, config).__module__.rpartition(".")[2]
        assert model.arxiv in (ROOT / "modeling_splip" / f"{file}.py").read_text("utf-8").splitlines()[0]
        titles.add(model.title)
    assert len(titles) == len(modeling_splip.MODELS)


@pytest.mark.parametrize(
    ("config", "settings", "sentence"),
    [
        ("SplipConfig", {"class_names": "cat"}, "class_names must be a list of names, got the text 'cat'."),
        ("SplipConfig", {"use_b_t": "no"}, "use_b_t must be true or false, got 'no'."),
        ("SplipConfig", {"m": 2.0}, "m must be a whole number, got 2.0."),
        ("SplipConfig", {"bottleneck": True}, "bottleneck must be a whole number, got True."),
        ("SplipConfig", {"prompt_depth": 0}, "prompt_depth must be at least 1, or None for all layers, got 0; switch"),
        ("SplipConfig", {"n": 0}, "n must be at least 1, got 0; switch a part off by its use_ field instead."),
        ("ClipAtConfig", {"prompts": -1}, "prompts must be at least 0, got -1."),
        ("ClipAtConfig", {"prompts": None}, "prompts must be a whole number, got None."),
        (
            "ClipAtConfig",
            {"layer_norms": "all"},
            "layer_norms must be one of ('vision', 'both', 'text', 'none'), got 'all'.",
        ),
        ("CrossAlignConfig", {"share_layer_norms": 1}, "share_layer_norms must be true or false, got 1."),
        ("SplipEncoderConfig", {"class_names": "cat"}, "class_names must be a list of names, got the text 'cat'."),
    ],
    ids=str,
)
def test_settings_that_cannot_be(config, settings, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        getattr(modeling_splip, config)(**settings)


def test_settings_are_copied():
    names, ids, prefix = ["cup"], [[1, 2]], {"photo": [0]}
    config = modeling_splip.SplipConfig(class_names=names, class_token_ids=ids, prefix_token_ids=prefix)
    ids[0].append(3)
    prefix["photo"].append(1)
    names.append("ant")
    assert (config.class_names, config.class_token_ids, config.prefix_token_ids) == (["cup"], [[1, 2]], {"photo": [0]})
    assert modeling_splip.SplipConfig().class_names is not modeling_splip.SplipConfig().class_names


def test_image_conditioning_stores_no_mean(tiny_clip):
    model = SplipModel.from_clip(tiny_clip, CLASSES)
    assert not model.stores_image_means
    with pytest.raises(ValueError, match="Only conditioning='domain' takes a mean, and this is 'image'"):
        model.set_domain_mean("sketch", torch.ones(32))
