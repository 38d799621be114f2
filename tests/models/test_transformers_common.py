"""transformers' own tests of any model and any processor, run on those of this package.

They are in transformers' source distribution alone. TRANSFORMERS_SOURCE names its folder, of the installed version;
CONTRIBUTING.md says how to get it. Without it these tests are skipped.
"""

import importlib
import os
import re
import sys
import types
import unittest
import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import transformers
from tiny import CLASSES, byte_tokenizer, tiny_config
from transformers import CLIPImageProcessorPil

import modeling_splip
from modeling_splip import checkpoint_files
from modeling_splip.configuration_retriever import tokenize_class_prompts
from modeling_splip.processing_splip import SplipProcessor

SOURCE = Path(os.environ.get("TRANSFORMERS_SOURCE") or Path(transformers.__file__).parents[2])

_NO_LOSS = "an objective holds the losses, and the output of a model has none; test_transformers_habits.py compares"
# What does not apply -> why.
NOT_FOR_MODELS = {
    "test_model_get_set_embeddings": "images enter by a convolution, as in CLIPVisionModel: no nn.Embedding to replace",
    "test_can_init_all_missing_weights": "CLIP leaves logit_scale out; test_transformers_habits.py tests our parts",
    "test_training": _NO_LOSS,
    "test_training_gradient_checkpointing": _NO_LOSS,
    "test_training_gradient_checkpointing_use_reentrant_false": _NO_LOSS,
    "test_training_gradient_checkpointing_use_reentrant_true": _NO_LOSS,
    "test_enable_input_require_grads_with_gradient_checkpointing": _NO_LOSS,
}
NOT_FOR_ENCODER = {
    f"test_get_text_features_{what}": "a folded encoder keeps no text tower"
    for what in ("output_0", "output_1", "output_2", "hidden_states", "attentions")
}
NOT_FOR_CLIP_AT = {
    "test_retain_grad_hidden_states_attentions": "the states that come back are cut out of those with the prompts"
}
NOT_FOR_PROCESSOR = {
    "test_processor_text_has_no_visual": "texts hold no place for an image, so there are no nested lists of images"
}
# What applies but for one thing that this package does on purpose -> what is switched off for the test.
_REFUSAL = (checkpoint_files, "check_report", lambda *_: None)  # weights that lack tensors are refused
_CODE = (SplipProcessor, "_auto_class", None)  # a processor that was saved knows the place of its code
SWITCHED_OFF = {
    "test_model_weights_reload_no_missing_tied_weights": _REFUSAL,
    "test_processor_from_and_save_pretrained": _CODE,
    "test_processor_from_and_save_pretrained_as_nested_dict": _CODE,
}


def load_testers() -> tuple[type, type]:
    """Return transformers' test classes, or skip this file."""
    version = SOURCE / "src" / "transformers" / "__init__.py"
    if not (SOURCE / "tests" / "test_modeling_common.py").is_file() or not version.is_file():
        pytest.skip("TRANSFORMERS_SOURCE names no source distribution of transformers", allow_module_level=True)
    found = re.search(r'^__version__ = "(.+)"', version.read_text("utf-8"), re.MULTILINE)
    if found is None or found[1] != transformers.__version__:
        pytest.skip(f"{SOURCE} is not transformers {transformers.__version__}", allow_module_level=True)
    pytest.importorskip("parameterized", reason="transformers' tests need parameterized")
    root = "transformers_tests"
    # What the tests import and the source distribution lacks.
    parts = {
        root: {"__path__": [str(SOURCE / "tests")]},
        f"{root}.exporters": {},
        f"{root}.exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        f"{root}.generation": {},
        f"{root}.generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "fetch_hub_objects_for_ci": {"url_to_local_path": str},
    }
    for name, content in parts.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pytest does not know the marks of these tests
        modeling, processing = (
            importlib.import_module(f"{root}.test_{subject}_common") for subject in ("modeling", "processing")
        )
    return modeling.ModelTesterMixin, processing.ProcessorTesterMixin


ModelTesterMixin, ProcessorTesterMixin = load_testers()


