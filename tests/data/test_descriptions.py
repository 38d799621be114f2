"""Descriptions: the packaged sentences, what is refused, and `splip describe` with a real server and a real model."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from datasets_scripts.splits import load_classes, load_split, split_names
from datasets_scripts.world.instances import CATEGORY_NAMES
from modeling_splip.commands.describe import INSTRUCTION
from modeling_splip.commands.main import main
from modeling_splip.common.text import plain_words, spelling_key
from modeling_splip.data.descriptions import (
    MAX_WORDS,
    PACKAGED,
    descriptions_of,
    load_descriptions,
    read_descriptions,
    sentence_fault,
)

PROMPTS = ["shape", "parts", "texture", "colour", "surroundings"]


def test_every_class_of_the_benchmarks_and_of_the_world_is_described():
    wanted = set(CATEGORY_NAMES)
    for dataset in ("sketchy", "tuberlin", "quickdraw"):
        wanted |= set(load_classes(dataset).spellings.values())
    for split in map(load_split, split_names()):
        wanted |= {*(split.seen or ()), *split.unseen}
    sentences = descriptions_of(sorted(wanted))
    assert len(wanted) > 300 and all(len(found) == len(PROMPTS) for found in sentences)
    assert set(map(spelling_key, load_descriptions())) == set(map(spelling_key, wanted))  # and nothing else
    assert list(read_descriptions(PACKAGED).prompts) == PROMPTS


def test_no_packaged_sentence_is_another_with_the_noun_changed():
    masked = {}
    for name, sentences in load_descriptions().items():
        for sentence in sentences:
            assert 6 <= len(sentence.split()) <= 20, sentence
            pattern = re.sub(re.escape(plain_words(name)), "#", plain_words(sentence))
            pattern = re.sub(r"\b(an|the)\b", "a", pattern)
            assert masked.setdefault(pattern, name) == name, sentence


def test_the_sentences_of_these_classes_and_no_others_in_their_order():
    zebra, clock = descriptions_of(["Zebra", "alarm_clock"])
    assert zebra == load_descriptions()["zebra"] and clock == load_descriptions()["alarm clock"]


def test_two_unicode_forms_of_an_accent_are_one_class(tmp_path):
    one, two = "caf\u00e9", "cafe\u0301"
    answers = {"shape": f"A {one} is a room.", "colour": f"A {one} is brown."}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document(classes={one: answers})), "utf-8")
    assert descriptions_of([two], path) == descriptions_of([one], path) == [list(answers.values())]
    path.write_text(json.dumps(document(classes={two: answers})), "utf-8")
    assert descriptions_of([one], path) == [list(answers.values())]  # and the sentences name the class


def test_missing_classes_are_named_with_the_nearest_known():
    with pytest.raises(ValueError, match=r"of 'flamigo' \(nearest known: 'flamingo'\), 'qqqq': rename them"):
        descriptions_of(["cat", "flamigo", "qqqq"])


@pytest.mark.parametrize(
    ("sentence", "fault"),
    [
        ("A wine bottle is green.", ""),
        ("Two Wine-Bottles stand here.", ""),
        ("", "is empty"),
        ("A wine bottle " + "very " * MAX_WORDS + "green.", f"has {MAX_WORDS + 4} words, more than {MAX_WORDS}"),
        ("A bottle of wine is green.", "does not name 'wine bottle'"),
        ("A wine bottleneck is green.", "does not name 'wine bottle'"),
        ("A wine bottle is green", "does not end with a full stop"),
        ("A wine bottle is Red.", "repeats another sentence"),
    ],
)
def test_faults_of_a_sentence(sentence, fault):
    assert sentence_fault("wine bottle", sentence, {"a wine bottle is red."}) == fault


def document(**changes):
    """Return a valid file's content about a cup, with two prompts."""
    answers = {"shape": "A cup is round.", "colour": "A cup is white."}
    prompts = {"shape": "What shape is a {class}?", "colour": "What colour is a {class}?"}
    return {"schema": "splip-descriptions-1", "source": "me", "prompts": prompts, "classes": {"cup": answers}} | changes


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "its schema must be 'splip-descriptions-1'"),
        (document(schema="other"), "its schema must be 'splip-descriptions-1'"),
        (document(prompts={"shape": "What shape is it?"}), r"its prompts must be questions about {class}"),
        (document(classes={"cup": ["A cup."]}), "must each hold one sentence for every prompt"),
        (document(classes={"cup": {"shape": "A cup is round."}}), "class 'cup': must answer shape, colour"),
        (document(classes={"cup": dict.fromkeys(("shape", "colour"), "A cup is round.")}), "colour repeats another"),
        (document(classes={"mug": document()["classes"]["cup"]}), "class 'mug': shape does not name 'mug'"),
        (document(classes={"cup": document()["classes"]["cup"], "Cup": {}}), "must each hold"),
        (
            document(classes={"cup": document()["classes"]["cup"], "Cup": {"shape": "A cup.", "colour": "The cup."}}),
            "class 'Cup': is there twice",
        ),
    ],
)
def test_a_faulty_file_is_refused(tmp_path, text, sentence):
    path = tmp_path / "mine.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(ValueError, match=sentence):
        load_descriptions(path)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document()))
    assert descriptions_of(["CUP"], path) == [["A cup is round.", "A cup is white."]]
    with pytest.raises(ValueError, match=f"No description in '{path}' of 'zebra'"):
        descriptions_of(["zebra"], path)
    with pytest.raises(FileNotFoundError, match="There is no descriptions file"):
        load_descriptions(tmp_path / "other.json")


