"""The methods that can be trained: each row is one method's configuration, model and objective."""

from typing import NamedTuple

from ..configuration_clip_at import ClipAtConfig
from ..configuration_cross_align import CrossAlignConfig
from ..configuration_splip import SplipConfig
from ..modeling_clip_at import ClipAtModel
from ..modeling_cross_align import CrossAlignModel
from ..modeling_splip import SplipModel
from .objective_clip_at import ClipAtObjective
from .objective_cross_align import CrossAlignObjective
from .objective_splip import SplipObjective


class Method(NamedTuple):
    """One row of the registry."""

    config: type
    model: type
    objective: type


METHODS = {
    "splip": Method(SplipConfig, SplipModel, SplipObjective),
    "clip_at": Method(ClipAtConfig, ClipAtModel, ClipAtObjective),
    "cross_align": Method(CrossAlignConfig, CrossAlignModel, CrossAlignObjective),
}
