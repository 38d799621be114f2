"""A fourth method trains as soon as it has a row: generic code asks its model and its objective, not its name."""

from dataclasses import dataclass

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from modeling_splip.modeling_clip_at import ClipAtModel
from modeling_splip.training import train as train_accelerate
from modeling_splip.training.losses import triplet_loss
from modeling_splip.training.methods import METHODS, Method
from modeling_splip.training.objective import Objective, ObjectiveSettings

MEANS: dict[str, torch.Tensor] = {}


class FourthModel(ClipAtModel):
    """Stores the mean colour of its training images."""

    _auto_class = None  # so that no code is saved beside it
    stores_image_means = True

    def mean_patch(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values.mean(dim=(2, 3)).repeat(1, 11)[:, :32]  # (B, d_v)

    def set_domain_mean(self, modality: str, mean: torch.Tensor) -> None:
        MEANS[modality] = mean


@dataclass(frozen=True)
class FourthSettings(ObjectiveSettings):
    gap: float = 0.3


class FourthObjective(Objective):
    settings_class = FourthSettings

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        s, p = (
            self.encode(m, {"x": batch[key]})["x"].embeds for m, key in (("sketch", "sketch"), ("photo", "positive"))
        )
        n = p[self.negatives(batch, s, p).rows]
        return {"loss": triplet_loss(s, p, n, self.settings.gap)}


def reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(autouse=True)
def fresh_accelerator():
    reset()
    yield
    reset()


def test_a_fourth_method_needs_one_row(prepared, polygons, tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "fourth", Method(FourthModel, FourthObjective))
    words = ["--method", "fourth", "--level", "fine_grained", "--pairs_per_class", "3", "--loss.gap", "0.5"]
    words += ["--model.prompts", "1", "--mapper_learning_rate", "1e-4", "--batch_size", "12", "--max_steps", "1"]
    where = ["--dataset", str(prepared), "--base", tiny_clip, "--output", str(tmp_path / "run")]
    record = train_accelerate.main([*words, *where])
    assert record["finished"] and record["arguments"]["loss"] == {"gap": 0.5}
    assert FourthModel.from_pretrained(tmp_path / "run" / "model").config.prompts == 1
    # Sketches are black on white: their mean is brighter than the photos'.
    assert (MEANS["sketch"] > MEANS["photo"]).all()
    with pytest.raises(ValueError, match=r"Unknown loss.gapp; did you mean 'gap'\?"):
        train_accelerate.main([*words, "--loss.gapp", "1", *where])
