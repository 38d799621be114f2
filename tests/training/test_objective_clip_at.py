"""The objective of CLIP-AT against losses added up image by image."""

import pytest
import torch
from conftest import CLASSES
from method_models import batch_of, build
from torch.nn import functional as F

from modeling_splip.training.jigsaw import permute_tiles, two_permutations
from modeling_splip.training.losses import cosine_distance, hardest_in_class, relative_distance_divergence
from modeling_splip.training.objective_clip_at import ClipAtObjective, ClipAtSettings


def distance(a, b):
    return 1 - float(F.cosine_similarity(a, b, dim=0))


def losses_one_by_one(objective, batch) -> dict[str, float]:
    """The equations, one image at a time."""
    settings, model = objective.settings, objective.model
    classes, tau = model.frozen_class_embeds(), settings.tau or 1 / float(model.clip.logit_scale.exp())
    triplet, entropies, deltas, shuffle = [], [], {}, []

    def see(image, modality):
        return model.encode(image[None], modality)[0]

    def classify(embeds, label):
        entropies.append(float(F.cross_entropy(classes @ embeds / tau, label)))

    count = len(batch["label"])
    photos = [see(image, "photo") for image in batch["positive"]]
    one, other = two_permutations(batch["draw"], 23)
    for i in range(count):
        s, p, c = see(batch["sketch"][i], "sketch"), photos[i], batch["label"][i]
        classify(s, c)
        classify(p, c)
        if objective.level == "category":
            n = see(batch["negative"][i], "photo")
            classify(n, batch["negative_label"][i])
        else:
            others = [j for j in range(count) if batch["label"][j] == c and j != i]
            n = min((photos[j] for j in others), key=lambda photo: distance(s, photo))
            shuffled = [
                see(permute_tiles(image[i][None], objective.permutations[which[i]][None], 2)[0], modality)
                for image, which, modality in (
                    (batch["sketch"], one, "sketch"),
                    (batch["positive"], one, "photo"),
                    (batch["positive"], other, "photo"),
                )
            ]
            gap = distance(shuffled[0], shuffled[1]) - distance(shuffled[0], shuffled[2])
            shuffle.append(max(0.0, gap + settings.shuffle_margin))
        triplet.append(max(0.0, distance(s, p) - distance(s, n) + settings.margin))
        deltas.setdefault(int(c), []).append(distance(s, p) - distance(s, n))
    means = {"triplet": sum(triplet) / count, "class": sum(entropies) / len(entropies)}
    total = means["triplet"] + settings.alpha * means["class"]
    if objective.level == "fine_grained":
        normals = [
            torch.distributions.Normal(x.mean(), (x.var(unbiased=False) + 0.05**2).sqrt())
            for x in map(torch.tensor, deltas.values())
        ]
        pairs = [torch.distributions.kl_divergence(a, b) for a in normals for b in normals if a is not b]
        means["divergence"], means["shuffle"] = float(sum(pairs) / len(pairs)), sum(shuffle) / count
        total += settings.divergence * means["divergence"] + settings.shuffle * means["shuffle"]
    return means | {"loss": total}


@pytest.mark.parametrize(
    ("level", "settings"),
    [
        ("category", {}),
        ("category", {"margin": 0.7, "alpha": 2.0, "tau": 0.3}),
        ("fine_grained", {}),
        ("fine_grained", {"divergence": 3.0, "shuffle": 0.5, "shuffle_margin": 0.6}),
    ],
    ids=str,
)
@torch.no_grad()
def test_losses_one_by_one(tiny_clip, level, settings):
    objective = ClipAtObjective(build("clip_at", {}, tiny_clip), ClipAtSettings(**settings), level).eval()
    batch = batch_of(level)
    found, expected = objective(batch), losses_one_by_one(objective, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-3, abs=1e-5), name
        assert value > 0, f"{name} is zero and shows nothing"


@torch.no_grad()
def test_both_forms_of_the_divergence(tiny_clip):
    torch.manual_seed(0)
    model, batch = build("clip_at", {}, tiny_clip), batch_of("fine_grained")
    found = {}
    for form in ("gaussian", "softmax"):
        objective = ClipAtObjective(model, ClipAtSettings(divergence_form=form), "fine_grained").eval()
        found[form] = float(objective(batch)["divergence"])
    s, p = model.encode(batch["sketch"], "sketch"), model.encode(batch["positive"], "photo")
    rows, _ = hardest_in_class(s, p, batch["label"], batch["instance"])
    deltas = cosine_distance(s, p) - cosine_distance(s, p[rows])
    for form, value in found.items():
        expected = float(relative_distance_divergence(deltas, batch["label"], form))
        assert value == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert found["gaussian"] != pytest.approx(found["softmax"], rel=0.1)


def test_terms_that_do_not_count_cost_nothing(tiny_clip):
    model = build("clip_at", {"share_prompts": True}, tiny_clip)
    settings = ClipAtSettings(alpha=0.0, divergence=0.0, shuffle=0.0)
    batch = {name: value for name, value in batch_of("fine_grained").items() if name != "draw"}
    assert ClipAtObjective(model, settings, "fine_grained")(batch).keys() == {"triplet", "loss"}
    assert set(ClipAtObjective(model)(batch_of("category"))) == {"triplet", "class", "loss"}


def test_prompts_of_the_two_modalities(tiny_clip, pixels):
    """Each modality has its own, unless they are shared; both reach the embedding."""
    shared = build("clip_at", {"share_prompts": True, "share_layer_norms": True}, tiny_clip)
    torch.testing.assert_close(shared.encode(pixels, "sketch"), shared.encode(pixels, "photo"))
    own = build("clip_at", {"share_layer_norms": True}, tiny_clip)
    before = {modality: own.encode(pixels, modality) for modality in ("sketch", "photo")}
    with torch.no_grad():
        own.prompts["sketch"].tokens.add_(torch.randn(3, 32))
    assert (own.encode(pixels, "sketch") - before["sketch"]).abs().max() > 1e-3
    assert torch.equal(own.encode(pixels, "photo"), before["photo"])


def test_prompts_are_tokens_behind_the_patches(tiny_clip, pixels):
    """Against the stock tower run over CLS, patches and prompts."""
    model = build("clip_at", {"layer_norms": "none"}, tiny_clip)
    tower = model.clip.vision_model
    x = torch.cat([tower.embeddings(pixels), model.prompts["photo"].tokens.expand(3, -1, -1)], dim=1)
    x = tower.pre_layrnorm(x)
    for layer in tower.encoder.layers:
        x = layer(x, None)
    expected = F.normalize(model.clip.visual_projection(tower.post_layernorm(x[:, 0])), dim=-1)
    torch.testing.assert_close(model.encode(pixels, "photo"), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model(pixels, "photo").tokens, x[:, :17], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tau": -1.0}, "tau must be above 0, or 0 for the base CLIP's own, got -1.0"),
        ({"divergence_form": "kl"}, "divergence_form must be one of .*'gaussian', 'softmax'.* got 'kl'"),
    ],
)
def test_bad_settings(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClipAtSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompts": -1}, "prompts must be at least 0, got -1"),
        ({"layer_norms": "text"}, "layer_norms must be one of .*'vision', 'none'.* got 'text'"),
    ],
)
def test_bad_model_settings(tiny_clip, settings, sentence):
    from modeling_splip import ClipAtModel

    with pytest.raises(ValueError, match=sentence):
        ClipAtModel.from_clip(tiny_clip, CLASSES, **settings)
