"""Builds on a Ray cluster of two machines, of which one dies: the gallery is that of an undisturbed build."""

import contextlib
import functools
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import datasets
import galleries
import numpy as np
import pyarrow.parquet as pq
import pytest
from launch import ENVIRONMENT, ROOT

from modeling_splip.commands.main import main
from modeling_splip.loading import load_retriever
from modeling_splip.search.gallery import Gallery
from modeling_splip.search.milvus_gallery import MilvusGallery
from modeling_splip.search.milvus_store import connect

ray = pytest.importorskip("ray", reason="these tests need splip[ray]")

from ray.cluster_utils import Cluster  # noqa: E402
from ray_driver import MODEL, SHARD_ROWS, stuck_pair  # noqa: E402

from modeling_splip.search.scale import ray_encode  # noqa: E402
from modeling_splip.search.scale.ray_build import build_on_ray  # noqa: E402

PACKAGED = ROOT / "datasets_scripts" / "open23" / "photos.parquet"
PATIENCE = 600  # seconds, for a machine that has much else to do

own_cache = galleries.own_cache


def machine(**options: Any) -> dict[str, Any]:
    """What `Cluster.add_node` takes for a small machine. Ray waits 15 seconds for ports that it must find itself."""
    names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port", "metrics_export_port")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in names]
        ports = {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    return {"object_store_memory": 100 * 2**20, **ports, **options}


def start_cluster() -> Cluster:
    """A head that computes nothing, and two machines of one core."""
    soon = {"health_check_period_ms": 500, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 4}
    for tries_left in reversed(range(5)):  # Ray gives a machine 30 seconds to start, which is too few on a busy one
        cluster = Cluster()
        try:
            cluster.add_node(**machine(num_cpus=0, include_dashboard=False, _system_config=soon))
            for _ in range(2):
                cluster.add_node(**machine(num_cpus=1))
            return cluster
        except Exception:
            cluster.shutdown()
            if not tries_left:
                raise


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = start_cluster()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """60 of the packaged photos in a folder for each class, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    rows = datasets.Dataset(pq.read_table(PACKAGED)).cast_column("image", datasets.Image(decode=False))
    for number in range(0, 1080, 18):
        label = rows[number]["label"]
        (folder / label).mkdir(exist_ok=True)
        (folder / label / f"{number:04d}.jpg").write_bytes(rows[number]["image"]["bytes"])
    (folder / "0.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def pair():
    return load_retriever(MODEL)


@pytest.fixture(scope="module")
def undisturbed(cluster, photos, tmp_path_factory) -> Gallery:
    out = tmp_path_factory.mktemp("undisturbed") / "G"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build_on_ray.__kwdefaults__, "shard_rows", SHARD_ROWS)
        assert main(["index", str(photos), "--on", "ray", "--out", str(out), "--workers", "2", "--quiet"]) == 0
    return Gallery.open(out)


def rows(gallery: Gallery) -> list[dict]:
    return gallery._reader.columns(gallery._reader.names).to_pylist()


def without(manifest: dict, *names: str) -> dict:
    return {name: value for name, value in manifest.items() if name not in ("created", "data", *names)}


def test_a_build_on_ray_is_that_of_one_process(undisturbed, photos, pair, tmp_path):
    plain = Gallery.build(photos, *pair, tmp_path / "G", model_name=MODEL, progress=False)
    found, expected = rows(undisturbed), rows(plain)
    vectors = [np.array([row.pop("embedding") for row in each]) for each in (found, expected)]
    assert found == expected and len(found) == 60  # paths, labels, hashes, sizes, thumbnails
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=2**-11)
    assert np.array_equal(vectors[0], vectors[0].astype(np.float16))
    manifests = [
        without(gallery.manifest, "embeddings", "scribbles", "model_beside") for gallery in (undisturbed, plain)
    ]
    assert manifests[0] == manifests[1]
    assert manifests[0]["unreadable"] == [{"path": "0.jpg", "reason": "no image of a known kind"}]
    assert sorted(path.name for path in undisturbed.folder.parent.iterdir()) == ["G"]  # no shard is left


def test_an_update_encodes_what_is_new(undisturbed, cluster, photos, pair, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(undisturbed.folder, tmp_path / "G")
    (gone,) = (tmp_path / "photos").glob("*/0000.jpg")
    gone.rename(gone.with_name("9999.jpg"))
    options = {"model_name": MODEL, "workers": 1, "progress": False}
    report = build_on_ray(str(tmp_path / "photos"), *pair, tmp_path / "G", **options)
    assert (report.count, report.encoded, report.removed) == (60, 1, 1)
    names = [row["path"] for row in rows(Gallery.open(tmp_path / "G"))]
    assert names == sorted(names) and f"{gone.parent.name}/9999.jpg" in names


def test_a_killed_driver_goes_on_from_the_finished_shards(undisturbed, cluster, photos, pair, tmp_path):
    script = [sys.executable, str(ROOT / "tests" / "search" / "scale" / "ray_driver.py")]
    places = [str(photos), str(tmp_path / "G"), str(tmp_path / "note")]
    with subprocess.Popen([*script, cluster.address, *places], env=ENVIRONMENT, stderr=subprocess.PIPE) as driver:
        finished, end = [], time.monotonic() + PATIENCE
        while len(finished) < 2 and driver.poll() is None and time.monotonic() < end:
            finished = list((tmp_path / "G.shards").glob("*/*/*.parquet"))
            time.sleep(0.05)
        assert driver.poll() is None, driver.stderr.read()[-2000:]
        with pytest.raises(OSError, match="Another process is building"):
            build_on_ray(places[0], *pair, places[1])
        driver.send_signal(signal.SIGKILL)
    assert not (tmp_path / "G").exists()
    left = [pq.read_metadata(file).num_rows for file in (tmp_path / "G.shards").glob("*/*/*.parquet")]
    options = {"model_name": MODEL, "workers": 2, "shard_rows": SHARD_ROWS, "progress": False}
    report = build_on_ray(places[0], *pair, places[1], **options)
    assert (report.count, report.encoded) == (60, 60 - sum(left)) and 0 < report.encoded < 60
    gallery = Gallery.open(places[1])
    assert rows(gallery) == rows(undisturbed)
    assert without(gallery.manifest, "model_beside") == without(undisturbed.manifest, "model_beside")


def test_tars_behind_an_address_of_which_one_is_damaged(cluster, photos, pair, tmp_path):
    (tmp_path / "served").mkdir()
    files = sorted(photos.glob("*/*.jpg"))
    for number, part in enumerate((files[:9], files[9:20])):
        with tarfile.open(tmp_path / "served" / f"photos-{number}.tar", "w") as tar:
            for file in part:
                tar.add(file, file.relative_to(photos))
    torn = tmp_path / "served" / "torn.tar"
    torn.write_bytes((tmp_path / "served" / "photos-0.tar").read_bytes()[:2000])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/"
        options = {"model_name": MODEL, "workers": 1, "shard_rows": 4, "progress": False}
        with pytest.raises(
            OSError, match=r"'http:.*/torn\.tar' cannot be read \(.*\): replace or remove it, and run the"
        ):
            build_on_ray(place, *pair, tmp_path / "G", **options)
        torn.unlink()
        build_on_ray(place, *pair, tmp_path / "G", **options)
        server.shutdown()
    found = rows(Gallery.open(tmp_path / "G"))
    names = [file.relative_to(photos).as_posix() for file in files[:20]]
    assert [row["path"] for row in found] == [f"photos-{at >= 9:d}.tar/{name}" for at, name in enumerate(names)]
    assert [row["label"] for row in found] == [file.parent.name for file in files[:20]]
    assert len(list((tmp_path / "G.shards").glob("*/*/*.parquet"))) == 6  # kept for the next update


def test_parquet_into_milvus(cluster, pair, tmp_path, capsys):
    pytest.importorskip("milvus_lite", reason="Milvus' tests need splip[search] and milvus-lite")
    data = datasets.Dataset(pq.read_table(PACKAGED)).select(range(0, 1080, 30))
    data.to_parquet(tmp_path / "photos.parquet", batch_size=12)
    plain = Gallery.build(data, *pair, tmp_path / "plain", model_name=MODEL, progress=False)
    words = ["index", str(tmp_path / "photos.parquet"), "--out", str(tmp_path / "my_photos"), "--workers", "1"]
    words += ["--on", "ray", "--store", "milvus", "--uri", str(tmp_path / "milvus.db"), "--quiet"]
    for sent in (36, 0):
        assert main(words) == 0
        assert f"{sent} photos sent to gallery 'my_photos'" in capsys.readouterr().out
    there = MilvusGallery.open("my_photos", connect(str(tmp_path / "milvus.db")), pair)
    sketch = galleries.draw(100)
    found, expected = there.search(sketch, 36), plain.search(sketch, 36)
    assert sorted(result.row for result in found) == sorted(result.row for result in expected)
    np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], rtol=0, atol=1e-3)
    by_row = {result.row: result for result in expected}
    assert all(result.label == by_row[result.row].label for result in found)
    assert abs(there.confidence(found) - plain.confidence(expected)) <= 0.05
    assert found[0].thumbnail_bytes == by_row[found[0].row].thumbnail_bytes
    assert not (tmp_path / "my_photos").exists() and (tmp_path / "my_photos.shards").is_dir()


def test_a_killed_machine_loses_nothing(undisturbed, cluster, photos, tmp_path, monkeypatch):
    """Last, since the cluster is smaller afterwards."""
    stream, starts, killed, note = ray_encode._stream, [], [], tmp_path / "note"

    def kill():
        while not note.exists() or not note.read_text():
            time.sleep(0.1)
        killed.extend(node for node in cluster.worker_nodes if node.node_id == note.read_text())
        cluster.remove_node(killed[0], allow_graceful=False)

    monkeypatch.setattr(ray_encode, "_stream", lambda *arguments: starts.append(1) or stream(*arguments))
    threading.Thread(target=kill, daemon=True).start()
    options = {"model_name": MODEL, "workers": 2, "shard_rows": SHARD_ROWS, "progress": False}
    report = build_on_ray(str(photos), *stuck_pair(note), tmp_path / "G", **options)
    assert len(killed) == 1 and len(starts) > 1
    assert (report.count, report.encoded) == (60, 60)
    assert rows(Gallery.open(tmp_path / "G")) == rows(undisturbed)
