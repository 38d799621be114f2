"""The objective of CLIP-AT against losses added up image by image."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import CLASSES, ROOT
from method_models import batch_of, build
from torch.nn import functional as F

from modeling_splip.training.jigsaw import permute_tiles, two_permutations
from modeling_splip.training.losses import cosine_distance, hardest_in_class, relative_distance_divergence
from modeling_splip.training.methods import METHODS
from modeling_splip.training.objective_clip_at import ClipAtObjective, ClipAtSettings, RunningNormals


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


def running_by_hand(batches, share: float = 0.1) -> list[float]:
    """The divergence after each batch of (deltas, labels), class by class and pair by pair."""
    running: dict[int, tuple[float, float]] = {}  # mean, mean square
    values = []
    for deltas, labels in batches:
        own = {}
        for c in set(labels):
            mine = [d for d, label in zip(deltas, labels, strict=True) if label == c]
            if len(mine) > 1:
                own[c] = sum(mine) / len(mine), sum(d * d for d in mine) / len(mine)
        normals = [
            torch.distributions.Normal(torch.tensor(m), torch.tensor(max(0.0, q - m * m) + 0.05**2).sqrt())
            for m, q in (running | own).values()
        ]
        pairs = [torch.distributions.kl_divergence(a, b) for a in normals for b in normals if a is not b]
        values.append(float(sum(pairs) / len(pairs)) if pairs else 0.0)
        for c, new in own.items():
            old = running.get(c, new)
            running[c] = tuple((1 - share) * a + share * b for a, b in zip(old, new, strict=True))
    return values


def test_the_running_divergence_compares_all_classes_that_came():
    batches = [
        ([0.1, 0.3, 0.2], [1, 1, 4]),  # one class only: a single delta is no distribution
        ([0.5, 0.9, -0.4, -0.2], [0, 0, 2, 2]),
        ([0.2, 0.6, 0.1], [1, 1, 1]),
        ([-0.3, 0.7, 0.3, 0.2], [4, 4, 0, 0]),
    ]
    normals = RunningNormals(5).train()
    found = [normals(torch.tensor(deltas), torch.tensor(labels)) for deltas, labels in batches]
    expected = running_by_hand(batches)
    assert [float(value.detach()) for value in found] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert expected[0] == 0 and min(expected[1:]) > 0
    assert normals.known.tolist() == [True, True, True, False, True]
    state = normals.state_dict()
    assert set(state) == {"moments", "known"}  # so that a resumed run goes on where it stopped
    before = {name: value.clone() for name, value in state.items()}
    normals.eval()(torch.tensor([0.5, 0.1]), torch.tensor([1, 1]))
    assert all(torch.equal(value, before[name]) for name, value in normals.state_dict().items())


def test_the_running_divergence_trains_with_one_class_a_batch(tiny_clip):
    """A batch of one class has nothing to compare in itself, and is compared with the classes before it."""
    torch.manual_seed(0)
    settings = ClipAtSettings(divergence_over="running", divergence=1.0)
    objective = ClipAtObjective(build("clip_at", {}, tiny_clip), settings, "fine_grained").train()
    assert objective.compares_classes == ""
    batch = batch_of("fine_grained")
    for c, sketch in ((0, batch["sketch"].flip(0)), (2, batch["sketch"])):
        losses = objective(batch | {"label": torch.full((4,), c), "sketch": sketch})
    losses["divergence"].backward()
    grads = [p.grad for p in objective.model.vision_adapters.parameters() if p.grad is not None]
    assert losses["divergence"] > 0 and any(grad.abs().max() > 0 for grad in grads)
    one = ClipAtObjective(objective.model, ClipAtSettings(divergence=1.0), "fine_grained")
    assert float(one(batch | {"label": torch.full((4,), 2)})["divergence"].detach()) == 0


PROCESS = """
import sys, torch
from modeling_splip.training.objective_clip_at import RunningNormals

rank, file = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
normals = RunningNormals(4).train()
deltas, labels = [([0.1, 0.3, 0.5, 0.9], [1, 1, 2, 2]), ([0.2, 0.6, -0.4, 0.0], [1, 1, 3, 3])][rank]
normals(torch.tensor(deltas), torch.tensor(labels))
print(normals.moments.tolist(), normals.known.tolist())
torch.distributed.destroy_process_group()
"""


def test_the_running_divergence_follows_the_batches_of_all_processes(tmp_path):
    words = [sys.executable, "-c", PROCESS]
    started = [
        subprocess.Popen([*words, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=120)[0] for process in started]
    assert told[0] == told[1] and told[0]
    one = RunningNormals(4).train()
    one(torch.tensor([0.1, 0.3, 0.2, 0.6, 0.5, 0.9, -0.4, 0.0]), torch.tensor([1, 1, 1, 1, 2, 2, 3, 3]))
    found = torch.tensor(json.loads(told[0].partition("]] [")[0] + "]]"))
    torch.testing.assert_close(found, one.moments)
    assert one.known.tolist() == [False, True, True, True] and "[False, True, True, True]" in told[0]


def test_text_layer_norms_train_by_the_class_loss(tiny_clip, pixels):
    torch.manual_seed(0)
    model = build("clip_at", {"layer_norms": "both"}, tiny_clip)
    start = METHODS["clip_at"].model.from_clip(tiny_clip, CLASSES, layer_norms="both")
    torch.testing.assert_close(start.class_embeds(), start.frozen_class_embeds(), atol=1e-6, rtol=0)
    classes = model.class_embeds()
    assert (classes - model.frozen_class_embeds()).abs().max() > 1e-2
    torch.testing.assert_close(model(pixels, "photo").class_embeds[0], classes)
    objective, batch = ClipAtObjective(model), batch_of("category")
    losses = objective(batch)
    tau = 1 / float(model.clip.logit_scale.exp())
    terms = []
    for key, modality, label in (
        ("sketch", "sketch", "label"),
        ("positive", "photo", "label"),
        ("negative", "photo", "negative_label"),
    ):
        terms.append(F.cross_entropy(model.encode(batch[key], modality) @ classes.detach().T / tau, batch[label]))
    assert float(losses["class"].detach()) == pytest.approx(float(sum(terms) / 3), rel=1e-3)
    losses["class"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.text_adapter.parameters())
    with pytest.raises(ValueError, match="trains the text tower by the class loss alone, and alpha is 0"):
        ClipAtObjective(model, ClipAtSettings(alpha=0.0))


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
        ({"divergence_over": "epoch"}, "divergence_over must be one of .*'batch', 'running'.* got 'epoch'"),
        (
            {"divergence_over": "running", "divergence_form": "softmax"},
            "keeps means and variances: set divergence_form='gaussian'",
        ),
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
        ({"layer_norms": "all"}, "layer_norms must be one of .*'vision', 'both', 'text', 'none'.* got 'all'"),
    ],
)
def test_bad_model_settings(tiny_clip, settings, sentence):
    from modeling_splip import ClipAtModel

    with pytest.raises(ValueError, match=sentence):
        ClipAtModel.from_clip(tiny_clip, CLASSES, **settings)
