"""Results for the Hub's leaderboards: every number once, and none among those that it cannot be compared with."""

import json

import pytest
import yaml
from method_models import build

from modeling_splip.commands.main import main
from modeling_splip.processing_splip import SplipProcessor
from modeling_splip.sharing.eval_results import render_eval_results

RECORD = {
    "fingerprint": "f" * 16, "method": "splip", "dataset": "mini-fold0", "dataset_version": "1-abc", "split": "unseen",
    "protocol": "zs", "gallery": "unique", "seed": 0, "n_query": 30, "n_gallery": 20, "seen_classes_kept": [],
    "classes_removed": [], "metrics": {"map_all": 0.4321, "p_100": 0.25, "acc_1": None},
}  # fmt: skip


def test_every_number_is_an_entry_of_its_own_task():
    other = RECORD | {"gallery": "archive", "metrics": {"map_all": 0.2}, "seen_classes_kept": ["cup"]}
    entries = yaml.safe_load(render_eval_results("me/model", "someone/sketches", [RECORD, other]))
    found = {entry["dataset"]["task_id"]: entry["value"] for entry in entries}
    assert found == {"zs-unique-map_all": 0.4321, "zs-unique-p_100": 0.25, "zs-archive-map_all": 0.2}
    assert len(entries) == 3 and {entry["dataset"]["id"] for entry in entries} == {"someone/sketches"}
    assert entries[0]["source"] == {"url": "https://huggingface.co/me/model", "name": "Model card"}
    assert entries[0]["notes"] == "splip; mini-fold0 1-abc, seed 0"
    assert entries[2]["notes"].endswith("; not zero-shot, seen in training: cup")
    hub = pytest.importorskip("huggingface_hub._eval_results", reason="this huggingface_hub knows no .eval_results")
    again = hub.eval_result_entries_to_yaml(hub.parse_eval_result_entries(entries))
    assert again == entries


@pytest.mark.parametrize("records", [[], [RECORD, RECORD | {"dataset": "other"}]])
def test_one_dataset_at_a_time(records):
    with pytest.raises(ValueError, match=r"^--benchmark takes the results of one dataset and version, got .+\.$"):
        render_eval_results("me/model", "someone/sketches", records)


def test_push_puts_them_beside_the_model(tiny_clip, tmp_path, capsys):
    model, processor = build("clip_at", {}, tiny_clip), SplipProcessor.from_clip(tiny_clip)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    record = RECORD | {"fingerprint": model.fingerprint(processor)}
    (tmp_path / "zs.json").write_text(json.dumps([record]))
    words = ["push", str(tmp_path / "model"), "me/model", "--full", "--results", str(tmp_path / "zs.json"), "--dry-run"]
    assert main([*words, "--benchmark", "someone/sketches"]) == 0
    assert "  .eval_results/sketches.yaml\n" in capsys.readouterr().out
    assert main(words) == 0
    assert ".eval_results" not in capsys.readouterr().out
    assert main([*words, "--benchmark", "sketches"]) == 2
    assert "--benchmark must be owner/name, got 'sketches'." in capsys.readouterr().err
