"""`torch.export` of every form with a batch of any size: the program computes what the model computes."""

import pytest
import torch
from method_models import CASES, build

FORMS = [*CASES, ("folded", {"conditioning": "domain"})]


@pytest.mark.parametrize(("name", "settings"), FORMS)
@torch.no_grad()
def test_the_exported_program_takes_any_batch(tiny_clip, pixels, name, settings):
    model = build("splip", settings, tiny_clip).fold() if name == "folded" else build(name, settings, tiny_clip).eval()
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}, "modality": None}
    program = torch.export.export(model, (pixels,), {"modality": "sketch"}, dynamic_shapes=shapes).module()
    for images in (pixels[:1], pixels, torch.cat([pixels, pixels.flip(0)])):
        found, expected = program(images, modality="sketch"), model(images, "sketch")
        assert torch.equal(found.embeds, expected.embeds)
        if expected.class_embeds is not None:
            assert torch.equal(found.class_embeds, expected.class_embeds)
