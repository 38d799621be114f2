"""Zero-shot sketch-based image retrieval on Hugging Face.

Importing the package imports neither torch nor transformers: its public names are imported when they are first used.
`AutoConfig`, `AutoModel` and `AutoProcessor` know its models, whether transformers is imported before or after it.

The files beside this one are what a model's Hub repository may carry with it:
    configuration_*     the settings of a model; configuration_retriever has what they have in common
    modeling_base  what searching needs of every model: forward, encode, fingerprint, loading
    modeling_retriever  what every trained model has in common: a frozen CLIP with small trained parts
    modeling_*          the models: SpLIP and its folded encoder, CLIP-AT, the alignment network
    adapters            the small trained parts; adapters_peft puts PEFT's into CLIP
    class_prompts       the text tower, and class names as tokens, packed into a few sequences for it
    clip_backbone       CLIP, layer by layer; clip_base finds and loads a pretrained one
    checkpoint_files    the files of a checkpoint
    fingerprints        fingerprints of weights, and whether recorded weights were changed since
    processing_splip    images and texts to model inputs; image_files opens image files, image_memory bounds memory
    sentence_module     what sentence-transformers loads of a saved folder

The rooms: `common` (what every room uses), `loading` (a model and its processor by name), `data`, `metrics`,
`training`, `evaluation`, `search`, `sharing` (cards, and a model in PEFT's and in ONNX's form), `commands` (the `splip`
command) and `pretrained` (packaged weights).
"""

from .common.auto_classes import register_when_used
from .common.lazy import lazy_names

# Every model, by its model type: the file and name of its configuration class, and of its model class.
MODELS = {
    "splip": ("configuration_splip", "SplipConfig", "modeling_splip", "SplipModel"),
    "splip_encoder": ("configuration_splip", "SplipEncoderConfig", "modeling_splip_encoder", "SplipEncoder"),
    "clip_at": ("configuration_clip_at", "ClipAtConfig", "modeling_clip_at", "ClipAtModel"),
    "cross_align": ("configuration_cross_align", "CrossAlignConfig", "modeling_cross_align", "CrossAlignModel"),
}

_PLACES = {"RetrievalOutput": "modeling_base", "SplipProcessor": "processing_splip"}
for _config_file, _config, _model_file, _model in MODELS.values():
    _PLACES |= {_config: _config_file, _model: _model_file}

__all__ = sorted(_PLACES)
__getattr__, __dir__ = lazy_names(__name__, _PLACES)

register_when_used(
    __name__, {kind: (config, model) for kind, (_, config, _, model) in MODELS.items()}, "SplipProcessor"
)