@pytest.fixture
def server(monkeypatch):
    """A chat-completions server: `asked` holds every request, `reply` makes the answer's text (None: status 500)."""
    state = SimpleNamespace(asked=[], reply=None, url="")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append((self.path, request["model"], request["messages"][-1]["content"]))
            text = state.reply(request["messages"][-1]["content"])
            message = {"role": "assistant", "content": text}
            body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
            self.send_response(500 if text is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    # The server is on this machine, and huggingface_hub refuses every request while offline.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{served.server_port}/v1"
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    served.shutdown()
    served.server_close()


def named(text: str) -> str:
    """Return the class that a request asks to name."""
    return re.search("Name the (.*), end", text)[1]


def good(text: str) -> str:
    return f'"The {named(text)} answers: {text[:20]}."\n'


def describe(tmp_path, server, *names):
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n\n")
    arguments = ["--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "out.json"), "--quiet"]
    return main(["describe", *arguments, "--model", "some/model", "--base-url", server.url])


def test_describe_asks_for_what_is_missing_only(tmp_path, server):
    server.reply = good
    assert describe(tmp_path, server, "cup", "hot_dog") == 0
    assert {(path, model) for path, model, _ in server.asked} == {("/v1/chat/completions", "some/model")}
    question = read_descriptions(PACKAGED).prompts["texture"]
    assert server.asked[2][2] == f"{question} {INSTRUCTION}".replace("{class}", "cup")
    found = read_descriptions(tmp_path / "out.json")
    assert found.source == "some/model" and list(found.classes["hot dog"]) == PROMPTS
    assert descriptions_of(["hot dog"], tmp_path / "out.json")[0][0] == "The hot dog answers: What is the overall ."
    data = json.loads((tmp_path / "out.json").read_text())
    data["classes"]["cup"]["parts"] = "Not a word about it."
    (tmp_path / "out.json").write_text(json.dumps(data))
    server.asked.clear()
    assert describe(tmp_path, server, "zebra", "Hot dog") == 0
    assert [named(text) for _, _, text in server.asked] == ["zebra"] * 5 + [
        "cup"
    ] * 5  # cup was faulty, though unlisted
    assert set(load_descriptions(tmp_path / "out.json")) == {"cup", "hot dog", "zebra"}


def test_a_faulty_answer_is_asked_again_with_its_fault(tmp_path, server):
    server.reply = lambda text: good(text) if "Your last answer does not name 'cup': Round." in text else "Round."
    assert describe(tmp_path, server, "cup") == 0
    assert len(server.asked) == 10 and len(load_descriptions(tmp_path / "out.json")["cup"]) == 5


def test_classes_that_stay_faulty_are_named_and_the_others_kept(tmp_path, server, capsys):
    faulty = {"mug": "A mug, unfinished", "owl": "The owl is an owl."}
    server.reply = lambda text: (
        faulty.get(named(text), good(text)) if re.match(".*(colour|Where)", text) else good(text)
    )
    assert describe(tmp_path, server, "mug", "cup", "owl") == 1
    printed = capsys.readouterr()
    assert "  mug: colour does not end with a full stop\n  owl: surroundings repeats another sentence\n" in printed.err
    assert "1 classes described now, 1 in all" in printed.out
    assert len(server.asked) == (3 + 3) + 5 + (4 + 3)  # three tries of the prompt that stays faulty
    assert set(load_descriptions(tmp_path / "out.json")) == {"cup"}


def test_what_is_described_is_kept_when_the_server_fails(tmp_path, server, capsys):
    server.reply = lambda text: None if named(text) == "mug" else good(text)
    assert describe(tmp_path, server, "cup", "mug", "zebra") == 2
    assert capsys.readouterr().err.startswith("splip: 'some/model' did not answer (")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["classes.txt", "out.json"]
    server.reply, done = good, len(server.asked)
    assert describe(tmp_path, server, "cup", "mug", "zebra") == 0
    assert [named(text) for _, _, text in server.asked[done:]] == ["mug"] * 5 + ["zebra"] * 5


@pytest.fixture(scope="module")
def parrot(tmp_path_factory):
    """Folder of a tiny GPT-2 that learnt the packaged answers about a cup by heart."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    prompts = read_descriptions(PACKAGED).prompts.values()
    requests = [f"{prompt} {INSTRUCTION}".replace("{class}", "cup") for prompt in prompts]
    texts = [f"{ask} => {told} </s>" for ask, told in zip(requests, descriptions_of(["cup"])[0], strict=True)]
    words = sorted({word for text in texts for word in text.split()} - {"</s>"})
    model = models.WordLevel({word: i for i, word in enumerate(["</s>", "<unk>", *words])}, unk_token="<unk>")
    fast = Tokenizer(model)
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[-1].content }} => "
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 256}
    off = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
    config = GPT2Config(**sizes, **off, bos_token_id=0, eos_token_id=0)
    gpt = GPT2LMHeadModel(config)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    told = batch["attention_mask"].bool()
    optimizer = torch.optim.Adam(gpt.parameters(), 3e-3)
    for _ in range(150):
        loss = gpt(**batch, labels=batch["input_ids"].masked_fill(~told, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("parrot")
    gpt.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_describe_with_a_local_model(tmp_path, parrot, capsys):
    (tmp_path / "classes.txt").write_text("zebra\ncup\n")
    arguments = ["--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "out.json"), "--quiet"]
    assert main(["describe", *arguments, "--model", str(parrot), "--local"]) == 1
    assert "\n  zebra: shape " in capsys.readouterr().err  # what it has not learnt is babble
    assert load_descriptions(tmp_path / "out.json") == {"cup": load_descriptions()["cup"]}


@pytest.mark.parametrize(
    ("classes", "more", "sentence"),
    [
        ("cup", ["--local"], "'nowhere/model' is no text-generation model"),
        ("cup", ["--local", "--base-url", "http://127.0.0.1:1"], "--local and --base-url exclude each other"),
        ("cup", ["--base-url", "http://127.0.0.1:1"], "offline mode is enabled"),
        ("cup", ["--base-url", "localhost:1"], "--base-url must start with http:// or https://, got 'localhost:1'"),
        ("", [], "names no class"),
        ("cup\nCUP", [], "names 'cup' twice"),
        ("café", [], "is not text in UTF-8: save it in that encoding"),
    ],
)
def test_what_describe_refuses(tmp_path, capsys, classes, more, sentence):
    (tmp_path / "classes.txt").write_text(classes, "latin-1")
    arguments = ["--classes", str(tmp_path / "classes.txt"), "--out", str(tmp_path / "out.json"), "--quiet"]
    assert main(["describe", *arguments, "--model", "nowhere/model", *more]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
