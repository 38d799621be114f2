"""What a training step asks of a device, seen without one: nothing on the CPU, no waiting, one graph for all batches.

Tensors of the device `meta` have no content. So whatever reads a number of them fails, as it would make a GPU wait.
"""

import contextlib

import pytest
import torch
from method_models import batch_of, build
from torch._dynamo.utils import counters
from torch.nn import functional as F

from modeling_splip import class_prompts
from modeling_splip.class_prompts import constant_prompts
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.training.methods import METHODS
from modeling_splip.training.pixels import TrainingPixels

EVERY_LOSS = {"shuffle": 1.0, "contrast": 1.0, "spread": 1.0, "anchor": 1.0, "clarity": True}
CASES = [
    ("splip", "category", {}),
    ("splip", "category", {"within": 1.0} | EVERY_LOSS),
    ("splip", "fine_grained", {}),
    ("splip", "fine_grained", EVERY_LOSS),
    ("clip_at", "category", {}),
    ("clip_at", "fine_grained", {}),
    ("clip_at", "fine_grained", {"divergence_over": "running"}),
    ("cross_align", "category", {}),
    ("cross_align", "fine_grained", {}),
]


class Processor:
    """The settings of a CLIP's image processor that normalising needs."""

    do_rescale = do_normalize = True
    rescale_factor, image_mean, image_std = 1 / 255, [0.5, 0.4, 0.3], [0.2, 0.3, 0.5]


def objective_of(method, level, settings, base, **model):
    kind = METHODS[method].objective
    objective = kind(build(method, model, base), kind.settings_class(**settings), level).train()
    objective.pixels = TrainingPixels(Processor())
    return objective


def bytes_of(level, shift=0):
    batch = {name: x.mul(50).byte() if x.ndim == 4 else x for name, x in batch_of(level).items()}
    return batch | {"draw": batch["draw"] // (1 + shift)}


class Graphs:
    """A compiler that keeps the graphs as they are and notes which devices their tensors lie on."""

    def __init__(self):
        self.devices = []

    def __call__(self, module, examples):
        values = [node.meta.get("example_value") for node in module.graph.nodes]
        constants = [*module.parameters(), *module.buffers()]
        self.devices.append({each.device.type for each in (*values, *constants) if isinstance(each, torch.Tensor)})
        return module.forward


@pytest.fixture
def no_autocast(monkeypatch):
    """`meta` knows no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


@pytest.mark.parametrize(("method", "level", "settings"), CASES)
def test_a_compiled_step_is_one_graph_on_one_device(tiny_clip, no_autocast, method, level, settings):
    """A tensor on the CPU would keep a step from being recorded as a CUDA graph."""
    torch.compiler.reset()
    counters.clear()
    objective, graphs = objective_of(method, level, settings, tiny_clip), Graphs()
    compiled = torch.compile(objective.to("meta"), backend=graphs, fullgraph=True, dynamic=False)
    compiled({name: x.to("meta") for name, x in bytes_of(level).items()})["loss"].backward()
    assert graphs.devices == [{"meta"}]


@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_single_operations_waits_for_nothing(tiny_clip, no_autocast, method):
    """At fine-grained level one question is left: whether there is a negative at all."""
    objective = objective_of(method, "category", {}, tiny_clip).to("meta")
    objective({name: x.to("meta") for name, x in bytes_of("category").items()})["loss"].backward()


def test_domain_conditioning_waits_once_for_each_mean(tiny_clip, no_autocast, monkeypatch):
    objective = objective_of("splip", "category", {}, tiny_clip, conditioning="domain").to("meta")
    batch = {name: x.to("meta") for name, x in bytes_of("category").items()}
    with pytest.raises((RuntimeError, NotImplementedError)):
        objective(batch)
    monkeypatch.setattr(SplipModel, "_check_domain_mean", lambda *_: None)  # as it is from the second call on
    objective(batch)["loss"].backward()


def test_batches_of_other_content_compile_nothing_again(tiny_clip):
    torch.compiler.reset()
    objective, graphs = objective_of("splip", "fine_grained", {}, tiny_clip), Graphs()
    compiled = torch.compile(objective, backend=graphs, fullgraph=True, dynamic=False)
    losses = set()
    for step, labels in enumerate(([2, 0, 2, 0], [1, 1, 1, 3], [2, 2, 2, 2])):
        batch = bytes_of("fine_grained", step) | {"label": torch.tensor(labels)}
        eager = objective(batch)
        found = compiled(batch)
        assert found.keys() == eager.keys()
        torch.testing.assert_close(found["loss"], eager["loss"], atol=1e-6, rtol=1e-6)
        losses.add(float(found["loss"].detach()))
    assert len(graphs.devices) == 1 and len(losses) == 3


def test_masks_stay_aligned_in_half_precision_and_in_a_batch(tiny_clip, monkeypatch):
    """A GPU's fused attention takes rows that start at multiples of eight numbers, and copies others in every layer."""
    seen, attend = [], F.scaled_dot_product_attention

    def watched(q, k, v, attn_mask=None, **options):
        if attn_mask is not None:
            seen.append((attn_mask.dtype == q.dtype, attn_mask.shape[-1], attn_mask.stride()))
        return attend(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    model = build("splip", {}, tiny_clip)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(3, 3, 32, 32), "sketch").embeds.sum().backward()
    length = seen[0][1]
    assert len(seen) == 3 and length % class_prompts.MASK_ALIGNMENT, "a length that is aligned by itself shows nothing"
    assert all(same and stride[-1] == 1 for same, _, stride in seen)
    assert not any(step % class_prompts.MASK_ALIGNMENT for _, _, stride in seen for step in stride[:-1])


def test_constants_made_in_inference_serve_a_training(tiny_clip):
    model = build("splip", {}, tiny_clip)
    arguments = model.config.prefix_token_ids["sketch"], [[9, 8, 7]], 2, torch.device("cpu")
    with torch.inference_mode():
        first = constant_prompts(*arguments)
        model(torch.randn(2, 3, 32, 32), "sketch")
    assert all(one is other for one, other in zip(constant_prompts(*arguments), first, strict=True))
    assert not any(each.is_inference() for each in first)
    model(torch.randn(2, 3, 32, 32), "sketch").embeds.sum().backward()


def test_constants_made_while_a_model_is_exported_are_not_kept():
    from torch._subclasses.fake_tensor import FakeTensorMode

    arguments = [1, 2], [[31, 32, 33]], 1, torch.device("cpu")
    with FakeTensorMode():
        constant_prompts(*arguments)
    assert all(type(each) is torch.Tensor for each in constant_prompts(*arguments))
