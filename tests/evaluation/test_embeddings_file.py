"""Embeddings in a file give the numbers that the model which made them gives on the dataset."""

import json
import zipfile

import numpy as np
import pytest

from modeling_splip.commands.main import main
from modeling_splip.data.protocols import protocol_view
from modeling_splip.evaluation import embeddings_file
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.embeddings_file import load_arrays
from modeling_splip.evaluation.evaluate import evaluate_model
from modeling_splip.loading import load_retriever

CATEGORY = ["zs", "gzs-distractors"]
FINE = ["fg-class", "fg-pooled"]


@pytest.fixture(scope="module")
def embedder(tiny_clip, polygons) -> Embedder:
    return Embedder(*load_retriever(f"clip:{tiny_clip}"), polygons)


@pytest.fixture(scope="module")
def arrays(embedder) -> dict[str, np.ndarray]:
    """What a user would save of `polygons`: everything unseen, not normalised, instances as they are known."""
    dataset, view = embedder.dataset, protocol_view(embedder.dataset, "zs")
    made = {}
    for side, modality, part in (("query", "sketch", view.query), ("gallery", "photo", view.gallery)):
        columns = dataset.columns[side]
        made[side] = 7 * embedder(part, modality)
        made[f"{side}_label"] = np.array(dataset.class_names)[columns["label"]]
        made[f"{side}_instance"] = columns["instance_id"]
    return made


def measured(folder, arrays, *words) -> list[dict]:
    np.savez(folder / "mine.npz", **arrays)
    out = folder / "out.json"
    assert main(["evaluate", "--features", str(folder / "mine.npz"), "--out", str(out), *words]) == 0
    records = json.loads(out.read_text())
    return records if isinstance(records, list) else [records]


def test_embeddings_give_the_models_numbers(embedder, arrays, tmp_path):
    protocols = ["zs", *FINE]
    expected = [done.record for done in evaluate_model(embedder, protocols, "clip")]
    for ours, theirs in zip(measured(tmp_path, arrays, "--protocol", *protocols), expected, strict=True):
        assert list(ours) == list(theirs)
        assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-6)
        for name in ("schema", "protocol", "n_query", "n_excluded", "n_gallery", "n_classes", "ties"):
            assert ours[name] == theirs[name]
        assert (ours["method"], ours["dataset"], ours["split"], ours["seed"]) == ("mine", "mine", "given", None)
        assert ours["classes_removed"] == [] and ours["seen_classes_kept"] is None


def test_a_generalised_protocol_takes_the_arrays_as_they_are(arrays, tmp_path):
    arrays = {name: values for name, values in arrays.items() if "instance" not in name}
    zs, gzs = measured(tmp_path, arrays, "--protocol", *CATEGORY)
    assert gzs == zs | {"protocol": "gzs-distractors"}
    # Seen sketches and photos drawn apart: a query without a photo is left out and counted, under this protocol only.
    lonely = {name: values[arrays["gallery_label"] != "bell"] for name, values in arrays.items() if "gallery" in name}
    (record,) = measured(tmp_path, arrays | lonely, "--protocol", "gzs-sempcyc")
    assert (record["n_query"], record["n_excluded"]) == (26, 12)


def test_types_of_labels_and_embeddings(arrays, tmp_path):
    plain = measured(tmp_path, arrays, "--protocol", *FINE, "zs")
    numbers = np.unique(arrays["gallery_label"])
    coded = {name: np.searchsorted(numbers, values) for name, values in arrays.items() if "label" in name}
    for record, same in zip(plain, measured(tmp_path, arrays | coded, "--protocol", *FINE, "zs"), strict=True):
        assert same["metrics"] == record["metrics"]
    # Ids that are numbered within each class: the same number in another class is another photo.
    within = {name: [value[-1:] for value in values] for name, values in arrays.items() if "instance" in name}
    for record, same in zip(plain, measured(tmp_path, arrays | within, "--protocol", *FINE, "zs"), strict=True):
        assert same["metrics"] == record["metrics"]
    half = {name: arrays[name].astype(np.float16) for name in ("query", "gallery")}
    for record, near in zip(plain, measured(tmp_path, arrays | half, "--protocol", *FINE, "zs"), strict=True):
        assert near["metrics"] == pytest.approx(record["metrics"], abs=0.05)


def test_the_fingerprint_is_of_the_embeddings_and_the_version_of_the_labels(arrays, tmp_path):
    (first,), (again,) = measured(tmp_path, arrays, "--title", "polygons"), measured(tmp_path, arrays)
    assert first["dataset"] == "polygons" and first | {"dataset": "mine"} == again
    other = arrays["query"].copy()
    other[3, 2] += 0.5
    (moved,) = measured(tmp_path, arrays | {"query": other})
    assert moved["fingerprint"] != first["fingerprint"] and moved["dataset_version"] == first["dataset_version"]
    (renamed,) = measured(tmp_path, arrays | {"query_label": arrays["query_label"][::-1]})
    assert renamed["fingerprint"] != first["fingerprint"] and renamed["dataset_version"] != first["dataset_version"]


