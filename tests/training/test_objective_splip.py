"""The objective of SpLIP against losses added up image by image, and what of it is exported."""

import math

import pytest
import torch
from conftest import CLASSES, save_clip, tiny_config
from plain_splip import build
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil

from modeling_splip import SplipModel
from modeling_splip.training.arguments import parse_arguments
from modeling_splip.training.jigsaw import permute_tiles, two_permutations
from modeling_splip.training.losses import spread_loss
from modeling_splip.training.objective_splip import SplipObjective, SplipSettings
from modeling_splip.training.pixels import TrainingPixels
from modeling_splip.training.setup import build_training

LORA = {"peft_type": "LORA", "r": 2, "target_modules": ".*vision_model.*(q_proj|v_proj)"}
LABELS, NEGATIVE_LABELS = torch.tensor([0, 3, 1]), torch.tensor([4, 2, 2])


def batch_of(level: str = "category") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(3, 3, 3, 32, 32, generator=generator)
    batch = {"sketch": images[0], "positive": images[1], "draw": torch.tensor([7, 123, 0])}
    if level == "category":
        return batch | {"negative": images[2], "label": LABELS, "negative_label": NEGATIVE_LABELS}
    # Rows 0 and 2 are of one class; row 1 has no other photo of its class.
    return batch | {"label": torch.tensor([2, 0, 2]), "instance": torch.tensor([50, 60, 70])}


def distance(a, b):
    return float((a - b) @ (a - b))


def entropy(logits, label):
    return float(logits.logsumexp(0) - logits[label])


def plain_clip(model, image) -> torch.Tensor:
    """The embedding of an image by the stock CLIP inside a model, which knows no prompts and no adapters."""
    return F.normalize(model.clip.get_image_features(image[None]).pooler_output[0], dim=-1)


def losses_one_by_one(objective, batch) -> dict[str, float]:
    """The equations, one image at a time, all images passed alone."""
    settings, model = objective.settings, objective.model
    count = len(batch["label"])
    triplet, class_terms, own, conditional, between = [], [], [], [], []
    frozen = F.normalize(model.frozen_class_embeds(), dim=-1)

    def see(image, modality, label):
        output = model(image[None], modality)
        class_terms.append(entropy(output.class_embeds[0] @ output.embeds[0] / settings.tau, label))
        return output.embeds[0]

    photos = [see(batch["positive"][i], "photo", batch["label"][i]) for i in range(count)]
    for i in range(count):
        s, p, c = see(batch["sketch"][i], "sketch", batch["label"][i]), photos[i], batch["label"][i]
        y = batch["draw"][i] % settings.permutations
        shuffled = permute_tiles(batch["sketch"][i : i + 1], objective.permutations[y][None], settings.grid)
        permuted = model(shuffled, "sketch").embeds
        if objective.level == "category":
            n = see(batch["negative"][i], "photo", batch["negative_label"][i])
            mu = float(frozen[c] @ frozen[batch["negative_label"][i]]) if settings.adaptive_margin else settings.margin
        else:
            others = [
                j for j in range(count) if batch["label"][j] == c and batch["instance"][j] != batch["instance"][i]
            ]
            j = min(others, key=lambda j: distance(s, photos[j]), default=None)
            n = None if j is None else photos[j]
            mu = settings.fg_margin
            if settings.instance_margins and n is not None:
                mu = float(plain_clip(model, batch["positive"][i]) @ plain_clip(model, batch["positive"][j]))
            foreign = [j for j in range(count) if batch["label"][j] != c]
            j = min(foreign, key=lambda j: distance(s, photos[j]))
            nu = float(frozen[c] @ frozen[batch["label"][j]]) if settings.adaptive_margin else settings.margin
            between.append(max(0.0, distance(s, p) - distance(s, photos[j]) + nu))
        terms = [entropy(objective.solver(x[None], permuted)[0], y) for x in (s, p) + ((n,) if n is not None else ())]
        own.append(terms[0])
        if n is not None:
            triplet.append(max(0.0, distance(s, p) - distance(s, n) + mu))
            conditional.append(max(0.0, terms[1] - terms[2]))
    mean = {name: sum(x) / len(x) for name, x in {"triplet": triplet, "class": class_terms}.items()}
    mean["cjs"] = sum(own) / len(own) + sum(conditional) / len(conditional)
    if between and settings.between:
        mean["between"] = sum(between) / len(between)
    total = settings.triplet * (mean["triplet"] + settings.between * mean.get("between", 0.0))
    total += settings.alpha * mean["class"] + settings.beta * mean["cjs"]
    return mean | {"loss": total}


