"""Fine-grained accuracy on galleries per class and pooled."""

import numpy as np
import pytest

from modeling_splip.metrics import ranking as metric_ranking
from modeling_splip.metrics.by_instance import instance_accuracy


class TestInstances:
    """Two classes; photos a1 a2 b1 b2; similarity to a query is its own vector."""

    gallery = np.eye(4, dtype=np.float32)
    instances, labels = ["a1", "a2", "b1", "b2"], ["a", "a", "b", "b"]

    def test_pooled_and_per_class_galleries_differ(self):
        query = np.array([[0.5, 0.1, 0.9, 0.8], [0.2, 0.3, 0.1, 0.9]])  # a1 is third, b1 is last; in class: first, last
        pooled = instance_accuracy(query, self.gallery, ["a1", "b1"], self.instances, ks=(1, 3), per_query=True)
        assert pooled["per_query"]["rank"].tolist() == [3, 4]
        assert pooled["metrics"] == {"acc_1": 0.0, "acc_3": 0.5, "mrr": pytest.approx((1 / 3 + 1 / 4) / 2)}
        inside = instance_accuracy(
            query, self.gallery, ["a1", "b1"], self.instances, ["a", "b"], self.labels, ks=(1, 2)
        )
        assert inside["metrics"] == {"acc_1": 0.5, "acc_2": 1.0, "mrr": 0.75}
        assert (inside["n_query"], inside["n_gallery"], inside["n_excluded"]) == (2, 4, 0)

    def test_an_id_of_another_class_is_another_photo(self):
        query = np.array([[0.1, 0.2, 0.9, 0.8]])
        instances = ["1", "2", "1", "2"]  # numbered anew in every class
        result = instance_accuracy(query, self.gallery, ["1"], instances, ["a"], self.labels, ks=(1, 2))
        assert result["metrics"] == {"acc_1": 0.0, "acc_2": 1.0, "mrr": 0.5}

    def test_ties_are_pessimistic_and_counted(self):
        result = instance_accuracy(np.ones((1, 4)), self.gallery, ["b1"], self.instances)
        assert result["metrics"]["acc_1"] == 0.0 and result["metrics"]["acc_5"] == 1.0
        assert result["ties"] == {"mixed": 1}

    def test_several_photos_of_one_instance_count_once(self):
        result = instance_accuracy(np.array([[0.1, 0.9, 0.8, 0.0]]), self.gallery, ["x"], ["y", "x", "x", "z"], ks=(1,))
        assert result["metrics"] == {"acc_1": 1.0, "mrr": 1.0}

    def test_sketches_without_their_photo(self):
        query = np.eye(4)[[0, 1, 2]]
        instances = ["a1", "", "c9"]
        with pytest.raises(ValueError, match=r"2 of 3 queries have no relevant photo .*instance '', 'c9'"):
            instance_accuracy(query, self.gallery, instances, self.instances)
        gallery_instances = ["a1", "", "b1", "b2"]  # an unknown sketch is not a sketch of an unknown photo
        result = instance_accuracy(
            query, self.gallery, instances, gallery_instances, ks=(1,), missing="exclude", per_query=True
        )
        assert (result["n_query"], result["n_excluded"], result["metrics"]["acc_1"]) == (1, 2, 1.0)
        assert np.isnan(result["per_query"]["acc_1"]).tolist() == [False, True, True]

    def test_equals_the_plain_loop(self, monkeypatch):
        monkeypatch.setattr(metric_ranking, "BLOCK_BYTES", 1)
        rng = np.random.default_rng(4)
        query, gallery = rng.integers(-2, 3, (50, 5)), rng.integers(-2, 3, (40, 5))
        labels, own = np.arange(40) % 3, rng.integers(0, 40, 50)
        scores = query @ gallery.T
        for same in (np.ones((50, 40), bool), labels[own][:, None] == labels):
            given = {} if same.all() else {"query_labels": labels[own], "gallery_labels": labels}
            result = instance_accuracy(query, gallery, own, np.arange(40), **given, per_query=True)
            rank = [sum(same[i] & (scores[i] >= scores[i, own[i]])) for i in range(50)]
            assert result["per_query"]["rank"].tolist() == rank
            assert result["metrics"]["acc_5"] == np.mean(np.array(rank) <= 5)

    def test_labels_go_together(self):
        with pytest.raises(ValueError, match="go together"):
            instance_accuracy(np.eye(4), self.gallery, self.instances, self.instances, query_labels=self.labels)


def test_given_scores_are_ranked_instead_of_dot_products():
    rng = np.random.default_rng(5)
    query, gallery, ids = rng.standard_normal((9, 4)), rng.standard_normal((9, 4)), np.arange(9)
    scores = rng.standard_normal((9, 9))
    found = instance_accuracy(query, gallery, ids, ids, scores=scores, per_query=True)["per_query"]["rank"]
    assert found.tolist() == [1 + int((row > row[own]).sum()) for own, row in enumerate(scores)]
    with pytest.raises(ValueError, match="scores has 8 rows for 9 queries"):
        instance_accuracy(query, gallery, ids, ids, scores=scores[:8])


@pytest.mark.parametrize("scores", [np.full((2, 2), np.nan), None])
def test_scores_that_are_no_numbers_are_refused(scores):
    query = np.array([[1e300, 0], [0, 1]])  # infinite in single precision, and then NaN in the product
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="scores hold NaN"):
        instance_accuracy(query, query, ["a", "b"], ["b", "a"], scores=scores)
