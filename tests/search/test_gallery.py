"""Opening a gallery: with which model, from where, and what of it is trusted."""

import json
import shutil

import datasets
import galleries
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from galleries import draw

from modeling_splip.loading import load_retriever
from modeling_splip.modeling_splip import SplipModel
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def test_the_table_is_a_dataset(gallery):
    table = datasets.load_dataset(str(gallery.folder), split="train")
    assert len(table) == 24 and table[0]["thumbnail"].size == (40, 30) and table[3]["label"] == "ant"
    assert np.linalg.norm(table[5]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_another_model_is_refused_by_name(gallery, tmp_path, name, monkeypatch):
    with pytest.raises(ValueError, match=f"was built with model '{name}' .* 'clip' is another"):
        Gallery.open(tmp_path / "G", "clip")
    manifest = json.loads((tmp_path / "G" / "manifest.json").read_text())
    (tmp_path / "G" / "manifest.json").write_text(json.dumps({**manifest, "fingerprint": "0" * 16}))
    with pytest.raises(ValueError, match="is another"):  # the checkpoint was trained on since
        Gallery.open(tmp_path / "G").search(draw(100))


def test_a_model_folder_is_found_beside_a_gallery_that_moved(tmp_path, tiny_clip, photos):
    run = tmp_path / "run"
    SplipModel.from_clip(tiny_clip, class_names=["cup", "ant"]).save_pretrained(run / "model", full=True)
    SplipProcessor.from_clip(tiny_clip).save_pretrained(run / "model")
    model, processor = load_retriever(str(run / "model"))
    Gallery.build(photos, model, processor, run / "gallery", model_name=str(run / "model"), progress=False)
    shutil.move(run, tmp_path / "elsewhere")
    assert len(Gallery.open(tmp_path / "elsewhere" / "gallery").search(draw(100), 3)) == 3


def test_a_thumbnail_path_is_never_followed(gallery, tmp_path, pair, photos):
    file = tmp_path / "G" / gallery.manifest["data"] / "photos-00000.parquet"
    table = pq.read_table(file)
    secret = photos / "cup" / "000.png"
    cells = [{"bytes": None, "path": str(secret)}] * len(table)
    column = table.schema.get_field_index("thumbnail")
    pq.write_table(table.set_column(column, "thumbnail", pa.array(cells, table.schema.field(column).type)), file)
    with pytest.raises(ValueError, match="has no thumbnail"):
        _ = Gallery.open(tmp_path / "G", pair).result(0).thumbnail


def test_damaged_galleries_are_refused(gallery, tmp_path, pair):
    manifest = tmp_path / "G" / "manifest.json"
    whole = manifest.read_text()
    for text, sentence in (
        ("{", "is damaged"),
        ("[]", "has schema None"),
        (whole.replace("splip-gallery-1", "splip-gallery-9"), "has schema 'splip-gallery-9'"),
        (whole.replace(gallery.manifest["data"], "../../etc"), "is damaged"),
        (whole.replace('"count": 24', '"count": 25'), "is damaged .24 rows, 25 expected"),
    ):
        manifest.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            Gallery.open(tmp_path / "G", pair)
    manifest.unlink()
    with pytest.raises(FileNotFoundError, match="is no gallery"):
        Gallery.open(tmp_path / "G", pair)