@pytest.mark.parametrize("conditioning", ["image", "domain"])
@pytest.mark.parametrize(
    ("level", "settings"),
    [
        ("category", {}),
        ("category", {"adaptive_margin": False, "margin": 0.7}),
        ("category", {"triplet": 0.5, "alpha": 2.0, "beta": 3.0, "tau": 0.3}),
        ("category", {"grid": 2, "permutations": 5}),
        ("fine_grained", {}),
        ("fine_grained", {"fg_margin": 1.5, "between": 0.0}),
        ("fine_grained", {"adaptive_margin": False, "margin": 0.7, "between": 0.5, "triplet": 2.0}),
        ("fine_grained", {"instance_margins": True, "between": 0.0}),
    ],
    ids=str,
)
@torch.no_grad()
def test_losses_one_by_one(tiny_clip, level, settings, conditioning):
    torch.manual_seed(0)
    model = build(tiny_clip, conditioning=conditioning)
    objective = SplipObjective(model, SplipSettings(**settings), level).eval()
    batch = batch_of(level)
    found, expected = objective(batch), losses_one_by_one(objective, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4, abs=1e-6), name
        assert value > 0, f"{name} is zero and shows nothing"


@torch.no_grad()
def test_the_adaptive_margin_has_an_effect_at_fine_grained_level(tiny_clip):
    """The row "+ adaptive margin" of the paper's losses differs from the one before it between instances too."""
    torch.manual_seed(0)
    model, found = build(tiny_clip), {}
    for name, settings in {
        "adaptive": {},
        "fixed": {"adaptive_margin": False},
        "wider": {"adaptive_margin": False, "margin": 0.5},
    }.items():
        objective = SplipObjective(model, SplipSettings(**settings), "fine_grained").eval()
        found[name] = objective(batch_of("fine_grained"))
    assert len({float(losses["loss"]) for losses in found.values()}) == 3
    assert len({float(losses["triplet"]) for losses in found.values()}) == 1


def test_a_batch_of_one_class_has_no_triplets_across_classes(tiny_clip):
    objective = SplipObjective(build(tiny_clip), level="fine_grained")
    batch = batch_of("fine_grained") | {"label": torch.tensor([2, 2, 2])}
    losses = objective(batch)
    assert float(losses["between"].detach()) == 0
    losses["loss"].backward()


def test_a_micro_batch_of_one_class_group_is_refused_before_training(tiny_clip, prepared, polygons):
    words = ["--level", "fine_grained", "--base", tiny_clip, "--dataset", str(prepared), "--pairs_per_class", "3"]
    with pytest.raises(ValueError, match=r"A micro-batch of 3 holds one group of pairs_per_class=3, and loss\.between"):
        build_training(parse_arguments([*words, "--batch_size", "6", "--accumulation", "2"]), polygons)
    for own in (["--batch_size", "6"], ["--batch_size", "3", "--loss.between", "0"]):
        build_training(parse_arguments([*words, *own]), polygons)


def test_a_given_margin_is_refused_even_at_its_default():
    words = ["--dataset", "x", "--loss.margin", "0.2"]
    with pytest.raises(ValueError, match="margin has no effect where adaptive_margin is true"):
        parse_arguments(words)
    assert parse_arguments([*words, "--loss.adaptive_margin", "false"]).loss["margin"] == 0.2


