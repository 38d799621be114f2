"""Galleries whose table was damaged or forged are refused in one sentence, and encoded anew by the next build."""

import json

import galleries
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from galleries import draw, same

from modeling_splip.search import index_cache
from modeling_splip.search.gallery import Gallery

own_cache, name, pair = galleries.own_cache, galleries.name, galleries.pair
photos, gallery = galleries.photos, galleries.gallery


def table_file(gallery):
    return gallery.folder / gallery.manifest["data"] / "photos-00000.parquet"


def with_embeddings(gallery, change) -> None:
    """Replace the stored embeddings and, as whoever forges a gallery can, their hash in the manifest."""
    table = pq.read_table(table_file(gallery))
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    vectors = change(vectors)
    column = table.schema.get_field_index("embedding")
    kind = table.schema.field(column).type
    pq.write_table(table.set_column(column, "embedding", pa.array(list(vectors), kind)), table_file(gallery))
    set_manifest(gallery, embeddings=index_cache.embeddings_hash(vectors))


def set_manifest(gallery, **values) -> None:
    path = gallery.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def put(row: int, value):
    def change(vectors):
        vectors[row] = value
        return vectors

    return change


@pytest.mark.parametrize(
    "change", [put(3, np.nan), put(0, np.inf), put(23, 0), lambda vectors: 3 * vectors], ids=["nan", "inf", "0", "3"]
)
def test_embeddings_without_unit_norm_are_refused(change, gallery, photos, pair, name):
    wanted = gallery.search(draw(100), 5)
    with_embeddings(gallery, change)
    with pytest.raises(ValueError, match=r"is damaged \(the embedding of photo \d+ is no vector of unit norm\)"):
        Gallery.open(gallery.folder, pair)
    # What the message advises helps: the damaged rows are not taken over.
    again = Gallery.build(photos, *pair, gallery.folder, model_name=name, progress=False)
    assert same(again.search(draw(100), 5), wanted)


def test_an_update_does_not_take_over_rows_that_are_not_those_of_the_manifest(gallery, photos, pair, name):
    wanted = gallery.search(draw(100), 5)
    digest = gallery.manifest["embeddings"]
    with_embeddings(gallery, lambda vectors: np.roll(vectors, 1, axis=0))
    set_manifest(gallery, embeddings=digest)
    again = Gallery.build(photos, *pair, gallery.folder, model_name=name, progress=False)
    assert same(again.search(draw(100), 5), wanted)


@pytest.mark.parametrize("column", ["embedding", "path", "label", "thumbnail", "mtime_ns"])
def test_a_column_that_lacks_is_named(column, gallery, photos, pair, name):
    pq.write_table(pq.read_table(table_file(gallery)).drop_columns([column]), table_file(gallery))
    with pytest.raises(ValueError, match=rf"is damaged \(column '{column}' is missing\): build it again"):
        Gallery.open(gallery.folder, pair)
    assert len(Gallery.build(photos, *pair, gallery.folder, model_name=name, progress=False)) == 24


@pytest.mark.parametrize(
    ("column", "values"), [("path", range(24)), ("thumbnail", ["x"] * 24), ("embedding", [1] * 24)]
)
def test_a_column_of_another_type_is_named(column, values, gallery, pair):
    table = pq.read_table(table_file(gallery))
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array(list(values))), table_file(gallery))
    with pytest.raises(ValueError, match=rf"is damaged \(column '{column}' is of type .*, expected "):
        Gallery.open(gallery.folder, pair)


def test_embeddings_of_another_width_or_that_lack_are_refused(gallery, pair):
    set_manifest(gallery, dim=8, scribbles=None)
    with pytest.raises(ValueError, match=r"is damaged \(column 'embedding' is of type"):
        Gallery.open(gallery.folder, pair)
    set_manifest(gallery, dim=16)
    table = pq.read_table(table_file(gallery))
    place = table.schema.get_field_index("embedding")
    cells = [None, *table["embedding"].to_pylist()[1:]]
    kind = table.schema.field(place).type
    pq.write_table(table.set_column(place, "embedding", pa.array(cells, kind)), table_file(gallery))
    with pytest.raises(ValueError, match=r"is damaged \(.*embedding"):
        Gallery.open(gallery.folder, pair)


def test_text_that_is_no_utf8_is_refused(gallery, pair):
    table = pq.read_table(table_file(gallery))
    place = table.schema.get_field_index("label")
    cells = pa.array([b"\xff\xfe", *[b"cup"] * 23], pa.binary()).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 24, cells.buffers())
    pq.write_table(table.set_column(place, "label", text), table_file(gallery))
    with pytest.raises(ValueError, match=r"is damaged \(.*UTF8.*build it again with `splip index"):
        Gallery.open(gallery.folder, pair)


def answers(folder, pair) -> list[tuple]:
    found = Gallery.open(folder, pair).search(draw(100), 24)
    return [(each.path, each.label, each.score, each.thumbnail) for each in found]


@pytest.mark.parametrize("seed", range(6))
def test_no_changed_byte_gives_another_result(seed, gallery, pair):
    """Compressed text, thumbnails and numbers: where one byte is another, it is refused or makes no difference."""
    expected, original = answers(gallery.folder, pair), table_file(gallery).read_bytes()
    for at in np.random.default_rng(seed).integers(4, len(original), 12).tolist():
        data = bytearray(original)
        data[at] ^= 0x21
        table_file(gallery).write_bytes(data)
        try:
            found = answers(gallery.folder, pair)
        except ValueError as error:
            assert "build it again with `splip index PHOTOS --out" in str(error)
        else:
            assert found == expected, at


@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_bytes_that_were_overwritten_never_end_in_a_traceback(where, gallery, pair):
    data = bytearray(table_file(gallery).read_bytes())
    at = int(where * len(data))
    data[at : at + 40] = bytes(range(1, 41))
    table_file(gallery).write_bytes(data)
    try:
        found = Gallery.open(gallery.folder, pair)
        assert all(result.thumbnail is not None for result in found.search(draw(100), 24))
    except ValueError as error:
        assert "build it again with `splip index PHOTOS --out" in str(error)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "\ufeff{}"], ids=["deep", "deeper", "list", "null", "bom"]
)
def test_a_manifest_of_another_form_is_refused(text, gallery, pair):
    (gallery.folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json' (is damaged|has schema)"):
        Gallery.open(gallery.folder, pair)


@pytest.mark.parametrize(
    "values", [{"model_beside": 5}, {"dim": True}, {"dim": 0}, {"count": -1}, {"index": {"kind": ["exact"]}}]
)
def test_a_field_of_another_type_is_refused(values, gallery, pair):
    set_manifest(gallery, **values)
    with pytest.raises(ValueError, match=r"is damaged"):
        Gallery.open(gallery.folder, pair)
