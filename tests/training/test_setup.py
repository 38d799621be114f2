"""What a training consists of: losses that compare classes get micro-batches that hold several."""

import pytest

from modeling_splip.data.dataset import open_dataset
from modeling_splip.training.arguments import parse_arguments
from modeling_splip.training.setup import build_training

GROUPS = ["--recipe", "clip_at_mini_fg", "--pairs_per_class", "3", "--validation_classes", "2"]


@pytest.mark.parametrize(("processes", "words"), [(1, ["--accumulation", "4"]), (4, []), (1, ["--batch_size", "3"])])
def test_a_divergence_that_would_always_be_0_is_refused(tiny_clip, prepared, processes, words):
    args = parse_arguments([*GROUPS, "--dataset", str(prepared), "--base", tiny_clip, "--batch_size", "12", *words])
    micro_batches = processes * args.accumulation
    sentence = (
        rf"^A micro-batch of 3 holds one group of pairs_per_class=3, .* would always be 0: make batch_size at least "
        rf"{6 * micro_batches}, lower pairs_per_class, or set loss\.divergence to 0\.$"
    )
    with pytest.raises(ValueError, match=sentence):
        build_training(args, open_dataset(prepared), processes)
    args.loss["divergence"] = 0.0
    assert build_training(args, open_dataset(prepared), processes).batches.batch_size == 3


def test_two_groups_in_a_micro_batch_are_enough(tiny_clip, prepared):
    args = parse_arguments([*GROUPS, "--dataset", str(prepared), "--base", tiny_clip, "--batch_size", "12"])
    assert build_training(args, open_dataset(prepared), 2).objective.compares_classes == "divergence"
