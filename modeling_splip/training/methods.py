"""The methods that can be trained, one row each."""

from typing import NamedTuple

from ..modeling_clip_at import ClipAtModel
from ..modeling_cross_align import CrossAlignModel
from ..modeling_retriever import Retriever
from ..modeling_splip import SplipModel
from .objective import Objective
from .objective_clip_at import ClipAtObjective
from .objective_cross_align import CrossAlignObjective
from .objective_splip import SplipObjective


class Method(NamedTuple):
    """The model of a method and the objective that trains it; `model.config_class` is its configuration."""

    model: type[Retriever]
    objective: type[Objective]


METHODS = {
    "splip": Method(SplipModel, SplipObjective),
    "clip_at": Method(ClipAtModel, ClipAtObjective),
    "cross_align": Method(CrossAlignModel, CrossAlignObjective),
}
