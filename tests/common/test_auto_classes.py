"""transformers' Auto classes know the models, whichever is imported first, and nothing heavy is imported before."""

import importlib
import sys
import threading
import types

import pytest
from golden_files import GOLDEN
from launch import run

import modeling_splip
from modeling_splip.common import auto_classes

HEAVY = """
import sys
import modeling_splip
heavy = {"torch", "transformers", "numpy", "PIL", "datasets", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
assert "SplipModel" in dir(modeling_splip)
"""
# What a user may write first: the package, or one of transformers' names, in any order.
ORDERS = {
    "package first": "import modeling_splip\nfrom transformers import AutoConfig, AutoModel, AutoProcessor",
    "package last": "from transformers import AutoConfig, AutoModel, AutoProcessor\nimport modeling_splip",
    "transformers, package, Auto classes": (
        "import transformers\nimport modeling_splip\nfrom transformers import AutoConfig, AutoModel, AutoProcessor"
    ),
    "a CLIP between": (
        "import modeling_splip\nfrom transformers import CLIPConfig, CLIPModel\n"
        "from transformers import AutoConfig, AutoModel, AutoProcessor"
    ),
    "a model's file first": (
        "import modeling_splip.modeling_clip_at\nfrom transformers import AutoConfig, AutoModel, AutoProcessor"
    ),
}
ALONE = {
    "AutoConfig": "type(AutoConfig.from_pretrained(model)).__name__ == 'SplipConfig'",
    "AutoModel": "type(AutoModel.from_pretrained(model, base_model=base)).__name__ == 'SplipModel'",
    "AutoProcessor": "type(AutoProcessor.from_pretrained(model)).__name__ == 'SplipProcessor'",
}
PLACES = f"model, base = {str(GOLDEN / 'splip')!r}, {str(GOLDEN / 'base')!r}\n"
REMOVED = """
import sys
from modeling_splip.common.auto_classes import _FINDER
assert _FINDER not in sys.meta_path
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
assert type(CONFIG_MAPPING._extra_content) is dict
"""


def python(code: str, tmp_path) -> None:
    result = run([sys.executable, "-c", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    python(HEAVY, tmp_path)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_order_of_imports_does_not_matter(order, tmp_path):
    checks = "".join(f"assert {check}\n" for check in ALONE.values())
    python(f"{order}\n{PLACES}{checks}{REMOVED}", tmp_path)


@pytest.mark.parametrize("name", ALONE)
def test_each_auto_class_alone(name, tmp_path):
    python(f"import modeling_splip\nfrom transformers import {name}\n{PLACES}assert {ALONE[name]}\n", tmp_path)


def test_a_configuration_that_is_made_by_hand(tmp_path):
    code = (
        "from modeling_splip.configuration_clip_at import ClipAtConfig\nfrom transformers import AutoModel\n"
        "import torch\nwith torch.device('meta'):\n"
        "    assert type(AutoModel.from_config(ClipAtConfig())).__name__ == 'ClipAtModel'\n"
    )
    python(code, tmp_path)


def test_threads_that_look_at_once(tmp_path):
    """After the imports: two threads that import transformers at once fail without this package too."""
    code = f"""
import sys, threading
sys.setswitchinterval(1e-5)
{ORDERS["package first"]}
failed = []
{PLACES}
def work(check):
    try:
        assert eval(check, dict(globals(), **locals()))
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=work, args=(check,)) for check in {list(ALONE.values()) * 2}]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
assert not failed and not any(thread.is_alive() for thread in threads), failed
{REMOVED}
"""
    python(code, tmp_path)


def test_the_table_names_every_model_once():
    import transformers

    for kind, (config_file, config, model_file, model) in modeling_splip.MODELS.items():
        config_class = getattr(importlib.import_module(f"modeling_splip.{config_file}"), config)
        model_class = getattr(importlib.import_module(f"modeling_splip.{model_file}"), model)
        assert config_class.model_type == kind and model_class.config_class is config_class
        assert transformers.CONFIG_MAPPING[kind] is config_class
        assert transformers.MODEL_MAPPING[config_class] is model_class
        assert {config, model} <= set(modeling_splip.__all__)


class Table:
    """As transformers' tables: what is registered stands in `_extra_content`."""

    def __init__(self):
        self._extra_content = {"theirs": int}


def waiting(classes) -> tuple[Table, list]:
    table, calls = Table(), []
    module = types.SimpleNamespace(TABLE=table)

    def import_them():
        calls.append(1)
        return classes(table)

    auto_classes._extend(module, "TABLE", import_them)
    return table, calls


def test_the_first_look_imports_and_registering_does_not():
    table, calls = waiting(lambda table: {"ours": str})
    table._extra_content["more"] = float
    assert not calls
    assert "ours" in table._extra_content and calls == [1]
    assert table._extra_content == {"theirs": int, "more": float, "ours": str} and type(table._extra_content) is dict


def test_a_look_during_the_import_sees_what_was_there():
    table, calls = waiting(lambda table: {"ours": str} if "theirs" in table._extra_content else {})
    assert list(table._extra_content.items()) == [("theirs", int), ("ours", str)] and calls == [1]


def test_an_import_that_fails_is_tried_again():
    def fails_once(table):
        if len(calls) == 1:
            raise ImportError("not now")
        return {"ours": str}

    table, calls = waiting(fails_once)
    with pytest.raises(ImportError, match="not now"):
        _ = "ours" in table._extra_content
    assert "ours" in table._extra_content


@pytest.fixture
def module_file(tmp_path, monkeypatch):
    name = "imported_later"
    (tmp_path / f"{name}.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)
    auto_classes._FINDER.calls.pop(name, None)


def test_a_call_after_an_import(module_file):
    calls = []
    auto_classes.after_import(module_file, lambda module: calls.append(module.value))
    assert sys.meta_path[0] is auto_classes._FINDER and not calls
    importlib.import_module(module_file)
    assert calls == [1] and auto_classes._FINDER not in sys.meta_path
    auto_classes.after_import(module_file, lambda module: calls.append(module.value + 1))
    assert calls == [1, 2] and auto_classes._FINDER not in sys.meta_path


def test_a_module_that_is_not_there_stays_unknown():
    calls = []
    auto_classes.after_import("no_such_module_anywhere", calls.append)
    try:
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            importlib.import_module("no_such_module_anywhere")
        assert not calls
    finally:
        auto_classes._FINDER.calls.clear()
        sys.meta_path.remove(auto_classes._FINDER)


def test_many_threads_import_one_module(module_file):
    calls = []
    auto_classes.after_import(module_file, lambda module: calls.append(module.value))
    threads = [threading.Thread(target=importlib.import_module, args=(module_file,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