@pytest.mark.parametrize(
    ("level", "settings", "message"),
    [
        ("category", {"margin": 0.3}, "margin has no effect where adaptive_margin is true: leave it out"),
        ("fine_grained", {"margin": 0.3}, "margin has no effect where adaptive_margin is true"),
        ("fine_grained", {"between": 0.0, "margin": 0.3}, "margin has no effect at fine-grained level where between"),
        ("fine_grained", {"between": 0.0, "adaptive_margin": False}, "adaptive_margin has no effect at fine-grained"),
        ("fine_grained", {"instance_margins": True, "fg_margin": 0.5}, "fg_margin has no effect where instance_mar"),
        ("category", {"fg_margin": 0.5}, "fg_margin has no effect at category level"),
        ("category", {"instance_margins": True}, "instance_margins has no effect at category level"),
    ],
)
def test_a_margin_that_changes_nothing_is_refused(tiny_clip, level, settings, message):
    with pytest.raises(ValueError, match=message):
        SplipObjective(build(tiny_clip), SplipSettings(**settings), level)


def test_instance_margins_need_the_frozen_tower(tiny_clip):
    model = SplipModel.from_clip(tiny_clip, CLASSES, peft=LORA)
    with pytest.raises(ValueError, match="instance_margins, anchor and clarity need CLIP's own image tower, and peft"):
        SplipObjective(model, SplipSettings(instance_margins=True), "fine_grained")


@torch.no_grad()
def test_shuffling_in_place_of_the_jigsaw(tiny_clip):
    """A sketch is nearer to its photo under the same permutation than under another, by `margin`."""
    torch.manual_seed(0)
    settings = SplipSettings(beta=0.0, shuffle=1.0, margin=0.7)
    objective, batch = SplipObjective(build(tiny_clip), settings).eval(), batch_of("category")
    chosen = [objective.shuffles[which] for which in two_permutations(batch["draw"], 23)]
    s, p, q = (
        objective.model.encode(permute_tiles(batch[key], chosen[which], 2), modality)
        for key, which, modality in (("sketch", 0, "sketch"), ("positive", 0, "photo"), ("positive", 1, "photo"))
    )
    expected = ((s * q).sum(dim=1) - (s * p).sum(dim=1) + 0.7).relu().mean()
    assert float(objective(batch)["shuffle"]) == pytest.approx(float(expected), rel=1e-4) and expected > 0


@pytest.mark.parametrize(
    ("settings", "keys", "needs_no"),
    [
        ({}, {"loss", "triplet", "class", "cjs"}, "instance"),
        ({"alpha": 0.0, "beta": 0.0}, {"loss", "triplet"}, "draw"),
        ({"triplet": 0.0, "beta": 0.0}, {"loss", "class"}, "draw"),
        ({"beta": 0.0}, {"loss", "triplet", "class"}, "draw"),
    ],
    ids=["all", "triplet", "class", "triplet and class"],
)
def test_rows_of_the_loss_ablation(tiny_clip, settings, keys, needs_no):
    objective = SplipObjective(build(tiny_clip), SplipSettings(**settings))
    batch = {name: value for name, value in batch_of().items() if name != needs_no}
    found = objective(batch)
    assert found.keys() == keys
    weights = {"triplet": 1.0, "class": 1.0, "cjs": 0.1}
    assert float(found["loss"]) == pytest.approx(sum(weights[name] * float(found[name]) for name in keys - {"loss"}))
    assert hasattr(objective, "solver") == ("cjs" in keys)


