"""What goes to the Hub beside the weights.

- `eval_results`: results in the form that the Hub's leaderboards gather.
- `model_card`: README.md from `model_card_template.md`, a configuration, and the records of training and evaluation.
- `onnx_export`: a model as one ONNX file.
- `peft_export`: the LayerNorm adapters in PEFT's form.
- `private`: leaving out this machine's paths, and notes inside pictures.
"""

from ..common.lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "CardFacts": "model_card",
        "export_onnx": "onnx_export",
        "export_peft": "peft_export",
        "render_card": "model_card",
        "render_eval_results": "eval_results",
    },
)