class Applying:
    """A test case that skips what does not apply."""

    not_for_us: dict[str, str] = {}  # noqa: RUF012

    def setUp(self):
        if self._testMethodName in self.not_for_us:
            self.skipTest(self.not_for_us[self._testMethodName])
        if self._testMethodName in SWITCHED_OFF:
            switched_off = patch.object(*SWITCHED_OFF[self._testMethodName])
            switched_off.start()
            self.addCleanup(switched_off.stop)


class Inputs:
    """What transformers calls a model tester: a small configuration, inputs, and the sizes of what comes back."""

    batch_size = 3
    is_training = False
    num_hidden_layers = 2
    num_attention_heads = 4
    hidden_size = 32
    seq_length = 17
    prompts = {"splip": 12, "clip_at": 3, "cross_align": 0, "splip_encoder": 2}  # noqa: RUF012

    def __init__(self, kind: str):
        self.kind = kind
        self.key_length = self.seq_length + self.prompts[kind]

    def get_config(self):
        config_class = getattr(modeling_splip, modeling_splip.MODELS[self.kind][1])
        clip = tiny_config(num_hidden_layers=self.num_hidden_layers)
        clip.text_config.num_hidden_layers = self.num_hidden_layers
        if self.kind == "splip_encoder":
            return config_class(clip_config=clip, prompt_counts={"sketch": [2, 2], "photo": [2, 2]})
        prefixes, words = tokenize_class_prompts(byte_tokenizer(), config_class.defaults()["template"], CLASSES)
        return config_class(clip_config=clip, class_names=CLASSES, prefix_token_ids=prefixes, class_token_ids=words)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.randn(self.batch_size, 3, 32, 32), "modality": "sketch"}


class ModelTests(Applying, ModelTesterMixin):
    _is_composite = True
    test_resize_embeddings = False
    not_for_us = NOT_FOR_MODELS
    kind = ""

    @property
    def all_model_classes(self):
        return (getattr(modeling_splip, modeling_splip.MODELS[self.kind][3]),)

    def setUp(self):
        super().setUp()
        self.model_tester = Inputs(self.kind)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Some tests hand over the pixels alone."""
        return super()._prepare_for_class(inputs_dict, model_class, return_labels) | {"modality": "sketch"}

    def _prepare_config_and_inputs_for_retain_grad_hidden_states_attentions(self):
        """A folded encoder has nothing that trains."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return config, inputs | {"pixel_values": inputs["pixel_values"].requires_grad_()}

    def _image_features_prepare_config_and_inputs(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config.vision_config = config.clip_config.vision_config  # where the test looks for a width
        return config, inputs

    def _text_features_prepare_config_and_inputs(self):
        config = self.model_tester.get_config()
        config.text_config = config.clip_config.text_config
        return config, dict(byte_tokenizer()(["a cup", "a hot air balloon"], padding=True, return_tensors="pt"))


class SplipTest(ModelTests, unittest.TestCase):
    kind = "splip"


class SplipEncoderTest(ModelTests, unittest.TestCase):
    kind = "splip_encoder"
    not_for_us = NOT_FOR_MODELS | NOT_FOR_ENCODER


class ClipAtTest(ModelTests, unittest.TestCase):
    kind = "clip_at"
    not_for_us = NOT_FOR_MODELS | NOT_FOR_CLIP_AT


class CrossAlignTest(ModelTests, unittest.TestCase):
    kind = "cross_align"


class ProcessorTest(Applying, ProcessorTesterMixin, unittest.TestCase):
    processor_class = SplipProcessor
    not_for_us = NOT_FOR_PROCESSOR

    @classmethod
    def _setup_image_processor(cls):
        return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer()


def test_every_model_is_tested_and_every_exception_is_a_test():
    assert {tests.kind for tests in ModelTests.__subclasses__()} == set(modeling_splip.MODELS)
    for name in [*NOT_FOR_MODELS, *NOT_FOR_ENCODER, *NOT_FOR_CLIP_AT, *NOT_FOR_PROCESSOR, *SWITCHED_OFF]:
        assert hasattr(ProcessorTesterMixin if "processor" in name else ModelTesterMixin, name), name
