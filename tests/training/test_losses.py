"""Losses on cases worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from modeling_splip.training.losses import (
    adaptive_margins,
    clarity,
    class_loss,
    conditional_jigsaw_loss,
    contrastive_loss,
    cosine_distance,
    hard_triplet_loss,
    hardest_in_class,
    relation_loss,
    relative_distance_divergence,
    spread_loss,
    squared_distance,
    triplet_loss,
)

X, Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_squared_distance():
    a, b = torch.stack([X, X, X]), torch.stack([X, Y, -X])
    assert squared_distance(a, b).tolist() == [0.0, 2.0, 4.0]


def test_adaptive_margins_are_cosines():
    table = adaptive_margins(torch.stack([2 * X, 3 * Y, X + Y]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(table, torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]]))


def test_identical_features_give_the_margin():
    x = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert triplet_loss(x, x, x, 0.2).item() == pytest.approx(0.2)
    margins = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    assert triplet_loss(x, x, x, margins).item() == pytest.approx(0.3)


def test_triplet_by_hand():
    # Row 1: 0 - 4 + 0.5 < 0 gives 0. Row 2: 2 - 2 + 0.5. Row 3: 4 - 0 + 0.5. Row 4: 2 - 4 + 0.5 < 0 gives 0.
    sketch = torch.stack([X, X, X, X])
    positive, negative = torch.stack([X, Y, -X, Y]), torch.stack([-X, -Y, X, -X])
    assert triplet_loss(sketch, positive, negative, 0.5).item() == pytest.approx((0 + 0.5 + 4.5 + 0) / 4)
    assert triplet_loss(sketch, positive, negative, torch.tensor([5.0, 0, 0, 0])).item() == pytest.approx((1 + 4) / 4)


@pytest.mark.parametrize("shape", [(1, 7, 4), (3, 7, 4)], ids=["one for all", "one for each image"])
def test_zero_embeddings_give_log_c(shape):
    labels = torch.tensor([0, 3, 6])
    assert class_loss(torch.zeros(3, 4), torch.randn(shape), labels, 0.07).item() == pytest.approx(math.log(7))


def test_class_loss_by_hand():
    classes = torch.stack([X, Y])[None]
    # cos is (1, 0): softmax at tau = 0.5 gives class 0 e^2 / (e^2 + 1).
    right, wrong = -math.log(math.e**2 / (math.e**2 + 1)), -math.log(1 / (math.e**2 + 1))
    assert class_loss(X[None], classes, torch.tensor([0]), 0.5).item() == pytest.approx(right)
    loss = class_loss(torch.stack([X, X]), classes, torch.tensor([0, 1]), 0.5)
    assert loss.item() == pytest.approx((right + wrong) / 2)


def test_class_loss_reads_each_image_its_own_class_embeddings():
    own = torch.stack([torch.stack([X, Y]), torch.stack([Y, X])])  # (2, 2, 2)
    loss = class_loss(torch.stack([X, X]), own, torch.tensor([0, 1]), 0.01)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_conditional_jigsaw_by_hand():
    labels = torch.tensor([1, 0])
    even = torch.zeros(2, 4)  # cross-entropy log 4
    sure = torch.full((2, 4), -100.0)
    sure[[0, 1], labels] = 100.0  # cross-entropy 0
    log4 = math.log(4)
    # r+ names the permutation better than r-: the conditional term is zero.
    assert conditional_jigsaw_loss(even, sure, even, labels).item() == pytest.approx(log4)
    # r- is better: its advantage is added.
    assert conditional_jigsaw_loss(even, even, sure, labels).item() == pytest.approx(log4 + log4)
    assert conditional_jigsaw_loss(sure, even, even, labels).item() == pytest.approx(0)
    # Row by row: what row 0 loses, row 1 cannot make good.
    mixed = torch.stack([sure[0], even[1]])
    assert conditional_jigsaw_loss(sure, mixed, mixed.flip(0)[:, [1, 0, 2, 3]], labels).item() == pytest.approx(
        log4 / 2
    )


def test_conditional_jigsaw_leaves_out_rows_without_a_negative():
    labels, even = torch.tensor([0, 0]), torch.zeros(2, 2)
    worse = torch.tensor([[0.0, 0.0], [-50.0, 50.0]])
    loss = conditional_jigsaw_loss(even, worse, even, labels, keep=torch.tensor([True, False]))
    assert loss.item() == pytest.approx(math.log(2))


def test_contrastive_loss_by_hand():
    """Two sketches, three photos: the first sketch has two positives, the second one, and one photo has none."""
    sketch = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    photo = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    labels = torch.tensor([3, 5]), torch.tensor([3, 3, 7])
    tau = 0.5
    scores = [[2.0, 1.2, 0.0]]  # cosines of the first sketch / tau; the second one has no positive and does not count
    by_sketch = math.log(sum(map(math.exp, scores[0]))) - (2.0 + 1.2) / 2
    by_photo = [math.log(math.exp(2.0) + math.exp(0.0)) - 2.0, math.log(math.exp(1.2) + math.exp(1.6)) - 1.2]
    expected = (by_sketch + sum(by_photo) / 2) / 2
    assert float(contrastive_loss(sketch, photo, *labels, tau)) == pytest.approx(expected)


def test_contrastive_loss_of_equal_embeddings_is_log_n():
    same = torch.ones(4, 3)
    assert float(contrastive_loss(same, same, torch.arange(4), torch.arange(4), 0.1)) == pytest.approx(math.log(4))


def test_weights_count_sketches():
    """A row of weight 0 is as if it were not there; weights of all rows together change nothing."""
    generator = torch.Generator().manual_seed(0)
    s, p, n = F.normalize(torch.randn(3, 4, 8, generator=generator), dim=-1)
    weight, labels = torch.tensor([2.0, 0.0, 2.0, 1.0]), torch.arange(4)
    by_hand = sum(w * float(triplet_loss(*(x[i : i + 1] for x in (s, p, n)), 1.0)) for i, w in enumerate(weight)) / 5
    assert float(triplet_loss(s, p, n, 1.0, weight=weight)) == pytest.approx(by_hand)
    plain = contrastive_loss(s, p, labels, labels, 0.5)
    assert float(contrastive_loss(s, p, labels, labels, 0.5, 3 * torch.ones(4))) == pytest.approx(float(plain))
    rows = F.cross_entropy(s @ p.T / 0.5, labels, reduction="none")
    expected = ((rows * weight).sum() / 5 + F.cross_entropy(p @ s.T / 0.5, labels)) / 2
    assert float(contrastive_loss(s, p, labels, labels, 0.5, weight)) == pytest.approx(float(expected))


def test_spread_by_hand():
    assert float(spread_loss(torch.stack([X, X, X]))) == 1.0
    assert float(spread_loss(torch.stack([X, Y]))) == 0.0
    assert float(spread_loss(torch.stack([X, X, -X]))) == pytest.approx(1 / 3)  # cosines 1, -1, -1: their mean is -1/3


def test_hard_triplets_by_hand():
    """Rows 0, 1 and 2 are of one class and rows 3 of another; row 4 has no partner and is only a negative."""
    angles = torch.tensor([0.0, 0.2, 0.9, 0.5, 1.4])
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels, margins = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([[1.0, 0.3, 0.5], [0.3, 1.0, 0.2], [0.5, 0.2, 1.0]])
    wanted = {0: (2, 3), 1: (2, 3), 2: (0, 3)}  # farthest of the class, nearest of another one

    def gap(a: int, b: int) -> float:
        return 2 - 2 * math.cos(float(angles[a] - angles[b]))

    expected = sum(max(0, gap(i, p) - gap(i, n) + 0.3) for i, (p, n) in wanted.items()) / 3
    assert float(hard_triplet_loss(x, labels, margins)) == pytest.approx(expected, rel=1e-5)
    assert float(hard_triplet_loss(x, torch.arange(5), torch.eye(5))) == 0.0


def test_clarity_by_hand():
    """In the middle of two classes CLIP knows nothing; on one of them nearly all."""
    classes = torch.stack([X, Y])
    middle = F.normalize(X + Y, dim=0)
    found = clarity(torch.stack([middle, X]), classes, 0.5)
    odds = math.exp(2) / (1 + math.exp(2))
    entropy = -(odds * math.log(odds) + (1 - odds) * math.log(1 - odds)) / math.log(2)
    torch.testing.assert_close(found, torch.tensor([0.0, 1 - entropy]), atol=1e-6, rtol=1e-5)


def test_hardest_in_class_by_hand():
    sketch = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2], [1.0, 0.0]]), dim=-1)
    photo = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), dim=-1)
    labels = torch.tensor([0, 0, 1, 0, 2])
    instances = torch.tensor([10, 11, 12, 13, 14])
    index, exists = hardest_in_class(sketch, photo, labels, instances)
    # Photo 2 is nearest to sketch 0 but of another class; photo 0 its own. Left: photo 3, then photo 1.
    assert index.tolist() == [3, 0, 0, 0, 0] and exists.tolist() == [True, True, False, True, False]


def test_hardest_in_class_skips_other_pictures_of_the_instance():
    """The same instance may be twice in a batch, by two of its sketches."""
    x = torch.stack([X, X, Y])
    index, exists = hardest_in_class(x, x, torch.zeros(3).long(), torch.tensor([5, 5, 6]))
    assert index.tolist() == [2, 2, 0] and exists.all()


def test_float32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    x, classes = (F.normalize(torch.randn(n, 64, generator=generator), dim=-1) for n in (32, 50))
    labels = torch.arange(32)
    same = labels * 0
    expected = class_loss(x, classes[None], labels, 0.07), hardest_in_class(x, x, same, labels)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = class_loss(x, classes[None], labels, 0.07), hardest_in_class(x, x, same, labels)[0]
    assert found[0].dtype == torch.float32 and found[0] == expected[0] and torch.equal(found[1], expected[1])


def test_triplet_with_the_cosine_distance():
    # 1 - cos: row 1 has 0 - 1 + 0.3 < 0, row 2 has 1 - 0 + 0.3, row 3, not of unit length, 2 - 1 + 0.3.
    sketch = torch.stack([X, X, 3 * X])
    positive, negative = torch.stack([X, Y, -2 * X]), torch.stack([Y, X, Y])
    assert cosine_distance(sketch, positive).tolist() == [0.0, 1.0, 2.0]
    found = triplet_loss(sketch, positive, negative, 0.3, cosine_distance)
    assert found.item() == pytest.approx((0 + 1.3 + 1.3) / 3)


def test_the_identity_permutation_gives_the_shuffle_its_margin():
    """Where both permutations are one, the photo is as near under one as under the other."""
    photo = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    sketch = photo.roll(1, dims=0)
    assert triplet_loss(sketch, photo, photo, 0.3, cosine_distance).item() == pytest.approx(0.3)


DELTAS, LABELS = torch.tensor([0.1, 0.3, 0.1, 0.3]), torch.tensor([4, 4, 9, 9])


@pytest.mark.parametrize("form", ["gaussian", "softmax"])
def test_equal_distributions_have_no_divergence(form):
    assert relative_distance_divergence(DELTAS, LABELS, form).item() == pytest.approx(0, abs=1e-7)
    # A class with one delta counts nowhere, and one class alone has nothing to differ from.
    more = torch.cat([DELTAS, torch.tensor([5.0])]), torch.cat([LABELS, torch.tensor([7])])
    assert relative_distance_divergence(*more, form).item() == pytest.approx(0, abs=1e-7)
    assert relative_distance_divergence(DELTAS, torch.tensor([4, 4, 4, 9]), form).item() == 0


def test_a_shifted_class_diverges_in_the_gaussian_form_only():
    shifted = DELTAS + 0.2 * (LABELS == 9)
    # Both variances are 0.01 + floor^2 = 0.02: KL = 0.2^2 / (2 x 0.02) both ways.
    found = relative_distance_divergence(shifted, LABELS, "gaussian", floor=0.1)
    assert found.item() == pytest.approx(0.04 / 0.04)
    assert relative_distance_divergence(shifted, LABELS, "softmax").item() == pytest.approx(0, abs=1e-6)


def test_a_wider_class_diverges_in_both_forms():
    wide = torch.tensor([0.0, 1.0, 0.0, 3.0])
    # Gaussian: means 0.5 and 1.5, variances 0.25 and 2.25, without a floor; KL both ways by the closed form.
    first = math.log(3) + (0.25 + 1) / (2 * 2.25) - 0.5
    second = -math.log(3) + (2.25 + 1) / (2 * 0.25) - 0.5
    found = relative_distance_divergence(wide, LABELS, "gaussian", floor=0.0)
    assert found.item() == pytest.approx((first + second) / 2)
    p, q = 1 / (1 + math.e), 1 / (1 + math.e**3)
    kl = [a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in ((p, q), (q, p))]
    assert relative_distance_divergence(wide, LABELS, "softmax").item() == pytest.approx(sum(kl) / 2, rel=1e-5)


def test_softmax_compares_classes_of_different_size_at_quantiles():
    # 0, 1/2, 1 at the two levels of the smaller class is 0, 1.
    deltas = torch.tensor([0.0, 1.0, 1.0, 0.5, 0.0])
    assert relative_distance_divergence(deltas, torch.tensor([1, 1, 2, 2, 2]), "softmax").item() == pytest.approx(
        0, abs=1e-7
    )


def test_relation_loss_by_hand():
    found = relation_loss(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.2]))
    assert found.item() == pytest.approx((0.125 + 0.02) / 2)
