"""One record for each protocol, with the numbers that scikit-learn computes from the same embeddings."""

import dataclasses
import gc
import json
import weakref

import numpy as np
import pytest
from accelerate import Accelerator
from conftest import CLASSES, UNSEEN
from launch import accelerate, run
from sklearn.metrics import average_precision_score

from modeling_splip import SplipModel
from modeling_splip.commands.main import main
from modeling_splip.data.protocols import PROTOCOLS, protocol_view
from modeling_splip.evaluation import view_pictures
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.evaluate import embed_view, evaluate_model, measure
from modeling_splip.loading import load_retriever

FIELDS = "schema method fingerprint dataset dataset_version split protocol gallery seed"
FIELDS += " classes_removed seen_classes_kept n_query n_excluded n_gallery n_classes"


@pytest.fixture(scope="module")
def clip(tiny_clip) -> tuple:
    return load_retriever(f"clip:{tiny_clip}")


@pytest.fixture(scope="module")
def embedder(clip, polygons) -> Embedder:
    return Embedder(*clip, polygons, batch_size=16)


@pytest.fixture(scope="module")
def records(embedder) -> dict[str, dict]:
    return {done.record["protocol"]: done.record for done in evaluate_model(embedder, list(PROTOCOLS), "clip", seed=2)}


