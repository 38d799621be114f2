"""Commands of several processes leave their group before they end, so that none ends while another listens to it."""

import galleries
import numpy as np
import pytest
from torch import distributed

from modeling_splip.commands.main import main
from modeling_splip.common.processes import leave_group, on_cpu

own_cache, photos = galleries.own_cache, galleries.photos


@pytest.fixture
def group():
    """A group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_the_group_is_left(group):
    assert on_cpu() in (True, False) and distributed.is_initialized()
    leave_group()
    assert not distributed.is_initialized()
    leave_group()  # a process without a group has nothing to leave


def test_indexing_leaves_the_group(group, photos, tmp_path):
    words = ["index", str(photos), "--model", "clip:mini_clip", "--out", str(tmp_path / "G"), "--quiet"]
    assert main(words) == 0
    assert not distributed.is_initialized()


def test_evaluating_leaves_the_group_before_results_are_written(group, tmp_path, monkeypatch):
    from modeling_splip.commands import evaluate

    left = []
    monkeypatch.setattr(evaluate, "write_results", lambda *_: left.append(not distributed.is_initialized()))
    rng, file = np.random.default_rng(0), tmp_path / "mine.npz"
    query, gallery = rng.standard_normal((6, 4)), rng.standard_normal((9, 4))
    np.savez(file, query=query, gallery=gallery, query_label=np.arange(6) % 3, gallery_label=np.arange(9) % 3)
    assert main(["evaluate", "--features", str(file)]) == 0
    assert left == [True]