def test_contrast_in_place_of_triplets(tiny_clip, monkeypatch):
    """Without triplets and jigsaw the negative photos are not encoded: the batch's other photos are the negatives."""
    objective = SplipObjective(build(tiny_clip), SplipSettings(triplet=0.0, beta=0.0, contrast=0.5, contrast_tau=0.3))
    seen, encode = {}, objective.encode

    def watched(modality, groups, **flags):
        seen[modality] = list(groups)
        return encode(modality, groups, **flags)

    monkeypatch.setattr(objective, "encode", watched)
    found = objective(batch_of())
    assert found.keys() == {"loss", "class", "contrast"} and seen == {"sketch": ["s"], "photo": ["p"]}
    assert float(found["loss"]) == pytest.approx(float(found["class"]) + 0.5 * float(found["contrast"]))
    s, p = (objective.model.encode(batch_of()[key], m) for key, m in (("sketch", "sketch"), ("positive", "photo")))
    logits = s @ p.T / 0.3  # all labels differ: the diagonal holds the positives
    rows = torch.arange(len(s))
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    assert float(found["contrast"]) == pytest.approx(float(expected), rel=1e-4)


def test_contrast_between_instances(tiny_clip):
    """At fine-grained level the positives are those of the photo, and other photos of the class are negatives."""
    settings = SplipSettings(triplet=0.0, alpha=0.0, beta=0.0, contrast=1.0, contrast_tau=0.3)
    objective, batch = SplipObjective(build(tiny_clip), settings, "fine_grained"), batch_of("fine_grained")
    s, p = (objective.model.encode(batch[key], m) for key, m in (("sketch", "sketch"), ("positive", "photo")))
    logits, rows = s @ p.T / 0.3, torch.arange(3)
    expected = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    assert float(objective(batch)["contrast"]) == pytest.approx(float(expected), rel=1e-4)


def test_regularisers(tiny_clip):
    """Each has its weight; the anchor is the frozen CLIP, where a model starts and from where it goes."""
    torch.manual_seed(0)
    model, batch = build(tiny_clip), batch_of() | {"label": torch.tensor([0, 0, 1])}
    settings = SplipSettings(triplet=0.0, alpha=0.0, beta=0.0, spread=0.5, anchor=2.0, within=3.0)
    found = SplipObjective(model, settings)(batch)
    assert found.keys() == {"loss", "spread", "anchor", "within"}
    total = 0.5 * found["spread"] + 2 * found["anchor"] + 3 * found["within"]
    assert float(found["loss"]) == pytest.approx(float(total))
    s, p = (model.encode(batch[key], m) for key, m in (("sketch", "sketch"), ("positive", "photo")))
    frozen = model.clip.get_image_features(batch["positive"])
    frozen = frozen if isinstance(frozen, torch.Tensor) else frozen.pooler_output
    assert float(found["anchor"]) == pytest.approx(float((1 - F.cosine_similarity(p, frozen)).mean()), abs=1e-6)
    assert float(found["anchor"]) > 1e-3
    assert float(found["spread"]) == pytest.approx(float(spread_loss(s) + spread_loss(p)))
    assert not any("class_embeds" in name for name in SplipObjective(model, settings).state_dict())


def test_unclear_sketches_count_less(tiny_clip):
    torch.manual_seed(0)
    model, batch = build(tiny_clip), batch_of()
    plain = SplipObjective(model, SplipSettings(alpha=0.0, beta=0.0))
    weighed = SplipObjective(model, SplipSettings(alpha=0.0, beta=0.0, clarity=True))
    weight = weighed._clarity(batch["sketch"])
    assert plain._clarity(batch["sketch"]) is None and weight.min() > 0 and weight.max() < 1
    one = {name: value[:1] for name, value in batch.items()}
    assert float(weighed(one)["triplet"]) == pytest.approx(float(plain(one)["triplet"]), rel=1e-4)
    assert float(weighed(batch)["triplet"]) != pytest.approx(float(plain(batch)["triplet"]), rel=1e-4)


