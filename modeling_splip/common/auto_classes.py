"""Tells transformers' Auto classes about the package's models, and imports neither before a model is looked up."""

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto"


def register_when_used(package: str, models: Mapping[str, tuple[str, str]], processor: str) -> None:
    """Make `AutoConfig`, `AutoModel` and `AutoProcessor` know a package's models, now or once transformers is imported.

    The models cannot be imported as soon as the Auto classes are: transformers imports these early, while it cannot be
    used yet. So each of transformers' three tables of registered classes is replaced by a `_Waiting`, which imports the
    models when somebody first looks into the table.

    Args:
        package: the package that has the classes as attributes.
        models: model type -> names of the configuration class and the model class.
        processor: name of the processor class of all models.
    """
    get = functools.partial(getattr, sys.modules[package])
    configs = {kind: config for kind, (config, _) in models.items()}
    tables: dict[tuple[str, str], Callable[[], dict]] = {
        ("configuration_auto", "CONFIG_MAPPING"): lambda: {kind: get(name) for kind, name in configs.items()},
        ("modeling_auto", "MODEL_MAPPING"): lambda: {get(config): get(model) for config, model in models.values()},
        ("processing_auto", "PROCESSOR_MAPPING"): lambda: {get(name): get(processor) for name in configs.values()},
    }
    for (module, table), classes in tables.items():
        after_import(f"{_AUTO}.{module}", functools.partial(_extend, table=table, classes=classes))


def _extend(module: ModuleType, table: str, classes: Callable[[], dict]) -> None:
    mapping = getattr(module, table)
    mapping._extra_content = _Waiting(mapping, classes)


class _Waiting(MutableMapping):
    """What is registered in one of transformers' tables. The first look at it adds ours and becomes a dict."""

    def __init__(self, table: Any, classes: Callable[[], dict]):
        self._table, self._classes = table, classes
        self._registered = dict(table._extra_content)
        self._importing = False
        self._lock = threading.RLock()

    def _content(self) -> dict:
        with self._lock:
            # The imports may look at the table themselves.
            if self._table._extra_content is self and not self._importing:
                self._importing = True
                try:
                    self._registered |= self._classes()
                    self._table._extra_content = self._registered
                finally:
                    self._importing = False
        return self._registered

    def __getitem__(self, key: Any) -> Any:
        return self._content()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._registered[key] = value  # somebody else registers a class: nothing to import for that

    def __delitem__(self, key: Any) -> None:
        del self._content()[key]

    def __iter__(self) -> Iterator:
        return iter(self._content())

    def __len__(self) -> int:
        return len(self._content())


def after_import(name: str, call: Callable[[ModuleType], None]) -> None:
    """Call `call(module)` once a module has been imported: now if it has, else right after its import."""
    with _FINDER.lock:  # never held during an import
        imported = name in sys.modules
        if not imported:
            _FINDER.calls[name] = call
            if _FINDER not in sys.meta_path:
                sys.meta_path.insert(0, _FINDER)
    if imported:
        call(importlib.import_module(name))  # waits if another thread is still importing it


class _AfterImport(MetaPathFinder):
    """Finds a module as it would be found without it, and adds a call at the end of its import; then steps aside."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[ModuleType], None]] = {}
        self.lock = threading.Lock()

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.calls:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_call(module: ModuleType) -> None:
            run(module)
            with self.lock:
                call = self.calls.pop(name, None)
                if not self.calls and self in sys.meta_path:
                    sys.meta_path.remove(self)
            if call is not None:
                call(module)

        spec.loader.exec_module = run_and_call  # type: ignore[method-assign]
        return spec


_FINDER = _AfterImport()
