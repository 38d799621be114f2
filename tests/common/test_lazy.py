"""Public names that are imported when they are first used."""

import sys

import pytest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one lazy name, whose file counts its imports, and one of a file that is not there."""
    folder = tmp_path / "lazy_example"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from modeling_splip.common.lazy import lazy_names\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'Thing': 'inner', 'Gone': 'missing'})\n"
    )
    (folder / "inner.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import lazy_example

    yield lazy_example
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazy_example"]:
        del sys.modules[name]


def test_a_name_is_imported_at_its_first_use_and_kept(package):
    assert "lazy_example.inner" not in sys.modules and "Thing" in dir(package)
    from lazy_example import Thing

    assert sys.modules["lazy_example.inner"].Thing is Thing and vars(package)["Thing"] is Thing


def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="module 'lazy_example' has no attribute 'Nothing'"):
        _ = package.Nothing
    with pytest.raises(ModuleNotFoundError, match=r"lazy_example\.missing"):
        _ = package.Gone