def embed(clip, dataset, parts, modality: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embed one image at a time: (N, D), with (N,) labels and instances."""
    model, processor = clip
    rows = [getattr(dataset, part.split)[int(row)] for part in parts for row in part.rows]
    pixels = [processor(images=[row["image"]], modality=modality)["pixel_values"] for row in rows]
    embeddings = np.concatenate([model.encode(one, modality).numpy() for one in pixels])
    return embeddings, np.array([row["label"] for row in rows]), np.array([row["instance_id"] for row in rows])


def test_embeddings_are_those_of_single_images(clip, embedder, polygons):
    view = protocol_view(polygons, "zs")
    alone, _, _ = embed(clip, polygons, view.gallery, "photo")
    batched = embedder(view.gallery, "photo")
    assert batched.dtype == np.float32 and batched.shape == (21, 16)
    np.testing.assert_allclose(batched, alone, atol=1e-6)
    # Each row is embedded once: what is known comes back as it was.
    assert np.array_equal(embedder(view.gallery, "photo"), batched)


def test_bfloat16_where_it_was_asked_for_and_the_record_says_so(clip, embedder, polygons):
    half = Embedder(*clip, polygons, half=True)
    view = protocol_view(polygons, "zs")
    rounded, exact = half(view.gallery, "photo"), embedder(view.gallery, "photo")
    assert rounded.dtype == np.float32 and not np.array_equal(rounded, exact)
    assert np.einsum("nd,nd->n", rounded, exact).min() > 0.999
    [found] = evaluate_model(half, ["zs"], "clip")
    assert found.record["method"] == "clip in bfloat16"


def test_bfloat16_of_an_onnx_file_is_refused(prepared, capsys):
    words = ["--model", "splip.onnx", "--dataset", str(prepared), "--precision", "bf16"]
    assert main(["evaluate", *words]) != 0
    assert "an ONNX file computes as it was exported, so leave it out." in capsys.readouterr().err


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if not name.startswith("fg")])
def test_map_is_scikit_learns(clip, polygons, records, protocol):
    view = protocol_view(polygons, protocol, seed=2)
    query, labels, _ = embed(clip, polygons, view.query, "sketch")
    gallery, photo_labels, _ = embed(clip, polygons, view.gallery, "photo")
    found = np.isin(labels, photo_labels)  # all but a few of the seen sketches that gzs-sempcyc draws
    assert found.all() or protocol == "gzs-sempcyc"
    query, labels = query[found], labels[found]
    scores = query @ gallery.T
    expected = [average_precision_score(photo_labels == own, row) for own, row in zip(labels, scores, strict=True)]
    first = photo_labels[scores.argmax(axis=1)] == labels
    assert records[protocol]["metrics"]["map_all"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert records[protocol]["metrics"]["acc_1"] == pytest.approx(first.mean())
    assert records[protocol]["n_query"] == len(query) and records[protocol]["n_gallery"] == len(gallery)
    assert records[protocol]["n_classes"] >= len(set(labels))


@pytest.mark.parametrize("protocol", ["fg-class", "fg-pooled"])
def test_fine_grained_accuracy_counts_the_own_photo(clip, polygons, records, protocol):
    view = protocol_view(polygons, protocol)
    query, labels, drawn = embed(clip, polygons, view.query, "sketch")
    gallery, photo_labels, photos = embed(clip, polygons, view.gallery, "photo")
    scores = query @ gallery.T
    if protocol == "fg-class":
        scores[labels[:, None] != photo_labels[None]] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = (photos[order] == drawn[:, None]).argmax(axis=1)
    for k in (1, 5, 10):
        assert records[protocol]["metrics"][f"acc_{k}"] == pytest.approx((rank < k).mean())
    assert 0 < records[protocol]["metrics"]["acc_1"] < 1


def test_the_record(records, polygons, clip):
    for protocol, record in records.items():
        assert list(record) == [*FIELDS.split(), "ties", "metrics"]
        assert record["schema"] == "splip-result-1" and record["method"] == "clip" and record["split"] == "unseen"
        assert record["fingerprint"] == clip[0].fingerprint(clip[1])
        assert (record["dataset"], record["dataset_version"]) == ("polygons", polygons.version)
        assert (record["protocol"], record["gallery"], record["seed"]) == (protocol, "unique", 2)
        assert record["classes_removed"] == record["seen_classes_kept"] == []  # frozen CLIP was trained on no dataset
        json.dumps(record)
    assert {
        "map_all",
        "map_200_prefix",
        "map_200_min",
        "map_200_all",
        "p_100",
        "p_200",
        "acc_1",
        "acc_5",
        "acc_10",
    } <= set(records["zs"]["metrics"])
    sizes = {name: (record["n_query"], record["n_gallery"]) for name, record in records.items()}
    assert sizes["zs"] == (38, 21) and sizes["gzs-distractors"] == (38, 57) and sizes["gzs-sempcyc"] == (43, 25)
    assert sizes["gzs-ocean"] == sizes["gzs-drclip"] == (51, 27) and sizes["fg-class"] == sizes["fg-pooled"] == (36, 18)
    # Distractors can only hurt: their classes have no queries.
    assert records["gzs-distractors"]["metrics"]["map_all"] <= records["zs"]["metrics"]["map_all"]


def test_the_archive_gallery_counts_copies(clip, polygons):
    copies = np.ones(21, int)
    copies[[0, 5, 20]] = 3, 0, 2
    gallery = polygons.gallery.remove_columns("copies").add_column("copies", copies.tolist())
    counted = dataclasses.replace(polygons, gallery=gallery)
    embedder = Embedder(*clip, counted)
    unique, archive = (
        evaluate_model(embedder, ["zs"], "clip", gallery=name)[0].record for name in ("unique", "archive")
    )
    assert unique["n_gallery"] == 21 and archive["n_gallery"] == 23
    repeated = dataclasses.replace(polygons, gallery=polygons.gallery.select(np.repeat(np.arange(21), copies)))
    expected = measure(embed_view(Embedder(*clip, repeated), protocol_view(repeated, "zs")))["metrics"]
    assert archive["metrics"] == pytest.approx(expected, abs=1e-9)
    assert archive["metrics"] != unique["metrics"]
    with pytest.raises(ValueError, match="gallery must be one of"):
        embed_view(embedder, protocol_view(counted, "zs"), gallery="twice")


def test_embeddings_are_freed_with_their_embedder(clip, polygons):
    embedder = Embedder(*clip, polygons, Accelerator())
    accelerator, held = embedder.accelerator, weakref.ref(embedder)
    embed_view(embedder, protocol_view(polygons, "zs"))
    del embedder
    gc.collect()
    assert held() is None and accelerator.num_processes == 1  # one accelerator serves every validation of a run


def test_one_process_and_two_give_the_same_numbers(prepared, tiny_clip, tmp_path, records):
    words = ["evaluate", "--model", f"clip:{tiny_clip}", "--dataset", str(prepared), "--seed", "2", "--batch-size", "5"]
    words += ["--protocol", *PROTOCOLS, "--out", str(tmp_path / "two.json"), "--report", str(tmp_path / "report")]
    # The word before the module ends the launcher's own arguments.
    result = run([*accelerate(2), "-m", "modeling_splip", *words], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    two = json.loads((tmp_path / "two.json").read_text())
    assert [record["protocol"] for record in two] == list(PROTOCOLS)
    for record in two:
        one = records[record["protocol"]]
        assert record | {"metrics": None} == one | {"metrics": None}
        assert record["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert result.stdout.count("gzs-sempcyc") == 1  # one process prints, and writes
    assert json.loads((tmp_path / "report" / "records.json").read_text()) == two
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "two.json"]


@pytest.fixture(scope="module")
def trained(tiny_clip, tmp_path_factory) -> str:
    """A model whose seen classes have "hot air balloon" among them, which is unseen in `prepared`."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    SplipModel.from_clip(tiny_clip, CLASSES, conditioning="image").save_pretrained(folder)
    load_retriever(f"clip:{tiny_clip}")[1].save_pretrained(folder)
    return str(folder)


def test_the_command(prepared, trained, tmp_path, capsys):
    words = ["evaluate", "--model", trained, "--dataset", str(prepared), "--protocol", "zs"]
    out, picture = tmp_path / "new" / "zs.json", tmp_path / "new" / "zs.png"
    assert main([*words, "--out", str(out), "--picture", str(picture)]) == 0
    record = json.loads(out.read_text())
    assert record["method"] == "splip" and record["protocol"] == "zs"
    assert f"{100 * record['metrics']['map_all']:.2f}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.parent.iterdir()) == ["zs.json", "zs.png"]
    assert main([*words, "fg-class", "--out", str(out)]) == 0  # several protocols: a list
    assert [record["protocol"] for record in json.loads(out.read_text())] == ["zs", "fg-class"]


def test_classes_seen_in_training_are_removed_or_kept_by_name(prepared, polygons, trained, tmp_path, capsys):
    def evaluated(*words: str) -> dict:
        out = tmp_path / "record.json"
        assert main(["evaluate", "--model", trained, "--dataset", str(prepared), "--out", str(out), *words]) == 0
        return json.loads(out.read_text())

    record = evaluated()
    said = capsys.readouterr().out
    assert "Removed, because the model has seen them in training: hot air balloon (--seen-classes keep" in said
    assert record["classes_removed"] == ["hot air balloon"] and record["seen_classes_kept"] == []
    sizes = "n_query", "n_gallery", "n_classes"
    assert [record[name] for name in sizes] == [12 + 13, 14, 2]
    few = Embedder(*load_retriever(trained), polygons.without(["hot air balloon"]))
    expected = measure(embed_view(few, protocol_view(few.dataset, "zs")))["metrics"]
    assert record["metrics"] == pytest.approx(expected, abs=1e-6)

    kept = evaluated("--seen-classes", "keep")
    assert "Kept, although the model has seen them in training: hot air balloon." in capsys.readouterr().out
    assert kept["classes_removed"] == [] and kept["seen_classes_kept"] == ["hot air balloon"]
    assert [kept[name] for name in sizes] == [38, 21, 3]
    named = evaluated("--remove-classes", "Bell")
    assert named["classes_removed"] == ["bell", "hot air balloon"] and named["n_classes"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--dataset", "nowhere"], "There is no dataset at 'nowhere': prepare the data first"),
        (
            ["--dataset", "some/where"],
            "'some/where' is no local folder and could not be read from the Hub or its cache",
        ),
        (["--model", "runs/nothing/model"], "There is no checkpoint folder 'runs/nothing/model'"),
        (["--model", "{empty}"], "has no config.json: pass a folder that save_pretrained or training wrote."),
        (["--model", "{broken}"], "config.json' is damaged or of no known method"),
        (["--model", "{clip}"], "is a 'clip' model, not one of this package; a plain CLIP"),
        (["--model", "{torn}"], "The weights in '"),
        (["--model", "{homeless}"], "Base CLIP '/no/such/clip' is no local folder and not on the Hub"),
        (["--model", "someone/no-model"], "'someone/no-model' is no local checkpoint folder, and no configuration"),
        (["--model", "clip:someone/no-clip"], "Base CLIP 'someone/no-clip' is no local folder and not on the Hub"),
        (["--out", "{file}/record.json"], "Cannot write the file"),
        (["--picture", "{empty}"], "Cannot write the file"),
        (
            ["--picture", "grid.tiff"],
            "Cannot write the picture 'grid.tiff': give it a name that ends in .png, .jpg, .webp.",
        ),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0."),
        (["--remove-classes", "fisch"], "can be left out, and 'fisch' is none; did you mean 'fish'?"),
        (["--remove-classes", "bell,fish,hot-air balloon"], "Every unseen class of dataset 'polygons' was seen"),
        (["--title", "mine"], "--title goes with --features"),
        (["--report", "{file}/report"], "Cannot write the file"),
        (["--report", "{full}"], "holds other files, such as 'mine.txt'"),
    ],
)
def test_bad_input_gives_one_sentence(words, sentence, prepared, tiny_clip, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "broken", "torn", "homeless", "file", "full")} | {
        "clip": tiny_clip
    }
    for name in ("empty", "broken", "full"):
        places[name].mkdir()
    (places["full"] / "mine.txt").write_text("")
    (places["broken"] / "config.json").write_text("{")
    places["file"].write_text("")
    for name in ("torn", "homeless"):
        SplipModel.from_clip(tiny_clip, CLASSES).save_pretrained(places[name])
    (places["torn"] / "model.safetensors").write_bytes((places["torn"] / "model.safetensors").read_bytes()[:-10])
    config = json.loads((places["homeless"] / "config.json").read_text())
    (places["homeless"] / "config.json").write_text(json.dumps(config | {"base_model": "/no/such/clip"}))
    words = [word.format(**places) for word in words]
    out = tmp_path / "not" / "made" / "record.json"
    defaults = ["evaluate", "--dataset", str(prepared), "--model", f"clip:{tiny_clip}", "--out", str(out)]
    assert main(defaults + words) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("splip: ") and sentence in printed
    assert not out.parent.parent.exists()


