"""Let a language model describe classes, one sentence for each question."""

import argparse
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from huggingface_hub import InferenceClient

# The base of every HTTP error of huggingface_hub: httpx's or httpx2's, by its version.
from huggingface_hub.errors import HTTPError
from tqdm import tqdm
from transformers import pipeline

from ..common.files import check_writable, write_json
from ..common.text import printable, spelling_key
from ..data.descriptions import PACKAGED, Descriptions, read_descriptions, sentence_fault

TRIES = 3
# More than a good answer needs: one that is too long shall be seen as that, not be cut to a good length.
MAX_TOKENS = 96
INSTRUCTION = (
    "Answer in one English sentence of 6 to 20 words. Name the {class}, end with a full stop, and say only what a "
    "photo or a drawing can show."
)

# Text of a request -> text of the answer.
Ask = Callable[[str], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `splip describe`."""
    parser.add_argument("--classes", type=Path, required=True, metavar="FILE", help="class names, one a line")
    parser.add_argument("--model", required=True, help="Hub id of a chat model; with --local a folder, too")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file: new, or one to go on with")
    parser.add_argument("--local", action="store_true", help="run the model here (default: Hub inference)")
    parser.add_argument("--base-url", metavar="URL", help="of another server that speaks the chat-completions protocol")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Describe the classes that are not yet described; name those that are left over, and return 1 if there are any."""
    if args.local and args.base_url:
        raise ValueError("--local and --base-url exclude each other: pass one of them.")
    names = read_classes(args.classes)
    check_writable(args.out)
    descriptions = open_descriptions(args.out, args.model)
    todo = not_described(names, descriptions)
    failures = {}
    if todo:
        ask = local_model(args.model) if args.local else hub_model(args.model, args.base_url)
        for name in tqdm(todo, desc="describe", unit="class", disable=args.quiet):
            fault = describe(name, descriptions, ask)
            if fault:
                failures[name] = fault
            else:
                write_json(args.out, descriptions.to_json())
    print(f"{args.out}: {len(todo) - len(failures)} classes described now, {len(descriptions.classes)} in all")
    if failures:
        print(f"{len(failures)} classes are left over after {TRIES} tries each:", file=sys.stderr)
        for name, fault in failures.items():
            print(f"  {printable(name)}: {printable(fault)}", file=sys.stderr)
        print("Run the same command again to go on, or try another model.", file=sys.stderr)
    return 1 if failures else 0


def read_classes(path: Path) -> list[str]:
    """Return the class names in a file, one a line, `_` read as a space.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it names no class, or one twice, or is not text in UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}': write the class names into it, one a line.")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not text in UTF-8: save it in that encoding.") from error
    lines = [re.sub(r"[\s_]+", " ", line).strip() for line in text.splitlines()]
    names = [line for line in lines if line]
    if not names:
        raise ValueError(f"'{path}' names no class: write the class names into it, one a line.")
    keys = [spelling_key(name) for name in names]
    twice = [name for name, key in zip(names, keys, strict=True) if keys.count(key) > 1]
    if twice:
        raise ValueError(f"'{path}' names '{twice[0]}' twice: name every class once.")
    return names


def open_descriptions(path: Path, model: str) -> Descriptions:
    """Return the descriptions and prompts in the file; where there is none, the packaged prompts alone."""
    if not path.exists():
        return Descriptions(model, read_descriptions(PACKAGED).prompts)
    descriptions = read_descriptions(path)
    if model not in descriptions.source.split(", "):
        descriptions.source += f", {model}"
    return descriptions


def not_described(names: list[str], descriptions: Descriptions) -> list[str]:
    """Remove classes with faults, and return which to describe: the listed ones that are missing, then the removed."""
    faulty = list(descriptions.faults())
    for name in faulty:
        del descriptions.classes[name]
    known = {spelling_key(name) for name in descriptions.classes}
    wanted = {spelling_key(name): name for name in [*names, *faulty]}
    return [name for key, name in wanted.items() if key not in known]


def describe(name: str, descriptions: Descriptions, ask: Ask) -> str:
    """Add a class if all its sentences are good; return what is wrong with the last answer, "" if nothing."""
    others = {sentence.casefold() for answers in descriptions.classes.values() for sentence in answers.values()}
    answers = {}
    for prompt, question in descriptions.prompts.items():
        text = f"{question} {INSTRUCTION}".replace("{class}", name)
        answers[prompt], fault = answer(text, name, ask, others)
        if fault:
            return f"{prompt} {fault}"
        others.add(answers[prompt].casefold())
    descriptions.classes[name] = answers
    return ""


def answer(text: str, name: str, ask: Ask, others: Collection[str]) -> tuple[str, str]:
    """Ask until the sentence has no fault, at most TRIES times; return the last sentence and its fault."""
    request = text
    for _ in range(TRIES):
        sentence = " ".join(ask(request).split()).strip("\"'")
        fault = sentence_fault(name, sentence, others)
        if not fault:
            break
        request = f"{text} Your last answer {fault}: {sentence}"
    return sentence, fault


def hub_model(model: str, base_url: str | None) -> Ask:
    """Return a model that runs at one of the Hub's inference providers, or on the server at `base_url`."""
    if base_url is not None and not re.match(r"https?://\w", base_url):
        raise ValueError(f"--base-url must start with http:// or https://, got '{base_url}'.")
    client = InferenceClient(base_url=base_url, timeout=120)

    def ask(text: str) -> str:
        try:
            reply = client.chat_completion([{"role": "user", "content": text}], model=model, max_tokens=MAX_TOKENS)
        except (HTTPError, OSError) as error:
            raise ConnectionError(
                f"'{model}' did not answer ({error}): run the same command again, what is described is kept."
            ) from error
        return reply.choices[0].message.content or ""

    return ask


def local_model(model: str) -> Ask:
    """Return a model that runs here, always with its most probable words."""
    try:
        generator = pipeline("text-generation", model=model)
    except (OSError, ValueError) as error:
        raise OSError(f"'{model}' is no text-generation model in a folder, the cache or the Hub: {error}") from error
    if generator.tokenizer.chat_template is None:
        raise ValueError(f"'{model}' has no chat template: choose a model that was tuned to follow instructions.")

    def ask(text: str) -> str:
        chat = [{"role": "user", "content": text}]
        return generator(chat, max_new_tokens=MAX_TOKENS, do_sample=False)[0]["generated_text"][-1]["content"]

    return ask
