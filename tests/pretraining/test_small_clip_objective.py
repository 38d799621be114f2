"""Losses on cases worked out by hand; gradients; the teacher's targets; frozen measuring."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_data import write_packed, write_selection
from transformers import ResNetConfig, ResNetModel

from pretraining.backbone import build_processor, build_tokenizer, contrast
from pretraining.small_clip import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, build_model, words_of
from pretraining.small_clip_data import Batches
from pretraining.small_clip_measure import Selection, embed_all, name_accuracy
from pretraining.small_clip_objective import WEIGHTS, Objective, feature_loss, name_loss
from pretraining.small_clip_reading import read_packed
from pretraining.teacher import teach


def test_name_loss_of_equal_logits_is_the_log_of_the_names_that_compete():
    excused = torch.tensor([[False, True, True, False, False], [False] * 5])
    loss = name_loss(torch.zeros(2, 5), torch.tensor([0, 3]), excused)
    assert loss.item() == pytest.approx((math.log(3) + math.log(5)) / 2)
    assert name_loss(torch.zeros(2, 5), torch.tensor([0, 3])).item() == pytest.approx(math.log(5))


def test_an_excused_name_is_as_if_it_were_not_there():
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    excused = torch.zeros(4, 6, dtype=torch.bool)
    excused[:, 2] = True
    names = torch.tensor([0, 1, 3, 5])
    loss = name_loss(logits, names, excused)
    plain = F.cross_entropy(logits[:, [0, 1, 3, 4, 5]], torch.tensor([0, 1, 2, 4]), label_smoothing=0.05)
    torch.testing.assert_close(loss, plain)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all() and gradient[:, 2].eq(0).all() and gradient[:, 0].ne(0).all()


def test_feature_loss_is_the_cosine_distance_of_the_chosen_rows():
    a, b = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert feature_loss(a, b).item() == pytest.approx((0 + 1 + 2) / 3)
    assert feature_loss(a, b, torch.tensor([True, False, True])).item() == pytest.approx(1.0)


def test_contrast_is_symmetric_and_log_of_the_rows_for_equal_ones():
    same = F.normalize(torch.ones(4, 3), dim=1)
    assert contrast(same, same, torch.tensor(20.0)).item() == pytest.approx(math.log(4))
    a, b = (F.normalize(torch.randn(4, 3), dim=1) for _ in range(2))
    torch.testing.assert_close(contrast(a, b, torch.tensor(5.0)), contrast(b, a, torch.tensor(5.0)))


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> Batches:
    folder = tmp_path_factory.mktemp("packed") / "data"
    write_packed(folder)
    return Batches(read_packed(folder), 16, 0.2, 0.2, seed=0)


def objective_for(batches: Batches, width: int = 0) -> Objective:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(words_of(batches.pictures.names))
    names = batches.pictures.names
    return Objective(build_model(tokenizer), tokenizer, names, batches.edges, batches.drawings, width)


def test_total_is_the_weighted_sum_and_reaches_every_weight(batches):
    batches.taught = F.normalize(torch.randn(24, 12), dim=1).half()
    objective = objective_for(batches, 12)
    losses = objective(batches.draw())
    assert set(losses) == {*WEIGHTS, "total"}
    total = sum(WEIGHTS[name] * loss.item() for name, loss in losses.items() if name != "total")
    assert losses["total"].item() == pytest.approx(total, rel=1e-5)
    losses["total"].backward()
    untouched = [name for name, weight in objective.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert untouched == []
    batches.taught = None


def test_photo_loss_is_shared_between_a_photo_and_its_square(batches):
    objective = objective_for(batches)
    batch = batches.draw()._replace(own=torch.tensor(0.75))
    second = (batch.names + 1) % len(batches.pictures.names)
    batch = batch._replace(second=second, excused=torch.zeros_like(batch.excused))
    with torch.no_grad():
        mixed = objective(batch)["photos"]
        own = objective(batch._replace(own=torch.tensor(1.0)))["photos"]
        other = objective(batch._replace(names=second, own=torch.tensor(1.0)))["photos"]
    torch.testing.assert_close(mixed, 0.75 * own + 0.25 * other)
    assert "teacher" not in objective(batch)


def test_edge_maps_are_matched_with_their_own_photos(batches, monkeypatch):
    objective, batch = objective_for(batches), batches.draw()
    photos, edges = len(batch.names), batches.edges
    embeds = F.normalize(torch.randn(len(batch.pixels), 256), dim=1)
    embeds[photos : photos + edges] = embeds[:edges]
    monkeypatch.setattr(objective, "embed", lambda pixels: (embeds, pixels))
    # Cosines are 1 for a map's own photo and near 0 for the two others, at a scale of 20.
    assert edges == 3 and objective(batch)["same"].item() < 1e-3


def test_each_kind_of_picture_is_named_by_its_own_captions(batches, monkeypatch):
    objective, batch, count = objective_for(batches), batches.draw(), len(batches.pictures.names)
    captions = torch.eye(2 * count)
    names = {"photo": captions[:count], "sketch": captions[count:]}
    drawn = torch.cat([batch.names[: batches.edges], batch.drawn])
    embeds = torch.cat([names["photo"][batch.names], names["sketch"][drawn]])
    monkeypatch.setattr(objective, "name_embeds", names.get)
    monkeypatch.setattr(objective, "embed", lambda pixels: (embeds, pixels))
    losses = objective(batch._replace(own=torch.tensor(1.0)))
    # Right names cost what the smoothing costs, at most 0.05 of the scale of 14; wrong ones the scale.
    assert all(losses[kind].item() < 0.75 for kind in ("photos", "edges", "drawings"))


def test_a_teacher_gives_centred_unit_rows(tmp_path):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ResNetModel(ResNetConfig(**sizes)).save_pretrained(tmp_path)
    photos = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    targets, sentence = teach(str(tmp_path), photos, torch.device("cpu"))
    assert targets.shape == (6, 16) and "16 features" in sentence
    assert not targets.requires_grad
    torch.testing.assert_close(targets.float().norm(dim=1), torch.ones(6), atol=1e-3, rtol=0)
    assert teach("none", photos, torch.device("cpu")) == (None, "No teacher: --teacher none.")


def test_names_are_found_by_a_tower_that_knows_them(batches, monkeypatch):
    batches = copy.copy(batches)
    batches.held_photos = torch.arange(24)  # four of each of six classes
    objective, data = objective_for(batches), batches.pictures
    names = torch.eye(len(data.names))
    monkeypatch.setattr(objective, "name_embeds", lambda modality: names)
    called = iter([data.everyday.clamp(min=0), data.drawn[batches.held_drawings]])  # a photo without everyday word: 0
    monkeypatch.setattr("pretraining.small_clip_measure.embed_all", lambda *_: names[next(called)])
    # Right: "tabby" and "ox" by their everyday words, and "cat", which is name 0.
    assert name_accuracy(objective, batches) == {"photos_top1": 0.5, "drawings_top1": 1.0}


def test_selection_measures_what_a_plain_ranking_gives(tmp_path, batches):
    root = Path(write_selection(tmp_path)[1])
    selection = Selection(root, build_processor(64, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    objective = objective_for(batches)
    query, gallery = (embed_all(objective, selection.pixels[side]).double().numpy() for side in ("sketch", "photo"))
    precisions = []
    for row, label in zip(query @ gallery.T, selection.labels["sketch"], strict=True):
        right = np.array(selection.labels["photo"])[np.argsort(-row, kind="stable")] == label
        precisions.append((right.cumsum() / np.arange(1, len(right) + 1))[right].mean())
    assert selection.measure(objective) == pytest.approx(np.mean(precisions), abs=1e-6)
    assert selection.about() == {"classes": ["kite", "star"], "sketches": 4, "photos": 4}