def test_swapped_sketches_and_photos_are_doubted(prepared, swapped, tiny_clip, capsys):
    for dataset, count in ((prepared, 0), (swapped, 1)):
        assert main(["evaluate", "--model", f"clip:{tiny_clip}", "--dataset", str(dataset)]) == 0
        assert capsys.readouterr().out.count("are its sketches and photos swapped?") == count


def test_a_processor_that_is_missing(tiny_clip, tmp_path, prepared, capsys):
    SplipModel.from_clip(tiny_clip, CLASSES).save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*processor_config.json"))
    assert main(["evaluate", "--dataset", str(prepared), "--model", str(tmp_path / "model")]) == 2
    assert "holds a model but no processor" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["zs", "fg-class"])
def test_every_unseen_class_is_in_the_picture(embedder, polygons, tmp_path, monkeypatch, protocol):
    shown = []
    draw = view_pictures.retrieval_grid

    def spy(queries, results, hits, path, titles, captions):
        shown.extend(titles)
        assert [len(row) for row in results] == [len(row) for row in hits] == [4] * len(UNSEEN)
        draw(queries, results, hits, path, titles, captions)

    monkeypatch.setattr(view_pictures, "retrieval_grid", spy)
    path = tmp_path / "zs.png"
    view_pictures.retrieval_picture(embedder, protocol_view(polygons, protocol), path, queries=len(UNSEEN), k=4)
    assert sorted(shown) == sorted(UNSEEN) and path.read_bytes().startswith(b"\x89PNG")