def test_regularisers_that_cannot_be(tiny_clip):
    with pytest.raises(ValueError, match="within draws a class together"):
        SplipObjective(build(tiny_clip), SplipSettings(within=1.0), "fine_grained")
    lora = {"peft_type": "LORA", "target_modules": ".*vision_model.*q_proj"}
    with pytest.raises(ValueError, match="need CLIP's own image tower, and peft changes it: leave one out"):
        SplipObjective(build(tiny_clip, peft=lora), SplipSettings(anchor=1.0))


def test_margins_are_cosines_of_the_frozen_class_names(tiny_clip):
    objective = SplipObjective(build(tiny_clip))
    embeds = objective.model.frozen_class_embeds("photo")
    for i in range(len(CLASSES)):
        for j in range(len(CLASSES)):
            expected = F.cosine_similarity(embeds[i], embeds[j], dim=0)
            assert float(objective.margins[i, j]) == pytest.approx(float(expected), abs=1e-6)
    assert not any("margins" in name or "permutations" in name for name in objective.state_dict())


def test_solver_is_never_exported(tiny_clip, tmp_path):
    objective = SplipObjective(build(tiny_clip))
    assert any(name.startswith("solver.") for name in objective.state_dict())
    assert not any("solver" in name for name in objective.model.state_dict())


def test_losses_in_float32_under_autocast(tiny_clip):
    torch.manual_seed(0)
    objective = SplipObjective(build(tiny_clip))
    expected = objective(batch_of())
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(batch_of())
    for name, value in found.items():
        assert value.dtype == torch.float32 and math.isclose(float(value), float(expected[name]), rel_tol=0.05), name


def test_bad_settings(tiny_clip):
    with pytest.raises(ValueError, match=r"tau must be above 0, got 0\.0"):
        SplipSettings(tau=0.0)
    with pytest.raises(ValueError, match=r"level must be one of .*'category', 'fine_grained'.* got 'class'"):
        SplipObjective(build(tiny_clip), level="class")


def test_fine_grained_batch_without_a_second_instance(tiny_clip):
    objective = SplipObjective(build(tiny_clip), level="fine_grained")
    batch = batch_of("fine_grained") | {"label": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match="two instances of one class in a batch: raise pairs_per_class"):
        objective(batch)


def test_without_any_loss_nothing_trains(tiny_clip):
    objective = SplipObjective(build(tiny_clip), SplipSettings(triplet=0.0, alpha=0.0, beta=0.0))
    with pytest.raises(ValueError, match="Every loss has weight 0"):
        objective(batch_of("category"))


def test_the_whole_step_is_one_graph_with_the_same_losses_and_gradients(tmp_path):
    """What `--compile` compiles: a break would leave parts of the step uncompiled. One layer a tower, for time."""
    config = tiny_config(num_hidden_layers=1)
    config.text_config.num_hidden_layers = 1
    objective = SplipObjective(build(save_clip(config, tmp_path))).train()
    objective.pixels = TrainingPixels(CLIPImageProcessorPil())
    batch = {name: x.mul(50).byte() if x.ndim == 4 else x for name, x in batch_of().items()}
    names = list(objective.state_dict())

    def step():
        objective.zero_grad()
        losses = objective(batch)
        losses["loss"].backward()
        trained = [(name, p.grad.clone()) for name, p in objective.named_parameters() if p.grad is not None]
        return {name: loss.detach() for name, loss in losses.items()}, dict(trained)

    expected = step()
    objective.compile(backend="aot_eager", dynamic=False, fullgraph=True)
    for found, wanted in zip(step(), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert list(objective.state_dict()) == names


def test_bytes_without_a_normalisation_are_refused(tiny_clip):
    batch = {name: x.byte() if x.ndim == 4 else x for name, x in batch_of().items()}
    with pytest.raises(ValueError, match=r"The batch holds bytes: set objective\.pixels = TrainingPixels"):
        SplipObjective(build(tiny_clip))(batch)
