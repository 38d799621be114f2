"""The committed counts of kernels are those of today's code, and what the design promises holds in them."""

import json

import torch

from benchmarks.launches import RESULTS, Launches, count, encoding

REPORT = json.loads(RESULTS.read_text("utf-8"))


def test_views_and_allocations_launch_nothing():
    x = torch.randn(4, 6)
    with Launches() as launches:
        (x.t()[:2].unsqueeze(0) + torch.empty(1)).relu()
    assert dict(launches.kernels) == {"add": 1, "relu": 1} and launches.all.total() > 4


def test_the_committed_counts_are_todays():
    """Other versions of the libraries may need more or fewer operations."""
    if REPORT["versions"]["torch"] != torch.__version__:
        return
    for name, work in encoding(torch.bfloat16).items():
        found = count(work)
        expected = REPORT["now"]["bf16"][name]
        assert (found["kernels"], found["by_name"]) == (expected["kernels"], expected["by_name"]), name


def test_every_case_launches_less_than_before():
    for precision, cases in REPORT["now"].items():
        for name, row in cases.items():
            before = REPORT["before"][precision][name]
            assert row["kernels"] < before["kernels"] or name == "plain CLIP", name
    plain, folded = (REPORT["now"]["bf16"][name] for name in ("plain CLIP", "folded"))
    # One copy of prompts a layer, and the embedding in single precision, which plain CLIP's tower does not compute.
    assert folded["kernels"] - plain["kernels"] <= 12 + 10
