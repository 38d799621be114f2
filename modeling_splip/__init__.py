"""Zero-shot sketch-based image retrieval on Hugging Face.

Importing the package registers its models, so that `AutoConfig`, `AutoModel` and `AutoProcessor` know them.
"""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_clip_at import ClipAtConfig
from .configuration_cross_align import CrossAlignConfig
from .configuration_splip import SplipConfig, SplipEncoderConfig
from .modeling_clip_at import ClipAtModel
from .modeling_cross_align import CrossAlignModel
from .modeling_encoder import RetrievalOutput
from .modeling_splip import SplipModel
from .modeling_splip_encoder import SplipEncoder
from .processing_splip import SplipProcessor

__all__ = [
    "ClipAtConfig",
    "ClipAtModel",
    "CrossAlignConfig",
    "CrossAlignModel",
    "RetrievalOutput",
    "SplipConfig",
    "SplipEncoder",
    "SplipEncoderConfig",
    "SplipModel",
    "SplipProcessor",
]

for _config, _model in (
    (SplipConfig, SplipModel),
    (SplipEncoderConfig, SplipEncoder),
    (ClipAtConfig, ClipAtModel),
    (CrossAlignConfig, CrossAlignModel),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoProcessor.register(_config, SplipProcessor)
    # Saved folders then carry the code that they need (trust_remote_code).
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
SplipProcessor.register_for_auto_class("AutoProcessor")
