"""The report holds the records, the tables and the pictures, and replaces no file that is not its own."""

import json

import numpy as np
import pytest

from modeling_splip.commands.main import main
from modeling_splip.evaluation import report, view_pictures
from modeling_splip.evaluation.embedder import Embedder
from modeling_splip.evaluation.evaluate import evaluate_model
from modeling_splip.loading import load_retriever


@pytest.fixture(scope="module")
def evaluations(tiny_clip, polygons):
    embedder = Embedder(*load_retriever(f"clip:{tiny_clip}"), polygons)
    return embedder, evaluate_model(embedder, ["zs", "fg-class", "gzs-sempcyc"], "clip", seed=2)


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn: function -> the arguments of its calls; the pictures are drawn all the same."""
    calls = {}
    for name in ("per_class_bars", "precision_recall_curve", "queries_picture"):
        real = getattr(report, name)

        def spy(*args, real=real, name=name, **options):
            calls.setdefault(name, []).append((args, options))
            return real(*args, **options)

        monkeypatch.setattr(report, name, spy)
    return calls


def test_the_report(evaluations, tmp_path, drawn):
    embedder, done = evaluations
    report.write_report(tmp_path / "report", done, embedder)
    names = {f"{protocol}_{kind}.png" for protocol in ("zs", "fg-class", "gzs-sempcyc") for kind in report.PICTURES}
    names |= {"records.json", "report.md", "precision_recall.png"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert json.loads((tmp_path / "report" / "records.json").read_text()) == [one.record for one in done]
    page = (tmp_path / "report" / "report.md").read_text()
    assert all(f"]({name})" in page for name in names if name.endswith("png"))
    assert f"{100 * done[0].record['metrics']['map_all']:.2f}" in page and "seed: 2" in page
    # Every query of a class counts in its bar; the curve is drawn for the protocols that have one.
    for ((means, *_), options), one in zip(drawn["per_class_bars"], done, strict=True):
        metric = "acc_1" if options["metric"] == "Acc@1" else "map_all"
        sizes = [np.count_nonzero((one.labels == name) & ~np.isnan(one.per_query[metric])) for name in means]
        assert np.average(list(means.values()), weights=sizes) == pytest.approx(one.record["metrics"][metric])
    assert list(drawn["precision_recall_curve"][0][0][0]) == ["zs", "gzs-sempcyc"]


def test_the_worst_queries_are_the_worst(evaluations, tmp_path, drawn):
    embedder, (zs, fine, mixed) = evaluations
    report.write_report(tmp_path / "report", [zs, fine, mixed], embedder)
    for (args, options), one in zip(drawn["queries_picture"], (zs, fine, mixed), strict=True):
        if one is fine:
            badness, note = one.per_query["rank"], "rank {:.0f}"
        else:
            badness, note = 1 - one.per_query["map_all"], "AP {:.1f}"
        chosen = args[2]
        rest = np.delete(badness, chosen)
        assert len(set(chosen)) == report.SHOWN and min(badness[chosen]) >= np.nanmax(rest)
        shown = badness[chosen[0]] if one is fine else 100 * (1 - badness[chosen[0]])
        assert options["notes"][0] == note.format(shown)


def test_pictures_show_the_order_that_was_measured(evaluations, tmp_path, monkeypatch):
    embedder, (zs, fine, _) = evaluations
    shown = []
    monkeypatch.setattr(view_pictures, "retrieval_grid", lambda queries, results, hits, *_, **__: shown.append(hits))
    for one, key in ((zs, "label"), (fine, "instance_id")):
        query, photo = (embedder.dataset.columns[part[0].split][key][part[0].rows] for part in one.view[1:])
        perfect = one._replace(scores=(query[:, None] == photo).astype(float))  # what a perfect reranking gives
        report._grids(tmp_path, perfect, embedder)
    assert all(hits[0] for grid in shown for hits in grid) and len(shown) == 4
    report._grids(tmp_path, zs, embedder)
    assert not all(hits[0] for grid in shown[4:] for hits in grid)


def test_an_earlier_report_is_replaced_and_nothing_else(evaluations, tmp_path):
    embedder, done = evaluations
    folder = tmp_path / "report"
    report.write_report(folder, done, embedder)
    report.check_report(folder)
    report.write_report(folder, done[:1])
    assert {path.name for path in folder.iterdir()} == {
        "records.json",
        "report.md",
        "precision_recall.png",
        "zs_per_class.png",
    }
    (folder / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds other files, such as 'thesis.tex': name a new folder"):
        report.check_report(folder)


def test_embeddings_have_a_report_without_images_and_beside_published_numbers(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.repeat(["bat", "cow"], 6)
    arrays = {"query": rng.standard_normal((12, 4)), "gallery": rng.standard_normal((12, 4))}
    np.savez(tmp_path / "mine.npz", **arrays, query_label=labels, gallery_label=labels)
    words = ["--features", str(tmp_path / "mine.npz"), "--title", "sketchy2", "--report", str(tmp_path / "report")]
    assert main(["evaluate", *words]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report" / "report.md").read_text()
    assert "zs_per_class.png" in page and "worst" not in page
    for text in (printed, page):
        assert "Published numbers beside ours" in text and "SketchFusion" in text and "Not the whole benchmark" in text