def drop(name):
    return lambda arrays: {key: values for key, values in arrays.items() if key != name}


def change(**values):
    return lambda arrays: arrays | {name: make(arrays[name]) for name, make in values.items()}


def poisoned(array):
    array = array.copy()
    array[4, 1] = np.nan
    return array


@pytest.mark.parametrize(
    ("damage", "words", "sentence"),
    [
        (drop("gallery_label"), [], "lacks gallery_label; it holds query, query_label, query_instance, gallery,"),
        (drop("query_instance"), [], "has only one of query_instance and gallery_instance"),
        (change(query=lambda a: a[0]), [], "query has shape (16,): expected embeddings (rows, dimensions)"),
        (change(query=lambda a: a[:, :8]), [], "query has 8 dimensions and gallery 16"),
        (change(query=poisoned), [], "query holds NaN or infinite values, first in row 4"),
        (change(gallery=lambda a: a * [[i != 2] for i in range(21)]), [], "gallery has 1 zero rows"),
        (change(gallery=lambda a: a.astype(str)), [], "gallery holds <U32 values: expected real numbers"),
        (change(query=lambda a: a[:0]), [], "query has shape (0, 16)"),
        (change(query_label=lambda a: a[:-1]), [], "query_label has 37 entries for 38 rows of query"),
        (change(query_label=lambda a: a[:, None]), [], "query_label has shape (38, 1)"),
        (
            change(query_label=lambda a: np.arange(38)),
            [],
            "query_label and gallery_label must both be integers or both",
        ),
        (change(query_label=lambda a: a.astype(object)), [], "holds Python objects, which are never unpickled"),
        (change(query_label=lambda a: np.char.replace(a, "fish", "cod")), [], "13 of 38 queries in"),
        (change(query_label=lambda a: np.char.replace(a, "fish", "cod")), [], "because gallery_label lacks 'cod'"),
        (lambda a: drop("query_instance")(drop("gallery_instance")(a)), ["--protocol", "fg-class"], "'fg-class' needs"),
        (change(query_instance=lambda a: np.char.add(a, "x")), ["--protocol", "fg-pooled"], "No sketch in"),
        (dict, ["--model", "clip"], "--model goes with --dataset"),
        (dict, ["--gallery", "unique"], "--gallery goes with --dataset"),
        (dict, ["--seen-classes", "keep"], "--seen-classes goes with --dataset"),
        (dict, ["--picture", "a.png"], "--picture goes with --dataset"),
    ],
)
def test_bad_arrays_give_one_sentence(arrays, damage, words, sentence, tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", **damage(arrays))
    out = tmp_path / "out.json"
    assert main(["evaluate", "--features", str(tmp_path / "mine.npz"), "--out", str(out), *words]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1 and printed[0].startswith("splip: ") and sentence in printed[0]
    assert not out.exists()


@pytest.mark.parametrize("kind", ["nothing", "text", "single", "torn", "flipped"])
def test_files_that_are_no_archive_of_arrays(arrays, kind, tmp_path, capsys):
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, **arrays)
    content = file.read_bytes()
    if kind == "nothing":
        file.unlink()
    elif kind == "text":
        file.write_text("not arrays")
    elif kind == "single":
        with file.open("wb") as opened:
            np.save(opened, arrays["query"])
    elif kind == "torn":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    assert main(["evaluate", "--features", str(file)]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    sentences = {"nothing": "There is no file", "flipped": "is damaged, or holds Python objects"}
    assert len(printed) == 1 and sentences.get(kind, "is no .npz file, or only a part of one") in printed[0]


@pytest.mark.parametrize("words", [[], ["--features", "a.npz", "--dataset", "b"]])
def test_a_dataset_or_features_but_not_both(words):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *words])
    assert stopped.value.code == 2


def test_archives_that_cannot_or_must_not_be_unpacked_are_one_sentence(tmp_path, monkeypatch):
    """Encrypted, of unknown compression, an array of absurd shape, a header that nests, and a bomb."""
    file = tmp_path / "x.npz"
    np.savez(file, query=np.eye(4, dtype=np.float32))
    whole = file.read_bytes()

    def changed(at: int, value: int) -> bytes:
        """Return the archive with a field changed in the entry's two headers."""
        data = bytearray(whole)
        for mark, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
            data[data.index(mark) + offset] = value
        return bytes(data)

    def archive(header: bytes) -> bytes:
        content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr("query.npy", content)
        return file.read_bytes()

    vast = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 512)}\n"
    for content in (changed(6, 1), changed(8, 99), archive(vast), archive(b"(" * 9000), archive(b"{'descr': [[], 3]}")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^'{file}' is damaged, or holds Python objects.*dtype str\.$"):
            load_arrays(file)
    monkeypatch.setattr(embeddings_file, "_memory", lambda: 2_000_000)
    np.savez_compressed(file, query=np.zeros((1000, 251), np.float32))
    assert file.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"unpacks to 1,004,128 bytes, more than half of this machine's memory"):
        load_arrays(file)
